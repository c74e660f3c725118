"""``rewind`` and ``skip``: a consumer's cursor, moved by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from reflex_aio.cli.ages import seconds_ago
from reflex_aio.cli.database import Database, databases
from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.cli.leases import leases_in
from reflex_aio.cli.options import (
    AsJson,
    CursorsDatabaseOptions,
    CursorsOptions,
    DatabaseOptions,
    DryRun,
    EventsOptions,
    LeasesOptions,
    Yes,
)
from reflex_aio.cli.output import ask, note, print_json, print_line
from reflex_aio.cli.running import command
from reflex_aio.cli.showing import event_line
from reflex_aio.cursor import is_behind
from reflex_aio.errors import CursorConflict
from reflex_aio.event import Event
from reflex_aio.sql import CursorsTable, EventsTable
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.stream import Source

__all__ = ["rewind", "skip"]

# How many events are shown of those that are skipped.
_SHOWN = 5
_ALL = 2**62

Consumer = Annotated[str, typer.Argument(help="The consumer's name.", show_default=False)]

Force = Annotated[bool, typer.Option("--force", help="Also if its lease says that it is running.")]


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of a cursor."""

    consumer: str
    before: str
    after: str
    events: int
    """How many events lie between the two."""
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
            metavar="CURSOR", show_default=False, help="Go on after this event: the next one comes again."
        ),
    ] = None,
    to_oldest: Annotated[
        bool, typer.Option("--to-oldest", help="Begin again with the oldest event.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            show_default=False,
            help="Begin again with the first event since then: 90s, 30m, 2h, 7d ago, or 2026-01-31T12:00 (UTC).",
        ),
    ] = None,
    force: Force = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move a consumer's cursor back, so that it gets events again.

    Stop the consumer first: one that runs goes on from where it is, and moves its cursor forward again. Shows the
    cursor before and after, and asks. Refused, with nothing changed, if events after the new place are gone.
    """
    if sum((to is not None, to_oldest, since is not None)) != 1:
        raise CommandError("where to? One of --to, --to-oldest and --since", Exit.USAGE)
    seconds = None if since is None else seconds_ago("--since", since)
    if to is not None:
        to = check_cursor(to, "int")
    async with databases(at.dsn, cursors_at.cursors_dsn) as (events_in, cursors_in):
        table, moving = events.table(), await _as_found(cursors.table(), cursors_in)
        before = await _cursor(moving, cursors_in, consumer)
        await _refuse_running(consumer, cursors_in, leases, force=force)
        after = await _place(table, events_in, to, seconds)
        if not is_behind(after, before):
            raise CommandError(
                f"{consumer} is at {before}: to go to {after} is no rewind (skip goes forward)", Exit.REFUSED
            )
        move = Move(consumer, before, after, await _between(table, events_in, after, before))
        question = f"Rewind {consumer} from {before} to {after}, to consume {_events(move.events)} again?"
        if not dry_run:
            ask(question, yes=yes)
            with _unless_moved():
                async with (
                    cursors_in.connection(moving.name) as connection,
                    cursors_in.transaction(connection),
                ):
                    # Locks the row, and finds out whether the consumer has moved it since.
                    await moving.set(connection, consumer, before, expected=before)
                    await moving.rewind(connection, consumer, after)
            move = replace(move, moved=True)
    _print(move, "to be consumed again", as_json=as_json)


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
        typer.Option("--count", "-n", min=1, show_default="1", help="Skip so many of its next events."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="CURSOR", show_default=False, help="Go on after this event.")
    ] = None,
    to_head: Annotated[bool, typer.Option("--to-head", help="Go on with what comes from now on.")] = False,
    new: Annotated[
        bool, typer.Option("--new", help="The consumer may have no cursor yet: it is at the beginning then.")
    ] = False,
    force: Force = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Move a consumer's cursor forward, past events that it then never gets: by default the next one.

    Stop the consumer first. Shows the events, the cursor before and after, and asks. Refused, with nothing changed, if
    the consumer has moved meanwhile.
    """
    if sum((count is not None, to is not None, to_head)) > 1:
        raise CommandError("where to? One of --count, --to and --to-head", Exit.USAGE)
    if to is not None:
        to = check_cursor(to, "int")
    async with databases(at.dsn, cursors_at.cursors_dsn) as (events_in, cursors_in):
        table, moving = events.table(), await _as_found(cursors.table(), cursors_in)
        before = await _cursor(moving, cursors_in, consumer, new=new)
        await _refuse_running(consumer, cursors_in, leases, force=force)
        async with events_in.connection(table.name) as connection:
            table = await table.as_found(connection)
        source = table.source(events_in.pool)
        head = await source.head()
        shown, last = await _next_events(source, before, count or (_SHOWN if to or to_head else 1))
        after = to or (head if to_head else last)
        if not shown and to is None:
            raise CommandError(f"{consumer} is at the head: there is nothing to skip", Exit.REFUSED)
        if not is_behind(before or "0", after):
            raise CommandError(
                f"{consumer} is at {before or 0}: to go to {after} is no skip (rewind goes back)",
                Exit.REFUSED,
            )
        if is_behind(head or "0", after):
            raise CommandError(
                f"{table.name} ends at {head or 0}: there is no event {after} to skip to", Exit.REFUSED
            )
        move = Move(consumer, before, after, await _between(table, events_in, before, after))
        if not as_json:
            _show(shown, move)
        if not dry_run:
            ask(
                f"Skip {_events(move.events)} of {consumer}, from {before or 'the beginning'} to {after}?",
                yes=yes,
            )
            with _unless_moved():
                async with cursors_in.connection(moving.name) as connection:
                    await moving.set(connection, consumer, after, expected=before)
            move = replace(move, moved=True)
    _print(move, "skipped", as_json=as_json)


