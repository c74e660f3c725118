"""``serve``: the streams of tables over gRPC."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from reflex_aio.cli.database import database
from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.cli.options import AsJson, DatabaseOptions, EventsOptions
from reflex_aio.cli.output import print_json, print_line
from reflex_aio.cli.running import service
from reflex_aio.sql import EventsTable

__all__ = ["serve"]

_PANEL = "gRPC"

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
            help="A stream by name, in place of --events; may be given several times.",
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", rich_help_panel=_PANEL, help="Where; port 0 is any that is free."),
    ] = "127.0.0.1:50051",
    health: Annotated[
        bool | None,
        typer.Option(rich_help_panel=_PANEL, show_default="if installed", help="Answer health checks."),
    ] = None,
    reflection: Annotated[
        bool | None,
        typer.Option(rich_help_panel=_PANEL, show_default="if installed", help="Describe the services."),
    ] = None,
    tls_certificate: Annotated[
        PemFile,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default=False,
            rich_help_panel=_PANEL,
            help="Serve over TLS, with this.",
        ),
    ] = None,
    tls_key: Annotated[
        PemFile,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default=False,
            rich_help_panel=_PANEL,
            help="The certificate's key.",
        ),
    ] = None,
    tls_client_ca: Annotated[
        PemFile,
        typer.Option(
            exists=True,
            dir_okay=False,
            show_default=False,
            rich_help_panel=_PANEL,
            help="Serve clients alone that have a certificate by one of these.",
        ),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0, rich_help_panel=_PANEL, help="How long clients have at the end."
        ),
    ] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Serve the streams of tables over gRPC, until SIGTERM or Ctrl-C.

    Clients are then told to come back, and the command ends with status 0. They are reflex_aio's RemoteSource, `tail
    --grpc`, and those of luno/reflex.
    """
    credentials = _credentials(tls_certificate, tls_key, tls_client_ca)
    tables = _tables(streams, events)
    async with database(at.dsn, size=10) as opened:
        sources = {}
        for name, table in tables.items():
            async with opened.connection(table.name) as connection:
                sources[name] = (await table.as_found(connection)).source(opened.pool)
        async with _serving(
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
                told = ", ".join(f"{name} ({each.name})" for name, each in tables.items())
                print_line(f"serving {told} at {address}")
            await _asked_to_stop()


@asynccontextmanager
async def _serving(
    sources: Mapping[str, Any], listen: str, credentials: Any, *, health: bool, reflection: bool, grace: float
) -> AsyncIterator[str]:
    """Serve meanwhile, and return the address."""
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
            f"--listen {listen!r} is not to be had: is the port taken, or the host another's?"
        ) from exc
    streams.add_to(server, health=health, reflection=reflection)
    await server.start()
    try:
        yield f"{listen.rpartition(':')[0]}:{port}"
    finally:
        # In this order: clients are told to come back, not cut off.
        await streams.stop(grace=grace)
        await server.stop(grace=grace)


async def _asked_to_stop() -> None:
    """Wait for SIGTERM, SIGHUP or Ctrl-C."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()


def _tables(streams: list[str] | None, events: EventsOptions) -> dict[str, EventsTable]:
    """Return the tables by the names of their streams."""
    if not streams:
        table = events.table()
        return {table.name: table}
    tables: dict[str, EventsTable] = {}
    for stream in streams:
        name, _, table_name = stream.partition("=")
        if not name or not table_name or name in tables:
            raise CommandError(
                f"--stream {stream!r} is not accepted: it is name=table, each name once", Exit.USAGE
            )
        tables[name] = EventsOptions(table_name, events.events_columns).table()
    return tables


def _credentials(certificate: PemFile, key: PemFile, client_ca: PemFile) -> Any:
    """Return credentials for a server, or ``None`` for one without TLS."""
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise CommandError("--tls-certificate and --tls-key go together", Exit.USAGE)
    import grpc

    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=None if client_ca is None else client_ca.read_bytes(),
        require_client_auth=client_ca is not None,
    )
