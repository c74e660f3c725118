"""``dead-letters``: the events that consumers gave up on."""

from collections.abc import Sequence
from typing import Annotated

import typer

from reflex_aio.cli.database import database, databases
from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.cli.loading import load
from reflex_aio.cli.options import (
    AsJson,
    CursorsDatabaseOptions,
    DatabaseOptions,
    ErrorsOptions,
    EventsOptions,
)
from reflex_aio.cli.output import moment, note, print_json, print_lines, print_table
from reflex_aio.cli.running import command
from reflex_aio.consumer import Consumer
from reflex_aio.event import Event
from reflex_aio.sql import ConsumerError, ErrorStatus

__all__ = ["list_", "replay", "resolve", "show"]

# How much of a message fits into a line.
_SHORT = 60

_STATUSES = {"recorded": int(ErrorStatus.RECORDED), "resolved": int(ErrorStatus.RESOLVED)}

Id = Annotated[str, typer.Argument(metavar="ID", help="The error's id.", show_default=False)]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="The errors' ids.", show_default=False)]


@command
async def list_(
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    errors: ErrorsOptions,
    consumer: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Those of this consumer alone.")
    ] = None,
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="recorded, resolved, all, or a number of your own.")
    ] = "recorded",
    after: Annotated[
        str,
        typer.Option(metavar="ID", show_default=False, help="Those after this one, to go on with a list."),
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the errors of consumers, oldest first."""
    wanted = _status(status)
    table = errors.table()
    async with (
        database(cursors_at.cursors_dsn or at.dsn) as opened,
        opened.connection(table.name) as connection,
    ):
        try:
            found = await table.find(connection, consumer=consumer, status=wanted, after=after, limit=limit)
        except ValueError as exc:
            raise CommandError(str(exc), Exit.USAGE) from exc
    if as_json:
        print_json({"errors": found})
        return
    print_table(
        ("#id", "consumer", "#event", "status", "updated", "message"),
        [
            (
                each.id,
                each.consumer,
                each.event_id,
                _told(each.status),
                moment(each.updated_at),
                _short(each.message),
            )
            for each in found
        ],
    )
    if len(found) == limit:
        note(f"there may be more: --after {found[-1].id} goes on")


@command
async def show(
    error_id: Id,
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    errors: ErrorsOptions,
    as_json: AsJson = False,
) -> None:
    """Show an error in full."""
    table = errors.table()
    async with (
        database(cursors_at.cursors_dsn or at.dsn) as opened,
        opened.connection(table.name) as connection,
    ):
        found = await table.get(connection, _id(error_id))
    if as_json:
        print_json(found)
    else:
        print_lines(_lines(found))


@command
async def resolve(
    error_ids: Ids,
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    errors: ErrorsOptions,
    as_json: AsJson = False,
) -> None:
    """Mark errors as resolved, all of them or, if there is no such error, none."""
    table, changed = errors.table(), {}
    async with (
        database(cursors_at.cursors_dsn or at.dsn) as opened,
        opened.connection(table.name) as connection,
        opened.transaction(connection),
    ):
        for error_id in map(_id, error_ids):
            changed[error_id] = await table.resolve(connection, error_id)
    if as_json:
        print_json({"errors": [{"id": error_id, "changed": change} for error_id, change in changed.items()]})
    else:
        print_lines(
            f"{error_id}: {'resolved' if change else 'was resolved already'}"
            for error_id, change in changed.items()
        )


@command
async def replay(
    error_ids: Ids,
    handler: Annotated[
        str,
        typer.Option(
            metavar="MODULE:OBJECT",
            show_default=False,
            help="The consumer, or its function, which the event is handed to.",
        ),
    ],
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    events: EventsOptions,
    errors: ErrorsOptions,
    as_json: AsJson = False,
) -> None:
    """Hand the events of errors to a handler once more, and mark those as resolved that it consumes.

    The consumer's cursor stays where it is. An error of the handler is recorded as the new message, and the next event
    is tried; the command then ends with status 1.
    """
    found = load("--handler", handler)
    function = found.handler if isinstance(found, Consumer) else found
    if not callable(function):
        raise CommandError(f"--handler {handler!r} is neither a Consumer nor an async function", Exit.USAGE)
    events_table, table = events.table(), errors.table()
    raised: list[Exception] = []

    async def handed(event: Event) -> None:
        try:
            await function(event)
        except Exception as exc:
            raised.append(exc)
            raise

    async with databases(at.dsn, cursors_at.cursors_dsn) as (events_in, errors_in):
        async with events_in.connection(events_table.name) as connection:
            events_table = await events_table.as_found(connection)
        source = events_table.source(events_in.pool)
        for error_id in map(_id, error_ids):
            told = None
            try:
                resolved = await table.replay(errors_in.pool, error_id, source=source, handler=handed)
            except Exception as exc:
                if exc not in raised:
                    raise
                resolved, told = False, " ".join(f"{type(exc).__name__}: {exc}".split())
            if as_json:
                print_json({"id": error_id, "resolved": resolved, "error": told})
            else:
                print_lines([f"{error_id}: {'resolved' if resolved else told or 'was changed meanwhile'}"])
    if raised:
        raise CommandError(f"the handler has failed on {len(raised)} of {len(error_ids)}")


def _id(error_id: str) -> str:
    if not (error_id.isascii() and error_id.isdecimal()):
        raise CommandError(f"{error_id!r} is not an error's id: that is a number", Exit.USAGE)
    return error_id


def _status(text: str) -> int | None:
    if text == "all":
        return None
    if text in _STATUSES:
        return _STATUSES[text]
    try:
        return int(text)
    except ValueError:
        accepted = ", ".join([*_STATUSES, "all"])
        raise CommandError(
            f"--status {text!r} is not accepted: {accepted} or a number are", Exit.USAGE
        ) from None


def _told(status: int) -> str:
    return next((name for name, number in _STATUSES.items() if number == status), str(status))


def _short(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _SHORT else f"{line[: _SHORT - 3]}..."


def _lines(error: ConsumerError) -> Sequence[str]:
    return [
        f"id        {error.id}",
        f"consumer  {error.consumer}",
        f"event     {error.event_id}",
        f"status    {_told(error.status)}",
        f"created   {moment(error.created_at)}",
        f"updated   {moment(error.updated_at)}",
        "",
        error.message,
    ]
