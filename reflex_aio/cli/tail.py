"""``tail``: events as they are committed, from a table or a gRPC service."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from reflex_aio.cli.command import CommandError, Exit, command
from reflex_aio.cli.options import AsJson, DatabaseOptions, EventsOptions, open_database
from reflex_aio.cli.output import event_to_json, format_event, print_lines
from reflex_aio.event import Event
from reflex_aio.stream import Source

__all__ = ["tail"]

_GRPC = "gRPC"


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """The stream of a gRPC service, to read instead of a table."""

    grpc: Annotated[
        str | None,
        typer.Option(
            "--grpc",
            envvar="REFLEX_GRPC",
            metavar="HOST:PORT",
            show_default=False,
            rich_help_panel=_GRPC,
            help="Read the stream of this service instead of a table.",
        ),
    ] = None
    stream: Annotated[
        str | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            show_default=False,
            rich_help_panel=_GRPC,
            help="The name of the stream, if the service has several.",
        ),
    ] = None
    tls: Annotated[
        bool,
        typer.Option(
            "--tls", rich_help_panel=_GRPC, help="Use TLS, with the root certificates that gRPC trusts."
        ),
    ] = False
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca",
            exists=True,
            dir_okay=False,
            show_default=False,
            rich_help_panel=_GRPC,
            help="Use TLS, with the root certificates in this file.",
        ),
    ] = None


@command
async def tail(
    at: DatabaseOptions,
    events: EventsOptions,
    remote: RemoteOptions,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="CURSOR", show_default=False, help="Start after this event; 0 is the beginning."
        ),
    ] = None,
    from_head: Annotated[
        bool,
        typer.Option("--from-head", help="Start with new events. The default without --to-head."),
    ] = False,
    to_head: Annotated[
        bool, typer.Option("--to-head", help="End after the newest event instead of following.")
    ] = False,
    types: Annotated[
        str | None, typer.Option(metavar="N,N", show_default=False, help="Only events of these types.")
    ] = None,
    foreign_id: Annotated[
        str | None, typer.Option(metavar="ID", show_default=False, help="Only events with this foreign id.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, show_default=False, help="End after this number of events."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print events in order as they are committed, from a table or a gRPC service.

    Each event is a line with its id, time (UTC), type, foreign id and metadata. With --json it is a JSON object, with
    metadata and trace in Base64. If the connection is lost, the command ends with status 5. To continue, pass the last
    id to --after.
    """
    if from_head and (to_head or after is not None):
        raise CommandError("--from-head can't be combined with --after or --to-head", Exit.USAGE)
    matches = _make_filter(types, foreign_id)
    from_head = after is None and not to_head
    async with (
        _open_source(at, events, remote) as source,
        source.stream(after or "", from_head=from_head, to_head=to_head) as stream,
    ):
        left = limit
        while left != 0 and (page := await stream.read_page()):
            shown = [event for event in page if matches(event)][:left]
            print_lines(event_to_json(event) if as_json else format_event(event) for event in shown)
            left = None if left is None else left - len(shown)


@asynccontextmanager
async def _open_source(
    at: DatabaseOptions, events: EventsOptions, remote: RemoteOptions
) -> AsyncIterator[Source]:
    if remote.grpc is not None:
        async with _open_remote_source(remote.grpc, remote) as source:
            yield source
        return
    table = events.table()
    async with open_database(at.dsn) as database:
        async with database.connection(table.name) as connection:
            table = await table.as_found(connection)
        yield table.source(database.pool)


@asynccontextmanager
async def _open_remote_source(target: str, options: RemoteOptions) -> AsyncIterator[Source]:
    import grpc

    from reflex_aio.rpc import RemoteSource, channel_options

    if options.tls or options.tls_ca is not None:
        credentials = grpc.ssl_channel_credentials(options.tls_ca.read_bytes() if options.tls_ca else None)
        channel = grpc.aio.secure_channel(target, credentials, channel_options())
    else:
        channel = grpc.aio.insecure_channel(target, channel_options())
    async with channel:
        try:
            source = RemoteSource(channel, options.stream)
        except ValueError as exc:
            raise CommandError(f"--stream: {exc}", Exit.USAGE) from exc
        yield source


def _make_filter(types: str | None, foreign_id: str | None) -> Callable[[Event], bool]:
    """Return a predicate for the events to print."""
    try:
        numbers = None if types is None else {int(number) for number in types.split(",")}
    except ValueError:
        raise CommandError(
            f"--types {types!r} is not accepted: accepted is numbers such as 1,2,3", Exit.USAGE
        ) from None

    def matches(event: Event) -> bool:
        return (numbers is None or event.type in numbers) and foreign_id in (None, event.foreign_id)

    return matches
