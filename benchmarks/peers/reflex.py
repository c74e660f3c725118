"""reflex_aio: events, over asyncpg."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import asyncpg

from benchmarks.peers.base import Handle, Peer, Publish
from reflex_aio import Consumer, Event, Spec, run_forever
from reflex_aio.sql import CursorsTable, EventsTable

__all__ = ["Reflex", "ReflexWrittenBehind"]

EVENTS = EventsTable("peer_events")
CURSORS = CursorsTable("peer_cursors")


class Reflex(Peer):
    """Events, with the cursor committed after each one, as a job queue commits each finished job."""

    name = "reflex_aio"
    flush_every: ClassVar[float | None] = None

    async def install(self) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await EVENTS.create(connection)
            await CURSORS.create(connection)
        finally:
            await connection.close()

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator[Publish]:
        async with (
            asyncpg.create_pool(self.dsn, min_size=1, max_size=1) as pool,
            pool.acquire() as connection,
        ):

            async def publish(row: int) -> None:
                await EVENTS.insert(connection, row, 1)

            yield publish

    @asynccontextmanager
    async def consumer(self, handle: Handle) -> AsyncIterator[None]:
        async def consume(event: Event) -> None:
            handle()

        async with asyncpg.create_pool(self.dsn, min_size=1, max_size=4) as pool:
            store = CURSORS.store(pool, flush_every=self.flush_every)
            spec = Spec(EVENTS.source(pool), store, Consumer(f"peer {type(self).__name__}", consume))
            running = asyncio.create_task(run_forever(spec))
            try:
                yield
            finally:
                running.cancel()
                await asyncio.wait([running])


class ReflexWrittenBehind(Reflex):
    """Events with write-behind cursors: after a crash, the events of up to a second are repeated."""

    name = "reflex_aio, cursors written behind"
    flush_every = 1.0
