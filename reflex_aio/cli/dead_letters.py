"""``dead-letters``: the events that consumers have given up."""

from collections.abc import Sequence
from typing import Annotated

import typer

from reflex_aio.cli.command import CommandError, Exit, command
from reflex_aio.cli.options import (
    AsJson,
    CursorsDatabaseOptions,
    DatabaseOptions,
    ErrorsOptions,
    EventsOptions,
    load_object,
    open_database,
    open_databases,
)
from reflex_aio.cli.output import format_time, print_json, print_lines, print_note, print_table
from reflex_aio.consumer import Consumer
from reflex_aio.event import Event
from reflex_aio.sql import ConsumerError, ErrorStatus

__all__ = ["list_", "replay", "resolve", "show"]

# The maximum length of a message in a list.
_MAX_MESSAGE = 60

_STATUSES = {"recorded": int(ErrorStatus.RECORDED), "resolved": int(ErrorStatus.RESOLVED)}

Id = Annotated[str, typer.Argument(metavar="ID", help="The error's id.", show_default=False)]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="The errors' ids.", show_default=False)]


@command
async def list_(
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    errors: ErrorsOptions,
    consumer: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Only errors of this consumer.")
    ] = None,
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="recorded, resolved, all, or a number of your own.")
    ] = "recorded",
    after: Annotated[
        str,
        typer.Option(
            metavar="ID", show_default=False, help="Only errors after this one, to continue a list."
        ),
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="The maximum number of errors.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the errors of consumers, oldest first."""
    wanted = _parse_status(status)
    table = errors.table()
    async with (
        open_database(cursors_at.cursors_dsn or at.dsn) as database,
        database.connection(table.name) as connection,
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
                _format_status(each.status),
                format_time(each.updated_at),
                _shorten(each.message),
            )
            for each in found
        ],
    )
    _note_swapped(found)
    if len(found) == limit:
        print_note(f"there may be more: continue with --after {found[-1].id}")


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
        open_database(cursors_at.cursors_dsn or at.dsn) as database,
        database.connection(table.name) as connection,
    ):
        found = await table.get(connection, _check_id(error_id))
    if as_json:
        print_json(found)
    else:
        print_lines(_format_error(found))
        _note_swapped([found])


@command
async def resolve(
    error_ids: Ids,
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    errors: ErrorsOptions,
    as_json: AsJson = False,
) -> None:
    """Mark errors as resolved: all of them, or none if one does not exist."""
    table, changed = errors.table(), {}
    async with (
        open_database(cursors_at.cursors_dsn or at.dsn) as database,
        database.connection(table.name) as connection,
        database.transaction(connection),
    ):
        for error_id in map(_check_id, error_ids):
            changed[error_id] = await table.resolve(connection, error_id)
    if as_json:
        print_json({"errors": [{"id": error_id, "changed": change} for error_id, change in changed.items()]})
    else:
        print_lines(
            f"{error_id}: {'resolved' if change else 'already resolved'}"
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
            help="The consumer, or its function, to call with the events.",
        ),
    ],
    at: DatabaseOptions,
    cursors_at: CursorsDatabaseOptions,
    events: EventsOptions,
    errors: ErrorsOptions,
    as_json: AsJson = False,
) -> None:
    """Call a handler with the events of errors again, and mark those errors as resolved for which it succeeds.

    The consumer's cursor stays unchanged. If the handler raises, the error is recorded as the new message, the next
    event is tried, and the command ends with status 1.
    """
    found = load_object("--handler", handler)
    function = found.handler if isinstance(found, Consumer) else found
    if not callable(function):
        raise CommandError(f"--handler {handler!r} is neither a Consumer nor an async function", Exit.USAGE)
    events_table, table = events.table(), errors.table()
    raised: list[Exception] = []

    async def handle(event: Event) -> None:
        try:
            await function(event)
        except Exception as exc:
            raised.append(exc)
            raise

    async with open_databases(at.dsn, cursors_at.cursors_dsn) as (events_database, errors_database):
        async with events_database.connection(events_table.name) as connection:
            events_table = await events_table.as_found(connection)
        source = events_table.source(events_database.pool)
        for error_id in map(_check_id, error_ids):
            message = None
            try:
                resolved = await table.replay(errors_database.pool, error_id, source=source, handler=handle)
            except Exception as exc:
                if exc not in raised:
                    if isinstance(exc, ValueError):
                        raise CommandError(str(exc)) from exc
                    raise
                resolved, message = False, " ".join(f"{type(exc).__name__}: {exc}".split())
            if as_json:
                print_json({"id": error_id, "resolved": resolved, "error": message})
            else:
                outcome = "resolved" if resolved else message or "changed by another process"
                print_lines([f"{error_id}: {outcome}"])
    if raised:
        raise CommandError(f"the handler failed on {len(raised)} of {len(error_ids)}")


def _check_id(error_id: str) -> str:
    if not (error_id.isascii() and error_id.isdecimal()):
        raise CommandError(f"{error_id!r} is not an error id: accepted is a number", Exit.USAGE)
    return error_id


def _parse_status(text: str) -> int | None:
    """Return the number of a status, or ``None`` for ``all``."""
    if text == "all":
        return None
    if text in _STATUSES:
        return _STATUSES[text]
    try:
        return int(text)
    except ValueError:
        accepted = ", ".join([*_STATUSES, "all"])
        raise CommandError(
            f"--status {text!r} is not accepted: accepted is {accepted} or a number", Exit.USAGE
        ) from None


def _format_status(status: int) -> str:
    return next((name for name, number in _STATUSES.items() if number == status), str(status))


def _note_swapped(errors: Sequence[ConsumerError]) -> None:
    if swapped := [error.id for error in errors if error.swapped]:
        print_note(
            "the consumer's name is in the column of the event, and the event's id in that of the consumer, as"
            f" luno/reflex writes them: {', '.join(swapped)}"
        )


def _shorten(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _MAX_MESSAGE else f"{line[: _MAX_MESSAGE - 3]}..."


def _format_error(error: ConsumerError) -> Sequence[str]:
    return [
        f"id        {error.id}",
        f"consumer  {error.consumer}",
        f"event     {error.event_id}",
        f"status    {_format_status(error.status)}",
        f"created   {format_time(error.created_at)}",
        f"updated   {format_time(error.updated_at)}",
        "",
        error.message,
    ]
