"""As much of HTTP as health checks need."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from reflex_aio.health import HealthApp, Message

__all__ = ["serving"]

# How long a client may take to send its request, in seconds.
_TIMEOUT = 5.0


@asynccontextmanager
async def serving(app: HealthApp, *, host: str, port: int) -> AsyncIterator[str]:
    """Answer requests with ``app``, and yield the address.

    :raises OSError: if the port isn't free, or the host none of ours
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await _answer(app, reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # The client has gone, or is none.
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, port)
    async with server:
        bound = server.sockets[0].getsockname()
        yield f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"


async def _answer(app: HealthApp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, _, rest = head.partition(" ")
    path = rest.split(" ")[0].partition("?")[0]

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            status = HTTPStatus(message["status"])
            headers = [*message["headers"], (b"connection", b"close")]
            lines = [b"HTTP/1.1 %d %s" % (status, status.phrase.encode())]
            lines += [b"%s: %s" % header for header in headers]
            writer.write(b"\r\n".join([*lines, b"", b""]))
        else:
            writer.write(message["body"])
            await writer.drain()

    await app({"type": "http", "method": method, "path": path}, receive, send)
