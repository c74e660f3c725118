"""``serve``: event streams of tables over gRPC."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from reflex_aio.cli.command import CommandError, Exit, service
from reflex_aio.cli.options import AsJson, DatabaseOptions, EventsOptions, open_database
from reflex_aio.cli.output import print_json, print_line
from reflex_aio.sql import EventsTable

__all__ = ["serve"]

_GRPC = "gRPC"

PemFile = Path | None


@service
async def serve(
    at: DatabaseOptions,
    events: EventsOptions,
    streams: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            metavar="NAME=TABLE",
            show_default=False,
            help="A stream by name, instead of --events. May be repeated.",
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            rich_help_panel=_GRPC,
            help="The address; port 0 is any free port.",
        ),
    ] = "127.0.0.1:50051",
    health: Annotated[
        bool | None,
        typer.Option(rich_help_panel=_GRPC, show_default="if installed", help="Respond to health checks."),
    ] = None,
    reflection: Annotated[
        bool | None,
        typer.Option(
            rich_help_panel=_GRPC, show_default="if installed", help="Describe the services to clients."
        ),
    ] = None,
    tls_certificate: Annotated[
        PemFile,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default=False,
            rich_help_panel=_GRPC,
            help="Use TLS, with this certificate.",
        ),
    ] = None,
    tls_key: Annotated[
        PemFile,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default=False,
            rich_help_panel=_GRPC,
            help="The key of the certificate.",
        ),
    ] = None,
    tls_client_ca: Annotated[
        PemFile,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default=False,
            rich_help_panel=_GRPC,
            help="Require client certificates issued by one of these.",
        ),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            rich_help_panel=_GRPC,
            help="The time that clients have to finish at the end.",
        ),
    ] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Serve event streams of tables over gRPC, until SIGTERM or Ctrl-C.

    Streams then end with a status that makes clients reconnect, and the command ends with status 0. Clients are
    RemoteSource of reflex_aio, `tail --grpc`, and those of luno/reflex.
    """
    credentials = _make_credentials(tls_certificate, tls_key, tls_client_ca)
    tables = _parse_streams(streams, events)
    async with open_database(at.dsn, size=10) as database:
        sources = {}
        for name, table in tables.items():
            async with database.connection(table.name) as connection:
                sources[name] = (await table.as_found(connection)).source(database.pool)
        async with _run_server(
            sources,
            listen,
            credentials,
            health=find_spec("grpc_health") is not None if health is None else health,
            reflection=find_spec("grpc_reflection") is not None if reflection is None else reflection,
            grace=grace,
        ) as address:
            if as_json:
                print_json(
                    {"address": address, "streams": {name: each.name for name, each in tables.items()}}
                )
            else:
                names = ", ".join(f"{name} ({each.name})" for name, each in tables.items())
                print_line(f"serving {names} at {address}")
            await _wait_for_signal()


@asynccontextmanager
async def _run_server(
    sources: Mapping[str, Any], listen: str, credentials: Any, *, health: bool, reflection: bool, grace: float
) -> AsyncIterator[str]:
    """Run a server, and yield its address."""
    import grpc

    from reflex_aio.rpc import StreamServer, server_options

    try:
        streams = StreamServer(sources)
    except ValueError as exc:
        raise CommandError(f"--stream: {exc}", Exit.USAGE) from exc
    server = grpc.aio.server(options=server_options())
    try:
        port = (
            server.add_insecure_port(listen)
            if credentials is None
            else server.add_secure_port(listen, credentials)
        )
    except RuntimeError as exc:
        raise CommandError(
            f"--listen {listen!r}: the port is in use, or the host is not a local address"
        ) from exc
    streams.add_to(server, health=health, reflection=reflection)
    await server.start()
    try:
        yield f"{listen.rpartition(':')[0]}:{port}"
    finally:
        # In this order, streams end with a status that makes clients reconnect.
        await streams.stop(grace=grace)
        await server.stop(grace=grace)


async def _wait_for_signal() -> None:
    """Wait for SIGTERM, SIGHUP or Ctrl-C."""
    received, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(number, received.set)
    await received.wait()


def _parse_streams(streams: list[str] | None, events: EventsOptions) -> dict[str, EventsTable]:
    """Return the tables by stream name."""
    if not streams:
        table = events.table()
        return {table.name: table}
    tables: dict[str, EventsTable] = {}
    for stream in streams:
        name, _, table_name = stream.partition("=")
        if not name or not table_name or name in tables:
            raise CommandError(
                f"--stream {stream!r} is not accepted: accepted is name=table, each name once", Exit.USAGE
            )
        tables[name] = EventsOptions(table_name, events.events_columns).table()
    return tables


def _make_credentials(certificate: PemFile, key: PemFile, client_ca: PemFile) -> Any:
    """Return the credentials of a server, or ``None`` for one without TLS."""
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise CommandError("--tls-certificate and --tls-key must be used together", Exit.USAGE)
    import grpc

    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=None if client_ca is None else client_ca.read_bytes(),
        require_client_auth=client_ca is not None,
    )
