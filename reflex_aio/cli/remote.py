"""The stream of a remote service, as an option in place of a database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.stream import Source

__all__ = ["RemoteOptions"]

_PANEL = "gRPC"


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Which remote stream, if any."""

    grpc: Annotated[
        str | None,
        typer.Option(
            "--grpc",
            envvar="REFLEX_GRPC",
            metavar="HOST:PORT",
            show_default=False,
            rich_help_panel=_PANEL,
            help="Read the stream of this service instead of a table.",
        ),
    ] = None
    stream: Annotated[
        str | None,
        typer.Option(
            "--stream",
            metavar="NAME",
            show_default=False,
            rich_help_panel=_PANEL,
            help="Which of its streams, if it has several.",
        ),
    ] = None
    tls: Annotated[
        bool,
        typer.Option("--tls", rich_help_panel=_PANEL, help="Over TLS, by the certificates that gRPC trusts."),
    ] = False
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-ca",
            exists=True,
            dir_okay=False,
            show_default=False,
            rich_help_panel=_PANEL,
            help="Over TLS, by the certificates in this file.",
        ),
    ] = None

    @asynccontextmanager
    async def source(self) -> AsyncIterator[Source]:
        """Open a channel to the service, and return its stream."""
        import grpc

        from reflex_aio.rpc import RemoteSource, channel_options

        assert self.grpc is not None
        if self.tls or self.tls_ca is not None:
            credentials = grpc.ssl_channel_credentials(self.tls_ca.read_bytes() if self.tls_ca else None)
            channel = grpc.aio.secure_channel(self.grpc, credentials, channel_options())
        else:
            channel = grpc.aio.insecure_channel(self.grpc, channel_options())
        async with channel:
            try:
                source = RemoteSource(channel, self.stream)
            except ValueError as exc:
                raise CommandError(f"--stream: {exc}", Exit.USAGE) from exc
            yield source
