"""``rewind`` and ``skip``: moving a consumer's cursor by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from reflex_aio.cli.command import CommandError, Exit, command
from reflex_aio.cli.options import (
    AsJson,
    CursorsDatabaseOptions,
    CursorsOptions,
    Database,
    DatabaseOptions,
    DryRun,
    EventsOptions,
    LeasesOptions,
    Yes,
    open_databases,
    parse_time_ago,
    read_leases,
)
from reflex_aio.cli.output import confirm, format_count, format_event, print_json, print_line, print_note
from reflex_aio.cursor import is_behind
from reflex_aio.errors import CursorConflict
from reflex_aio.event import Event
from reflex_aio.sql import CursorsTable, EventsTable
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.stream import Source

__all__ = ["rewind", "skip"]

# The number of skipped events that are shown.
_MAX_SHOWN = 5
_NO_LIMIT = 2**62

Consumer = Annotated[str, typer.Argument(help="The consumer's name.", show_default=False)]

Force = Annotated[bool, typer.Option("--force", help="Proceed even if the consumer's lease is held.")]


@dataclass(frozen=True, slots=True)
class Move:
    """A move of a cursor, planned or done."""

    consumer: str
    before: str
    after: str
    events: int
    """The number of events between the two cursors."""
    moved: bool = False


@command
async def rewind(
    consumer: Consumer,
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    events: EventsOptions,
    cursors: CursorsOptions,
    leases: LeasesOptions,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="CURSOR", show_default=False, help="Move to this event: the next one is consumed again."
        ),
    ] = None,
    to_oldest: Annotated[
        bool, typer.Option("--to-oldest", help="Start again with the oldest event.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            show_default=False,
            help="Start again with the first event since this time: 90s, 30m, 2h or 7d ago, or 2026-01-31T12:00 (UTC).",
        ),
    ] = None,
    force: Force = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move a consumer's cursor back, so that events are consumed again.

    Stop the consumer first: a running one continues from its own position, and moves its cursor forward again. Shows
    the cursor before and after, and asks for confirmation. Refused if events after the new position have been deleted.
    """
    if sum((to is not None, to_oldest, since is not None)) != 1:
        raise CommandError("use exactly one of --to, --to-oldest and --since", Exit.USAGE)
    seconds = None if since is None else parse_time_ago("--since", since)
    if to is not None:
        to = check_cursor(to, "int")
    async with open_databases(at.dsn, cursors_at.cursors_dsn) as (events_database, cursors_database):
        table, cursors_table = events.table(), await _load_table(cursors.table(), cursors_database)
        before = await _read_cursor(cursors_table, cursors_database, consumer)
        await _refuse_running(consumer, cursors_database, leases, force=force)
        after = await _find_rewind_target(table, events_database, to, seconds)
        if not is_behind(after, before):
            raise CommandError(
                f"{consumer} is at {before}: {after} is not before that; to move forward, use skip",
                Exit.REFUSED,
            )
        move = Move(consumer, before, after, await _count_between(table, events_database, after, before))
        if not dry_run:
            count = format_count(move.events)
            confirm(f"Rewind {consumer} from {before} to {after}, to consume {count} again?", yes=yes)
            with _refuse_conflict():
                async with (
                    cursors_database.connection(cursors_table.name) as connection,
                    cursors_database.transaction(connection),
                ):
                    # Locks the row, and fails if the consumer has moved its cursor since it was shown.
                    await cursors_table.set(connection, consumer, before, expected=before)
                    await cursors_table.rewind(connection, consumer, after)
            move = replace(move, moved=True)
    _print_move(move, "to be consumed again", as_json=as_json)