async def _refuse_running(consumer: str, on: Database, leases: LeasesOptions, *, force: bool) -> None:
    """Refuse to move the cursor of a consumer that somebody runs now.

    :raises CommandError: if its lease is held
    """
    lease = (await leases_in(on, leases)).get(consumer)
    if lease is not None and lease.is_held and not force:
        raise CommandError(
            f"{consumer} is running: {lease.owner} has its lease for {lease.seconds_left:.0f} s; stop it, or --force",
            Exit.REFUSED,
        )


@contextmanager
def _unless_moved() -> Iterator[None]:
    try:
        yield
    except CursorConflict as exc:
        raise CommandError(
            f"{exc.consumer} has moved to {exc.stored} meanwhile: nothing has changed; is it running?",
            Exit.REFUSED,
        ) from exc


async def _as_found(cursors: CursorsTable, on: Database) -> CursorsTable:
    async with on.connection(cursors.name) as connection:
        found = await cursors.as_found(connection)
        await found.validate(connection)
    return found


async def _cursor(cursors: CursorsTable, on: Database, consumer: str, *, new: bool = False) -> str:
    """Return a consumer's cursor.

    :raises CommandError: if there is no such consumer, or its cursor isn't an event's id
    """
    async with on.connection(cursors.name) as connection:
        known = await cursors.all(connection)
    if consumer not in known:
        if new:
            return ""
        names = f"it has {', '.join(known)}" if known else "it has none"
        raise CommandError(f"{cursors.name} has no consumer {consumer!r}: {names}", Exit.NOT_FOUND)
    return check_cursor(known[consumer], "int")


async def _place(table: EventsTable, on: Database, to: str | None, seconds: float | None) -> str:
    """Return where a rewind goes to.

    :param to: where it is to go
    :param seconds: or how old the events are to be that it goes to; neither: to the oldest
    :raises CommandError: if events after that are gone
    """
    async with on.connection(table.name) as connection:
        oldest = (await table.extent(connection)).oldest
    if not oldest:
        raise CommandError(f"{table.name} is empty: there is nothing to consume again", Exit.REFUSED)
    least = str(int(oldest) - 1)
    if seconds is not None:
        async with table.stream(on.pool, from_head=True, lag=seconds) as stream:
            to = stream.cursor or least
    if to is not None and is_behind(to, least):
        raise CommandError(
            f"{table.name} retains events from {oldest} on: a consumer at {to} would miss those before;"
            f" --to {least}, or --to-oldest, is as far back as it goes",
            Exit.REFUSED,
        )
    return least if to is None else to


async def _between(table: EventsTable, on: Database, first: str, last: str) -> int:
    """Return how many events are after one cursor and not after the other."""
    async with on.connection(table.name) as connection:
        found = await table.backlogs(connection, [first, last], limit=_ALL)
    return found[first].events - found[last].events


async def _next_events(source: Source, after: str, count: int) -> tuple[list[Event], str]:
    """Return the first of the next events, and the cursor after ``count`` of them, or after as many as there are."""
    shown: list[Event] = []
    async with source.stream(after, to_head=True) as stream:
        async for event in stream:
            if len(shown) < _SHOWN:
                shown.append(event)
            count -= 1
            if count == 0:
                break
        return shown, stream.cursor


def _show(events: list[Event], move: Move) -> None:
    """Show the first of the events that a move passes over."""
    for event in events:
        if not is_behind(move.after, event.id):
            note(event_line(event))
    if move.events > len(events):
        note(f"     ...  and {move.events - len(events)} more")


def _events(count: int) -> str:
    return f"{count} event" if count == 1 else f"{count} events"


def _print(move: Move, becoming: str, *, as_json: bool) -> None:
    """Tell of a move, and what becomes of the events in between."""
    if as_json:
        print_json(move)
        return
    told = f"{move.consumer}: from {move.before or 'the beginning'} to {move.after}, {_events(move.events)} {becoming}"
    print_line(told if move.moved else f"{told} (dry run: nothing has changed)")
