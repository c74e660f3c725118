"""``top``: the cursors of consumers, live."""

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

from reflex_aio.cli.command import command
from reflex_aio.cli.consumers import Positions, read_positions
from reflex_aio.cli.options import (
    AsJson,
    CursorsDatabaseOptions,
    CursorsOptions,
    DatabaseOptions,
    EventsOptions,
    LeasesOptions,
    Only,
    open_databases,
    read_leases,
)
from reflex_aio.cli.output import make_table, print_json, print_note, print_table
from reflex_aio.errors import ConnectionLost

__all__ = ["top"]


@command
async def top(
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    events: EventsOptions,
    cursors: CursorsOptions,
    leases: LeasesOptions,
    only: Only = None,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="The time between two updates.")
    ] = 2.0,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, show_default=False, help="End after this number of updates."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the consumers' cursors and their speed live, until interrupted.

    With --json, each update is a JSON object. If the connection is lost, the error is shown and the next update tries
    again.
    """
    async with AsyncExitStack() as stack:
        events_database, cursors_database = await stack.enter_async_context(
            open_databases(at.dsn, cursors_at.cursors_dsn)
        )
        show = stack.enter_context(_open_screen(as_json))
        previous: Positions | None = None
        previous_time = 0.0
        for number in itertools.count(1):
            now = time.monotonic()
            try:
                positions = await read_positions(
                    events.table(),
                    events_database,
                    cursors.table(),
                    cursors_database,
                    leases=await read_leases(cursors_database, leases),
                    only=only,
                )
            except ConnectionLost as exc:
                show(exc)
            else:
                if previous is not None:
                    positions = positions.with_rates(previous, now - previous_time)
                show(positions)
                previous, previous_time = positions, now
            if number == count:
                return
            await asyncio.sleep(every)


@contextmanager
def _open_screen(as_json: bool) -> Iterator[Callable[[Positions | ConnectionLost], None]]:
    """Yield a function that shows an update: in place of the previous one on a terminal, else below it."""
    console = Console(highlight=False, markup=False)
    if as_json or not console.is_terminal:
        yield _print_json if as_json else _print_table
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        shown: Positions | None = None

        def show(update: Positions | ConnectionLost) -> None:
            nonlocal shown
            clock = time.strftime("%H:%M:%S")
            if isinstance(update, ConnectionLost):
                title = f"{clock}  {update}"
            else:
                title, shown = f"{clock}  {update.title}", update
            table = [] if shown is None else [make_table(*shown.to_table())]
            live.update(Group(Text(title), Text(), *table), refresh=True)

        yield show


def _print_table(update: Positions | ConnectionLost) -> None:
    if isinstance(update, ConnectionLost):
        print_note(f"reflex-aio: {update}")
    else:
        print_table(*update.to_table(), title=update.title)


def _print_json(update: Positions | ConnectionLost) -> None:
    if isinstance(update, ConnectionLost):
        print_note(f"reflex-aio: {update}")
    else:
        print_json(update)
