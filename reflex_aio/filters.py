"""Event filters that combine others, or decode an event's metadata."""

from collections.abc import Callable
from typing import TypeVar

from reflex_aio.consumer import EventFilter, check_filter
from reflex_aio.errors import MetadataError
from reflex_aio.event import Event

__all__ = ["all_of", "any_of", "by_metadata"]

Data = TypeVar("Data")


def all_of(*filters: EventFilter) -> EventFilter:
    """Return a filter that accepts an event if each of ``filters`` does; without filters, every event.

    They are called in order until one rejects the event or raises. Its exception is raised.

    :raises TypeError: if a filter is not a plain function
    """
    _check(filters)

    def accepts(event: Event) -> bool:
        return all(accepted(event) for accepted in filters)

    return accepts


def any_of(*filters: EventFilter) -> EventFilter:
    """Return a filter that accepts an event if any of ``filters`` does; without filters, no event.

    They are called in order until one accepts the event. If none does, the last exception that a filter raised is
    raised.

    :raises TypeError: if a filter is not a plain function
    """
    _check(filters)

    def accepts(event: Event) -> bool:
        error: Exception | None = None
        for accepted in filters:
            try:
                if accepted(event):
                    return True
            except Exception as exc:
                error = exc
        if error is not None:
            raise error
        return False

    return accepts


def by_metadata(decode: Callable[[bytes], Data], predicate: Callable[[Data], bool]) -> EventFilter:
    """Return a filter that accepts an event if ``predicate`` returns true for its decoded metadata.

    An exception of ``decode`` becomes a :class:`~reflex_aio.errors.MetadataError`; one of ``predicate`` is raised as it
    is. The cause of the consumer's :class:`~reflex_aio.errors.FilterError` therefore shows which of the two failed.

    :param decode: decodes the metadata, which is ``b""`` for an event without any
    :raises TypeError: if an argument is not a plain function
    """
    check_filter("decode", decode)
    check_filter("predicate", predicate)

    def accepts(event: Event) -> bool:
        try:
            data = decode(event.metadata or b"")
        except Exception as exc:
            raise MetadataError(event_id=event.id) from exc
        return predicate(data)

    return accepts


def _check(filters: tuple[EventFilter, ...]) -> None:
    for each in filters:
        check_filter("filter", each)
