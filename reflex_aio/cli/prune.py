"""``prune``: deletion of old events."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fnmatch import fnmatchcase
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
    Yes,
    open_databases,
    parse_age,
)
from reflex_aio.cli.output import confirm, format_count, print_json, print_line, show_progress
from reflex_aio.cursor import is_behind
from reflex_aio.errors import TableNotFound
from reflex_aio.sql import CursorsTable, EventsTable, Retention
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.sql.retention.prune import Pruned

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
            help="A consumer that keeps all events until it has a cursor. May be repeated.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            show_default=False,
            help="Consumers to ignore, such as those of another events table: 'payments-*'. May be repeated.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Delete events that consumers have not consumed, too. Asks for confirmation."
        ),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, max=100_000, help="The maximum number of events in a batch.")
    ] = 1000,
    pause: Annotated[
        float,
        typer.Option(
            metavar="FACTOR", min=0, help="The pause after each batch, as a multiple of the batch's duration."
        ),
    ] = 3.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete old events, oldest first, but none that a consumer has not consumed.

    With both --older-than and --before, only events that match both are deleted. Events after the slowest cursor of the
    cursors table are kept; the output names its consumer. Deletes in small batches that block no other transaction for
    long. If it is interrupted, the next run continues.
    """
    if older_than is None and before is None:
        raise CommandError("use --older-than, --before, or both", Exit.USAGE)
    seconds = None if older_than is None else parse_age("--older-than", older_than)
    if before is not None:
        before = check_cursor(before, "int")
    async with open_databases(at.dsn, cursors_at.cursors_dsn) as (events_database, cursors_database):
        table, cursors_table = events.table(), cursors.table()
        retention = Retention(
            older_than=seconds,
            before=before,
            cursors=() if force else cursors_table.store(cursors_database.pool),
            expect=expect or (),
            ignore=ignore or (),
            force=force,
        )
        if force and not dry_run:
            with _show_pruning(table, "counting") as show:
                counted = await table.prune(
                    events_database.pool, retention, dry_run=True, pause=0, progress=show
                )
            late = await _consumers_behind(cursors_table, cursors_database, counted, ignore or ())
            missed = f", some not yet consumed by {', '.join(late)}" if late else ""
            if counted.events:
                confirm(
                    f"Delete {format_count(counted.events)} of {table.name} before {counted.end}{missed}?",
                    yes=yes,
                )
        with _show_pruning(table, "counting" if dry_run else "deleting") as show:
            pruned = await table.prune(
                events_database.pool,
                retention,
                dry_run=dry_run,
                batch_size=batch_size,
                pause=pause,
                progress=show,
            )
    if as_json:
        print_json({"table": table.name, **asdict(pruned), "dry_run": dry_run})
    elif pruned.first:
        action = "would be deleted" if dry_run else "deleted"
        print_line(f"{table.name}: {format_count(pruned.events)} {action}; {_explain_limit(pruned)}")
    else:
        print_line(f"{table.name} is empty")


@contextmanager
def _show_pruning(table: EventsTable, action: str) -> Iterator[Callable[[Pruned], None]]:
    with show_progress(f"{action} events of {table.name}") as show:

        def update(pruned: Pruned) -> None:
            first = int(pruned.first) - 1
            done, total = max(0, int(pruned.position) - first), int(pruned.end) - 1 - first
            show(done, total, format_count(pruned.events))

        yield update


async def _consumers_behind(
    cursors: CursorsTable, database: Database, pruned: Pruned, ignore: Collection[str]
) -> list[str]:
    """Return the consumers that have not consumed all of the events to be deleted, with their cursors."""
    try:
        async with database.connection(cursors.name) as connection:
            found = await cursors.all(connection)
    except TableNotFound:
        return []
    last = str(int(pruned.end) - 1)
    return [
        f"{name} (at {cursor})"
        for name, cursor in found.items()
        if pruned.events and is_behind(cursor, last) and not any(fnmatchcase(name, each) for each in ignore)
    ]


def _explain_limit(pruned: Pruned) -> str:
    """Return the reason why the first remaining event is kept."""
    if pruned.limit == "consumer" and not pruned.consumer:
        return "all events are kept, as no consumer has a cursor yet"
    if pruned.limit == "consumer" and pruned.end == "0":
        return (
            f"all events are kept for {pruned.consumer}, which has consumed none, or whose cursor is not an"
            " event id"
        )
    reasons = {
        "consumer": f"the position of the slowest consumer, {pruned.consumer}",
        "age": "which is too young",
        "noop": "a noop that is too young: it blocks late inserts with its id",
        "before": "the event given by --before",
        "newest": "the newest event, which is always kept",
    }
    return f"events are kept from {pruned.end} on, {reasons[pruned.limit]}"
