"""``tail``: events as they come."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from reflex_aio.cli.database import database
from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.cli.options import AsJson, DatabaseOptions, EventsOptions
from reflex_aio.cli.output import json_line, print_lines
from reflex_aio.cli.remote import RemoteOptions
from reflex_aio.cli.running import command
from reflex_aio.cli.showing import event_line, event_object
from reflex_aio.event import Event
from reflex_aio.stream import Source

__all__ = ["tail"]


@command
async def tail(
    at: DatabaseOptions,
    events: EventsOptions,
    remote: RemoteOptions,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="CURSOR", show_default=False, help="Begin after this event; 0 is the beginning."
        ),
    ] = None,
    from_head: Annotated[
        bool,
        typer.Option("--from-head", help="Begin with what comes from now on. The default without --to-head."),
    ] = False,
    to_head: Annotated[
        bool, typer.Option("--to-head", help="End after the events that there are now, instead of following.")
    ] = False,
    types: Annotated[
        str | None, typer.Option(metavar="N,N", show_default=False, help="Events of these types alone.")
    ] = None,
    foreign_id: Annotated[
        str | None, typer.Option(metavar="ID", show_default=False, help="Events of this row alone.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, show_default=False, help="End after so many events.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show events as they come, in order, from a table or from a service.

    A line for each, with its id, time (UTC), type, foreign id and metadata. With --json, a JSON object for each, with
    metadata and trace in Base64. If the connection is lost, it ends with status 5; go on with --after and the last id.
    """
    if from_head and (to_head or after is not None):
        raise CommandError("--from-head goes with neither --after nor --to-head", Exit.USAGE)
    wanted = _wanted(types, foreign_id)
    from_head = after is None and not to_head
    async with (
        _source(at, events, remote) as source,
        source.stream(after or "", from_head=from_head, to_head=to_head) as stream,
    ):
        left = limit
        while left != 0 and (page := await stream.read_page()):
            shown = [event for event in page if wanted(event)][:left]
            print_lines(json_line(event_object(event)) if as_json else event_line(event) for event in shown)
            left = None if left is None else left - len(shown)


@asynccontextmanager
async def _source(at: DatabaseOptions, events: EventsOptions, remote: RemoteOptions) -> AsyncIterator[Source]:
    """Open what the events come from."""
    if remote.grpc is not None:
        async with remote.source() as source:
            yield source
        return
    table = events.table()
    async with database(at.dsn) as opened:
        async with opened.connection(table.name) as connection:
            table = await table.as_found(connection)
        yield table.source(opened.pool)


def _wanted(types: str | None, foreign_id: str | None) -> Callable[[Event], bool]:
    """Return what tells whether an event is to be shown."""
    try:
        numbers = None if types is None else {int(number) for number in types.split(",")}
    except ValueError:
        raise CommandError(f"--types {types!r} is not accepted: it is numbers, 1,2,3", Exit.USAGE) from None

    def wanted(event: Event) -> bool:
        return (numbers is None or event.type in numbers) and foreign_id in (None, event.foreign_id)

    return wanted