@command
async def skip(
    consumer: Consumer,
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    events: EventsOptions,
    cursors: CursorsOptions,
    leases: LeasesOptions,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, show_default="1", help="Skip this number of events."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="CURSOR", show_default=False, help="Skip up to this event.")
    ] = None,
    to_head: Annotated[bool, typer.Option("--to-head", help="Skip all events that exist now.")] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Accept a consumer without a cursor, which is at the beginning.")
    ] = False,
    force: Force = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move a consumer's cursor forward, past events that it will never consume; by default the next one.

    Stop the consumer first. Shows the events and the cursor before and after, and asks for confirmation. Refused if the
    consumer moves its cursor before the confirmation.
    """
    if sum((count is not None, to is not None, to_head)) > 1:
        raise CommandError("use at most one of --count, --to and --to-head", Exit.USAGE)
    if to is not None:
        to = check_cursor(to, "int")
    async with open_databases(at.dsn, cursors_at.cursors_dsn) as (events_database, cursors_database):
        table, cursors_table = events.table(), await _load_table(cursors.table(), cursors_database)
        before = await _read_cursor(cursors_table, cursors_database, consumer, new=new)
        await _refuse_running(consumer, cursors_database, leases, force=force)
        async with events_database.connection(table.name) as connection:
            table = await table.as_found(connection)
        source = table.source(events_database.pool)
        head = await source.head()
        shown, last = await _read_next(source, before, count or (_MAX_SHOWN if to or to_head else 1))
        after = to or (head if to_head else last)
        if not shown and to is None:
            raise CommandError(f"{consumer} is at the head: there is nothing to skip", Exit.REFUSED)
        if not is_behind(before or "0", after):
            raise CommandError(
                f"{consumer} is at {before or 0}: {after} is not after that; to move back, use rewind",
                Exit.REFUSED,
            )
        if is_behind(head or "0", after):
            raise CommandError(
                f"{table.name} ends at {head or 0}: there is no event {after} to skip to", Exit.REFUSED
            )
        move = Move(consumer, before, after, await _count_between(table, events_database, before, after))
        if not as_json:
            _print_skipped(shown, move)
        if not dry_run:
            start = before or "the beginning"
            confirm(f"Skip {format_count(move.events)} of {consumer}, from {start} to {after}?", yes=yes)
            with _refuse_conflict():
                async with cursors_database.connection(cursors_table.name) as connection:
                    await cursors_table.set(connection, consumer, after, expected=before)
            move = replace(move, moved=True)
    _print_move(move, "skipped", as_json=as_json)


async def _refuse_running(consumer: str, database: Database, leases: LeasesOptions, *, force: bool) -> None:
    """Refuse to move the cursor of a running consumer, unless ``force`` is true.

    :raises CommandError: if the consumer's lease is held
    """
    lease = (await read_leases(database, leases)).get(consumer)
    if lease is not None and lease.is_held and not force:
        raise CommandError(
            f"{consumer} is running: {lease.owner} holds its lease for another {lease.seconds_left:.0f} s;"
            " stop it, or use --force",
            Exit.REFUSED,
        )


@contextmanager
def _refuse_conflict() -> Iterator[None]:
    try:
        yield
    except CursorConflict as exc:
        raise CommandError(
            f"{exc.consumer} has moved to {exc.stored}: nothing was changed; stop the consumer first",
            Exit.REFUSED,
        ) from exc


async def _load_table(cursors: CursorsTable, database: Database) -> CursorsTable:
    """Return the cursors table with the types that it has in the database."""
    async with database.connection(cursors.name) as connection:
        found = await cursors.as_found(connection)
        await found.validate(connection)
    return found


async def _read_cursor(cursors: CursorsTable, database: Database, consumer: str, *, new: bool = False) -> str:
    """Return a consumer's cursor.

    :param new: return ``""`` for a consumer without a cursor
    :raises CommandError: if the consumer is unknown
    :raises InvalidCursor: if its cursor is not an event id
    """
    async with database.connection(cursors.name) as connection:
        known = await cursors.all(connection)
    if consumer not in known:
        if new:
            return ""
        names = f"it has {', '.join(known)}" if known else "it is empty"
        raise CommandError(f"{cursors.name} has no consumer {consumer!r}: {names}", Exit.NOT_FOUND)
    return check_cursor(known[consumer], "int")


async def _find_rewind_target(
    table: EventsTable, database: Database, to: str | None, seconds: float | None
) -> str:
    """Return the cursor to rewind to.

    :param to: the cursor, if given
    :param seconds: the maximum age of the first event to consume again, if given; by default start at the oldest event
    :raises CommandError: if events after the cursor have been deleted
    """
    async with database.connection(table.name) as connection:
        oldest = (await table.extent(connection)).oldest
    if not oldest:
        raise CommandError(f"{table.name} is empty: there is nothing to consume again", Exit.REFUSED)
    least = str(int(oldest) - 1)
    if seconds is not None:
        async with table.stream(database.pool, from_head=True, lag=seconds) as stream:
            to = stream.cursor or least
    if to is not None and is_behind(to, least):
        raise CommandError(
            f"{table.name} retains events from {oldest} on: a consumer at {to} would miss earlier ones;"
            f" go back to --to {least} or --to-oldest at most",
            Exit.REFUSED,
        )
    return least if to is None else to


async def _count_between(table: EventsTable, database: Database, first: str, last: str) -> int:
    """Return the number of events after cursor ``first``, up to cursor ``last``."""
    async with database.connection(table.name) as connection:
        found = await table.backlogs(connection, [first, last], limit=_NO_LIMIT)
    return found[first].events - found[last].events


async def _read_next(source: Source, after: str, count: int) -> tuple[list[Event], str]:
    """Return the first of the next ``count`` events, and the cursor after the last of them."""
    shown: list[Event] = []
    async with source.stream(after, to_head=True) as stream:
        async for event in stream:
            if len(shown) < _MAX_SHOWN:
                shown.append(event)
            count -= 1
            if count == 0:
                break
        return shown, stream.cursor


def _print_skipped(events: list[Event], move: Move) -> None:
    """Print the first of the events that are skipped."""
    for event in events:
        if not is_behind(move.after, event.id):
            print_note(format_event(event))
    if move.events > len(events):
        print_note(f"     ...  and {move.events - len(events)} more")


def _print_move(move: Move, effect: str, *, as_json: bool) -> None:
    """Print a move, and its effect on the events in between."""
    if as_json:
        print_json(move)
        return
    start = move.before or "the beginning"
    text = f"{move.consumer}: from {start} to {move.after}, {format_count(move.events)} {effect}"
    print_line(text if move.moved else f"{text} (dry run: nothing was changed)")
