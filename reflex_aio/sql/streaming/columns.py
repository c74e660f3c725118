"""Events, made of the columns of a page: half the work of making them row by row."""

from collections.abc import Iterable, Sequence
from itertools import repeat

from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE, Event

__all__ = ["columns_to_events"]


def columns_to_events(
    ids: Iterable[str],
    types: Sequence[int],
    foreign_ids: Iterable[str],
    timestamps_us: Iterable[int],
    metadata: Iterable[bytes | None] | None,
    traces: Iterable[bytes | None] | None,
    *,
    include_noops: bool,
) -> list[Event]:
    """Return the events of these columns, as many as there are ``ids``.

    :param metadata: ``None`` if the table has no such column; ``traces`` likewise
    :param include_noops: also return those that fill gaps
    """
    rest = [] if metadata is None and traces is None else [repeat(None) if metadata is None else metadata]
    rest += [] if traces is None else [traces]
    events = list(map(Event, ids, types, foreign_ids, timestamps_us, *rest))
    if include_noops or NOOP_TYPE not in types:
        return events
    return [event for event in events if event.type != NOOP_TYPE or event.foreign_id != NOOP_FOREIGN_ID]
