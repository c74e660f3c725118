"""``consumers``: the cursors of consumers, compared with the events table."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from reflex_aio.cli.command import Exit, command
from reflex_aio.cli.options import (
    AsJson,
    CursorsDatabaseOptions,
    CursorsOptions,
    Database,
    DatabaseOptions,
    EventsOptions,
    LeasesOptions,
    Only,
    open_databases,
    read_leases,
)
from reflex_aio.cli.output import format_duration, print_json, print_note, print_table
from reflex_aio.cursor import is_behind
from reflex_aio.errors import CursorAhead, InvalidCursor
from reflex_aio.lease import LeaseState
from reflex_aio.sql import CursorsTable, EventsTable
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.sql.cursors.table import CursorState
from reflex_aio.sql.retention.prune import Backlog, Extent

__all__ = ["ConsumerPosition", "Positions", "consumers", "read_positions"]

# The maximum number of events that are counted after a cursor.
_MAX_COUNT = 100_000

_HEADINGS = ("consumer", "#cursor", "#behind", "#lag", "#per second", "updated", "state", "run by")
_OPTIONAL_HEADINGS = ("#per second", "run by")

_STATE_TEXTS = {
    "at_head": "at the head",
    "behind": "behind",
    "ahead": "ahead of the table",
    "may_miss": "may miss events",
    "unknown": "not an event id",
}


@dataclass(frozen=True, slots=True)
class ConsumerPosition:
    """The position of a consumer in an events table."""

    consumer: str
    cursor: str
    state: str
    """``at_head``, ``behind``, ``ahead`` (of every id that was ever assigned), ``may_miss`` (the next ids are before
    the oldest event: deleted, or never committed), or ``unknown`` (the cursor is not an event id)."""
    events_behind: int | None
    events_behind_at_least: bool
    """True if ``events_behind`` is a lower bound, at which counting stopped."""
    seconds_behind: float | None
    """The age of the first event after the cursor, in seconds."""
    updated_at: datetime | None
    lease: LeaseState | None = None
    """The consumer's lease, if there is a leases table."""
    per_second: float | None = None
    """The speed of the cursor since the previous report, in ids per second; only in ``top``."""


@dataclass(frozen=True, slots=True)
class Positions:
    """The positions of the consumers of a cursors table, and the extent of the events table."""

    events: str
    oldest: str
    head: str
    consumers: list[ConsumerPosition]

    @property
    def title(self) -> str:
        """A line about the events table."""
        if not self.head:
            return f"{self.events} is empty"
        return f"{self.events} has events from {self.oldest} to {self.head}, the head"

    def with_rates(self, earlier: "Positions", seconds: float) -> "Positions":
        """Return a copy with the speed of each cursor since an earlier report."""
        cursors = {each.consumer: each.cursor for each in earlier.consumers if _is_event_id(each.cursor)}
        consumers = [
            replace(each, per_second=(int(each.cursor) - int(cursors[each.consumer])) / seconds)
            if each.consumer in cursors and _is_event_id(each.cursor)
            else each
            for each in self.consumers
        ]
        return replace(self, consumers=consumers)

    def to_table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows for people, without optional columns that are empty."""
        now = datetime.now(UTC)
        rows = [_to_row(each, now) for each in self.consumers]
        kept = [
            index
            for index, name in enumerate(_HEADINGS)
            if name not in _OPTIONAL_HEADINGS or any(row[index] for row in rows)
        ]
        return [_HEADINGS[index] for index in kept], [[row[index] for index in kept] for row in rows]


@command
async def consumers(
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    events: EventsOptions,
    cursors: CursorsOptions,
    leases: LeasesOptions,
    only: Only = None,
    max_lag: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            show_default=False,
            help="End with status 1 if a consumer is further behind.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the consumers' cursors and their distance from the head: events, and the age of the first of them.

    Shows the consumers of the cursors table, compared with one events table; use --only to leave out those of another
    events table. "ahead of the table": the cursor is greater than every id that was ever assigned. "may miss events":
    the next ids are before the oldest event; they were deleted, or never committed.
    """
    async with open_databases(at.dsn, cursors_at.cursors_dsn) as (events_database, cursors_database):
        positions = await read_positions(
            events.table(),
            events_database,
            cursors.table(),
            cursors_database,
            leases=await read_leases(cursors_database, leases),
            only=only,
        )
    if as_json:
        print_json(positions)
    else:
        print_table(*positions.to_table(), title=positions.title)
    late = [
        each for each in positions.consumers if max_lag is not None and (each.seconds_behind or 0) > max_lag
    ]
    if late:
        print_note(f"reflex-aio: more than {max_lag:g} s behind: {', '.join(each.consumer for each in late)}")
        raise typer.Exit(Exit.FAILED)


async def read_positions(
    events: EventsTable,
    events_database: Database,
    cursors: CursorsTable,
    cursors_database: Database,
    *,
    leases: Mapping[str, LeaseState],
    only: str | None,
) -> Positions:
    """Return the current positions of the consumers.

    :param leases: the leases by consumer
    :param only: a pattern for the names of the consumers, as for file names
    """
    async with cursors_database.connection(cursors.name) as connection:
        states = await cursors.states(connection)
    states = [state for state in states if only is None or fnmatchcase(state.consumer, only)]
    async with events_database.connection(events.name) as connection:
        extent = await events.extent(connection)
        known = [state.cursor for state in states if _is_event_id(state.cursor)]
        backlogs = await events.backlogs(connection, known, limit=_MAX_COUNT)
    return Positions(
        events.name,
        extent.oldest,
        extent.newest,
        [
            _make_position(
                state,
                backlogs.get(state.cursor),
                await _classify(events, events_database, state.cursor, extent, backlogs.get(state.cursor)),
                leases.get(state.consumer),
            )
            for state in states
        ],
    )


async def _classify(
    events: EventsTable, database: Database, cursor: str, extent: Extent, backlog: Backlog | None
) -> str:
    """Return the state of a consumer with this cursor."""
    if backlog is None:
        return "unknown"
    if extent.oldest and is_behind(cursor, str(int(extent.oldest) - 1)):
        return "may_miss"
    if is_behind(extent.newest or "0", cursor):
        # The newest events may have been deleted. Only a stream reads which ids have been assigned.
        try:
            async with events.stream(database.pool, cursor, to_head=True):
                return "at_head"
        except CursorAhead:
            return "ahead"
    return "behind" if backlog.events else "at_head"


def _make_position(
    consumer: CursorState, backlog: Backlog | None, state: str, lease: LeaseState | None
) -> ConsumerPosition:
    return ConsumerPosition(
        consumer=consumer.consumer,
        cursor=consumer.cursor,
        state=state,
        events_behind=None if backlog is None else backlog.events,
        events_behind_at_least=backlog is not None and backlog.events >= _MAX_COUNT,
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


def _to_row(position: ConsumerPosition, now: datetime) -> tuple[str, ...]:
    behind, lag, updated = position.events_behind, position.seconds_behind, position.updated_at
    return (
        position.consumer,
        position.cursor,
        "" if behind is None else f"{behind}{'+' * position.events_behind_at_least}",
        format_duration(lag) if behind and lag is not None else "",
        "" if position.per_second is None else f"{position.per_second:.1f}",
        "" if updated is None else f"{format_duration(max(0.0, (now - updated).total_seconds()))} ago",
        _STATE_TEXTS[position.state],
        position.lease.owner if position.lease is not None and position.lease.is_held else "",
    )
