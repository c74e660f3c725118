"""``prune``: old events, deleted."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from reflex_aio.cli.ages import age
from reflex_aio.cli.database import Database, databases
from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.cli.options import (
    AsJson,
    CursorsDatabaseOptions,
    CursorsOptions,
    DatabaseOptions,
    DryRun,
    EventsOptions,
    Yes,
)
from reflex_aio.cli.output import ask, print_json, print_line
from reflex_aio.cli.progress import bar
from reflex_aio.cli.running import command
from reflex_aio.cursor import is_behind
from reflex_aio.errors import TableNotFound
from reflex_aio.sql import CursorsTable, EventsTable, Pruned, Retention
from reflex_aio.sql.cursors.store import check_cursor

__all__ = ["prune"]


@command
async def prune(
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    events: EventsOptions,
    cursors: CursorsOptions,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", show_default=False, help="Delete events of this age: 90s, 30m, 2h, 7d."),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(metavar="ID", show_default=False, help="Delete events before this one."),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONSUMER",
            show_default=False,
            help="A consumer that counts even while it has no cursor. May be repeated.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            show_default=False,
            help="Consumers that don't count, such as those of other events: 'payments-*'. May be repeated.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Delete also what consumers have still to come to. Asks first."),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, max=100_000, help="Delete at most so many at once.")
    ] = 1000,
    pause: Annotated[
        float,
        typer.Option(metavar="FACTOR", min=0, help="Rest after each batch for so many times as it took."),
    ] = 3.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete old events, oldest first, but none that a consumer has still to come to.

    With both --older-than and --before, those that both tell. The slowest consumer of the cursors table keeps what it
    has still to come to, and the output says so. Works in small batches that hold up nobody; interrupted, the next run
    goes on.
    """
    if older_than is None and before is None:
        raise CommandError("which events? Give --older-than, --before, or both", Exit.USAGE)
    seconds = None if older_than is None else age("--older-than", older_than)
    if before is not None:
        before = check_cursor(before, "int")
    async with databases(at.dsn, cursors_at.cursors_dsn) as (on, cursors_on):
        table, consumers = events.table(), cursors.table()
        retention = Retention(
            older_than=seconds,
            before=before,
            cursors=() if force else consumers.store(cursors_on.pool),
            expect=expect or (),
            ignore=ignore or (),
            force=force,
        )
        if force and not dry_run:
            with _shown(table, "counting") as tell:
                counted = await table.prune(on.pool, retention, dry_run=True, pause=0, progress=tell)
            late = await _behind(consumers, cursors_on, counted, ignore or ())
            missing = f", some of which {', '.join(late)} would miss" if late else ""
            if counted.events:
                ask(
                    f"Delete {_events(counted.events)} of {table.name}, before {counted.end}{missing}?",
                    yes=yes,
                )
        with _shown(table, "counting" if dry_run else "deleting") as tell:
            pruned = await table.prune(
                on.pool, retention, dry_run=dry_run, batch_size=batch_size, pause=pause, progress=tell
            )
    if as_json:
        print_json({"table": table.name, **asdict(pruned), "dry_run": dry_run})
        return
    told = f"{table.name}: {_events(pruned.events)} {'would be deleted' if dry_run else 'deleted'}"
    print_line(f"{told}; {_why(pruned)}" if pruned.first else f"{table.name} is empty")


@contextmanager
def _shown(table: EventsTable, doing: str) -> Iterator[Callable[[Pruned], None]]:
    with bar(f"{doing} events of {table.name}") as show:

        def tell(pruned: Pruned) -> None:
            first = int(pruned.first) - 1
            show(max(0, int(pruned.position) - first), int(pruned.end) - 1 - first, _events(pruned.events))

        yield tell


async def _behind(
    consumers: CursorsTable, on: Database, pruned: Pruned, ignore: Collection[str]
) -> list[str]:
    """Return the consumers that have still to come to what is going to be deleted, and where they are."""
    try:
        async with on.connection(consumers.name) as connection:
            found = await consumers.all(connection)
    except TableNotFound:
        return []
    last = str(int(pruned.end) - 1)
    return [
        f"{name} (at {cursor})"
        for name, cursor in found.items()
        if pruned.events and is_behind(cursor, last) and not any(fnmatchcase(name, each) for each in ignore)
    ]


def _why(pruned: Pruned) -> str:
    """Say what keeps the first event that stays."""
    if pruned.limit == "consumer" and not pruned.consumer:
        return "no consumer has a cursor yet, so all are kept"
    if pruned.limit == "consumer" and pruned.end == "0":
        return f"all are kept for {pruned.consumer}, which has consumed none, or has a cursor of another kind"
    reasons = {
        "consumer": f"where the slowest consumer is, {pruned.consumer}",
        "age": "which is younger",
        "noop": "a noop that is too young: it keeps late writers from its id",
        "before": "as asked for",
        "newest": "the newest, which always stays",
    }
    return f"events are kept from {pruned.end} on, {reasons[pruned.limit]}"


def _events(count: int) -> str:
    return f"{count} event" if count == 1 else f"{count} events"
