"""Servers and sources for the tests of this directory."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from reflex_aio import Event, EventStream, Source
from reflex_aio.memory import MemoryEvents
from reflex_aio.rpc import StreamServer, channel_options, server_options


@asynccontextmanager
async def serving(streams: StreamServer, **options: Any) -> AsyncIterator[grpc.aio.Channel]:
    """Serve ``streams`` on a server of their own, and yield a channel to it. ``options`` go to ``add_to``."""
    server = grpc.aio.server(options=server_options())
    streams.add_to(server, **options)
    async with started(server) as target, grpc.aio.insecure_channel(target, channel_options()) as channel:
        yield channel
        await streams.stop()


@asynccontextmanager
async def started(server: grpc.aio.Server) -> AsyncIterator[str]:
    """Start ``server`` on a free port, and yield its address."""
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def some_events(count: int, **fields: Any) -> MemoryEvents:
    """Return events 1 to ``count``, of the foreign ids 1 to ``count``."""
    events = MemoryEvents()
    for i in range(1, count + 1):
        await events.insert(i, 1, **fields)
    return events


def ids(events: Sequence[Event]) -> list[int]:
    return [int(event.id) for event in events]


async def take(stream: EventStream, count: int) -> list[Event]:
    """Return the next ``count`` events."""
    return [await anext(stream) for _ in range(count)]


class Watched:
    """A source that counts the streams that are open.

    :param failure: what its streams raise when they have no events left
    :ivar opening: awaited before a stream is opened
    :ivar closing: awaited before a stream is closed
    """

    def __init__(self, source: Source, failure: BaseException | None = None) -> None:
        self.source = source
        self.failure = failure
        self.opening: Callable[[], Awaitable[object]] | None = None
        self.closing: Callable[[], Awaitable[object]] | None = None
        self.open = 0

    def stream(self, after: str = "", **options: Any) -> EventStream:
        options["to_head"] |= self.failure is not None
        return _WatchedStream(self, self.source.stream(after, **options))

    async def head(self) -> str:
        if self.failure is not None:
            raise self.failure
        return await self.source.head()


class _WatchedStream(EventStream):
    def __init__(self, watched: Watched, stream: EventStream) -> None:
        super().__init__("")
        self._watched = watched
        self._stream = stream
        watched.open += 1

    async def _open(self) -> str:
        if self._watched.opening is not None:
            await self._watched.opening()
        await self._stream.__aenter__()
        return self._stream.cursor

    async def _read(self) -> Sequence[Event]:
        page = await self._stream.read_page()
        if not page and self._watched.failure is not None:
            raise self._watched.failure
        return page

    async def _close(self) -> None:
        try:
            if self._watched.closing is not None:
                await self._watched.closing()
        finally:
            await self._stream.aclose()
            self._watched.open -= 1
