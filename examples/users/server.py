"""A gRPC server for the stream of the users' events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from examples.users.schema import user_events
from reflex_aio.rpc import StreamServer, server_options


@asynccontextmanager
async def serving(pool: Any, address: str = "127.0.0.1:0") -> AsyncIterator[int]:
    """Serve the stream ``users`` at ``address``, and yield the port."""
    streams = StreamServer({"users": user_events.source(pool)})
    server = grpc.aio.server(options=server_options())
    port = server.add_insecure_port(address)
    streams.add_to(server)
    await server.start()
    try:
        yield port
    finally:
        # In this order, streams end with a status that makes clients reconnect.
        await streams.stop()
        await server.stop(grace=1.0)
