"""``consumers`` and ``top``: where consumers stand, once or again and again."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from reflex_aio.cli.database import databases
from reflex_aio.cli.exits import Exit
from reflex_aio.cli.leases import leases_in
from reflex_aio.cli.options import (
    AsJson,
    CursorsDatabaseOptions,
    CursorsOptions,
    DatabaseOptions,
    EventsOptions,
    LeasesOptions,
)
from reflex_aio.cli.output import note, print_json, print_table, table
from reflex_aio.cli.running import command
from reflex_aio.cli.standing import Standings, look, table_of, with_rates
from reflex_aio.errors import ConnectionLost

__all__ = ["consumers", "top"]

Only = Annotated[
    str | None,
    typer.Option(
        "--only", metavar="PATTERN", show_default=False, help="Consumers with such names alone: 'mail-*'."
    ),
]


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
    """Show where consumers are: cursor, and how far behind the head, in events and in the age of the first of them.

    They are those of the cursors table, compared with one events table; a consumer of another one is left out by
    --only. "ahead of the table" is a cursor beyond all events that there ever were; "may miss events" one whose
    next ids are before the oldest event: they were deleted, or never committed.
    """
    async with databases(at.dsn, cursors_at.cursors_dsn) as (on, cursors_on):
        held = await leases_in(cursors_on, leases)
        standings = await look(events.table(), on, cursors.table(), cursors_on, leases=held, only=only)
    if as_json:
        print_json(standings)
    else:
        _print(standings)
    late = [
        each for each in standings.consumers if max_lag is not None and (each.seconds_behind or 0) > max_lag
    ]
    if late:
        note(f"reflex-aio: more than {max_lag:g} s behind: {', '.join(each.consumer for each in late)}")
        raise typer.Exit(Exit.FAILED)


@command
async def top(
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    events: EventsOptions,
    cursors: CursorsOptions,
    leases: LeasesOptions,
    only: Only = None,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait between two looks.")
    ] = 2.0,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, show_default=False, help="End after so many looks.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where consumers are, live, until interrupted, and how many events a second they consume.

    With --json, a JSON object for each look. A lost connection is told, and tried again.
    """
    async with AsyncExitStack() as stack:
        on, cursors_on = await stack.enter_async_context(databases(at.dsn, cursors_at.cursors_dsn))
        show = stack.enter_context(_screen(as_json))
        before: Standings | None = None
        began = 0.0
        for number in itertools.count(1):
            now = time.monotonic()
            try:
                held = await leases_in(cursors_on, leases)
                standings = await look(
                    events.table(), on, cursors.table(), cursors_on, leases=held, only=only
                )
            except ConnectionLost as exc:
                show(exc)
            else:
                if before is not None:
                    standings = with_rates(standings, before, now - began)
                show(standings)
                before, began = standings, now
            if number == count:
                return
            await asyncio.sleep(every)


@contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[Standings | ConnectionLost], None]]:
    """Return what shows standings in place of those before, or below them where that can't be."""
    console = Console(highlight=False, markup=False)
    if as_json or not console.is_terminal:
        yield _print_json if as_json else _print
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        shown: Standings | None = None

        def show(standings: Standings | ConnectionLost) -> None:
            nonlocal shown
            clock = time.strftime("%H:%M:%S")
            if isinstance(standings, ConnectionLost):
                told = f"{clock}  {standings}"
            else:
                told, shown = f"{clock}  {standings.title}", standings
            rows = [] if shown is None else [table(*table_of(shown))]
            live.update(Group(Text(told), Text(), *rows), refresh=True)

        yield show


def _print(standings: Standings | ConnectionLost) -> None:
    if isinstance(standings, ConnectionLost):
        note(f"reflex-aio: {standings}")
    else:
        print_table(*table_of(standings), title=standings.title)


def _print_json(standings: Standings | ConnectionLost) -> None:
    if isinstance(standings, ConnectionLost):
        note(f"reflex-aio: {standings}")
    else:
        print_json(standings)
