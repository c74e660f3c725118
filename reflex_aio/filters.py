"""Event filters made of others, and of what an event's metadata says."""

from collections.abc import Callable
from typing import TypeVar

from reflex_aio.consumer import EventFilter, check_filter
from reflex_aio.errors import MetadataError
from reflex_aio.event import Event

__all__ = ["all_of", "any_of", "by_metadata"]

Data = TypeVar("Data")


def all_of(*filters: EventFilter) -> EventFilter:
    """Return a filter that lets an event through if each of ``filters`` does; without any, all events.

    They are asked in order until one doesn't, or raises: that is raised then.

    :raises TypeError: if a filter isn't a plain function
    """
    _check(filters)

    def wants(event: Event) -> bool:
        return all(wanted(event) for wanted in filters)

    return wants


def any_of(*filters: EventFilter) -> EventFilter:
    """Return a filter that lets an event through if one of ``filters`` does; without any, no event.

    They are asked in order until one does. What a filter raises counts only if none does: the last of these
    errors is raised then.

    :raises TypeError: if a filter isn't a plain function
    """
    _check(filters)

    def wants(event: Event) -> bool:
        error: Exception | None = None
        for wanted in filters:
            try:
                if wanted(event):
                    return True
            except Exception as exc:
                error = exc
        if error is not None:
            raise error
        return False

    return wants


def by_metadata(decode: Callable[[bytes], Data], predicate: Callable[[Data], bool]) -> EventFilter:
    """Return a filter that lets an event through if ``predicate`` is true of its decoded metadata.

    What ``decode`` raises becomes a :class:`~reflex_aio.errors.MetadataError`; what ``predicate`` raises passes
    through. So the two can be told apart by the cause of the consumer's :class:`~reflex_aio.errors.FilterError`.

    :param decode: makes something of the metadata; that of an event without any is ``b""``
    :raises TypeError: if an argument isn't a plain function
    """
    check_filter("decode", decode)
    check_filter("predicate", predicate)

    def wants(event: Event) -> bool:
        try:
            data = decode(event.metadata or b"")
        except Exception as exc:
            raise MetadataError(event_id=event.id) from exc
        return predicate(data)

    return wants


def _check(filters: tuple[EventFilter, ...]) -> None:
    for each in filters:
        check_filter("filter", each)
