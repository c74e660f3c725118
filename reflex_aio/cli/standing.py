"""Where consumers stand: what ``consumers`` shows once, and ``top`` again and again."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from reflex_aio.cli.database import Database
from reflex_aio.cli.output import duration
from reflex_aio.cursor import is_behind
from reflex_aio.errors import CursorAhead, InvalidCursor
from reflex_aio.lease import LeaseState
from reflex_aio.sql import Backlog, CursorsTable, CursorState, EventsTable, Extent
from reflex_aio.sql.cursors.store import check_cursor

__all__ = ["Standing", "Standings", "look", "table_of", "with_rates"]

# How many events are counted after a cursor, at most.
_COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a consumer stands."""

    consumer: str
    cursor: str
    state: str
    """``at_head``, ``behind``, ``ahead`` (of all that there ever was), ``may_miss`` (ids after it are before the
    oldest event: deleted, or never committed), or ``unknown`` (its cursor is no event id)."""
    events_behind: int | None
    events_behind_at_least: bool
    """Whether there are more than were counted."""
    seconds_behind: float | None
    """How old the first event is that it hasn't consumed."""
    updated_at: datetime | None
    lease: LeaseState | None = None
    """Who runs it, where there is a table that tells."""
    per_second: float | None = None
    """How fast its cursor has moved since the last look, in ids a second; of ``top`` alone."""


@dataclass(frozen=True, slots=True)
class Standings:
    """An events table, and the consumers of a cursors table."""

    events: str
    oldest: str
    head: str
    consumers: list[Standing]

    @property
    def title(self) -> str:
        """A line on the table."""
        if not self.head:
            return f"{self.events} is empty"
        return f"{self.events} has events from {self.oldest} to {self.head}, the head"


_HEADINGS = ("consumer", "#cursor", "#behind", "#lag", "#per second", "updated", "state", "run by")
_OPTIONAL = ("#per second", "run by")


async def look(
    events: EventsTable,
    on: Database,
    cursors: CursorsTable,
    cursors_on: Database,
    *,
    leases: Mapping[str, LeaseState],
    only: str | None,
) -> Standings:
    """Return where the consumers stand now.

    :param leases: who runs them, by their names
    :param only: a pattern of consumers' names
    """
    async with cursors_on.connection(cursors.name) as connection:
        states = await cursors.states(connection)
    states = [state for state in states if only is None or fnmatchcase(state.consumer, only)]
    async with on.connection(events.name) as connection:
        extent = await events.extent(connection)
        known = [state.cursor for state in states if _is_event_id(state.cursor)]
        backlogs = await events.backlogs(connection, known, limit=_COUNTED)
    return Standings(
        events.name,
        extent.oldest,
        extent.newest,
        [
            _standing(
                consumer,
                backlogs.get(consumer.cursor),
                await _state(events, on, consumer.cursor, extent, backlogs.get(consumer.cursor)),
                leases.get(consumer.consumer),
            )
            for consumer in states
        ],
    )


async def _state(
    events: EventsTable, on: Database, cursor: str, extent: Extent, backlog: Backlog | None
) -> str:
    if backlog is None:
        return "unknown"
    if extent.oldest and is_behind(cursor, str(int(extent.oldest) - 1)):
        return "may_miss"
    if is_behind(extent.newest or "0", cursor):
        # The newest events may have been deleted. Only a stream knows which ids were given out.
        try:
            async with events.stream(on.pool, cursor, to_head=True):
                return "at_head"
        except CursorAhead:
            return "ahead"
    return "behind" if backlog.events else "at_head"


def _standing(
    consumer: CursorState, backlog: Backlog | None, state: str, lease: LeaseState | None
) -> Standing:
    return Standing(
        consumer=consumer.consumer,
        cursor=consumer.cursor,
        state=state,
        events_behind=None if backlog is None else backlog.events,
        events_behind_at_least=backlog is not None and backlog.events >= _COUNTED,
        seconds_behind=None if backlog is None else backlog.seconds,
        updated_at=consumer.updated_at,
        lease=lease,
    )


def _is_event_id(cursor: str) -> bool:
    try:
        check_cursor(cursor, "int")
    except InvalidCursor:
        return False
    return True


_STATES = {
    "at_head": "at the head",
    "behind": "behind",
    "ahead": "ahead of the table",
    "may_miss": "may miss events",
    "unknown": "not an event id",
}


def with_rates(standings: Standings, before: Standings, seconds: float) -> Standings:
    """Return standings that also tell how fast the cursors have moved since an earlier look."""
    cursors = {each.consumer: each.cursor for each in before.consumers if _is_event_id(each.cursor)}
    consumers = [
        replace(each, per_second=(int(each.cursor) - int(cursors[each.consumer])) / seconds)
        if each.consumer in cursors and _is_event_id(each.cursor)
        else each
        for each in standings.consumers
    ]
    return replace(standings, consumers=consumers)


def table_of(standings: Standings) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows for people, without the columns that say nothing."""
    now = datetime.now(UTC)
    rows = [_row(each, now) for each in standings.consumers]
    kept = [
        place
        for place, name in enumerate(_HEADINGS)
        if name not in _OPTIONAL or any(row[place] for row in rows)
    ]
    return [_HEADINGS[place] for place in kept], [[row[place] for place in kept] for row in rows]


def _row(standing: Standing, now: datetime) -> tuple[str, ...]:
    behind, lag, updated = standing.events_behind, standing.seconds_behind, standing.updated_at
    return (
        standing.consumer,
        standing.cursor,
        "" if behind is None else f"{behind}{'+' * standing.events_behind_at_least}",
        duration(lag) if behind and lag is not None else "",
        "" if standing.per_second is None else f"{standing.per_second:.1f}",
        "" if updated is None else f"{duration(max(0.0, (now - updated).total_seconds()))} ago",
        _STATES[standing.state],
        standing.lease.owner if standing.lease is not None and standing.lease.is_held else "",
    )
