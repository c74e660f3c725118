"""PgQueuer: jobs, over asyncpg."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.peers.base import Handle, Peer, Publish

__all__ = ["Pgqueuer"]

BATCH = 100


class Pgqueuer(Peer):
    """Jobs, fetched in batches of 100 instead of the default 10, and run concurrently."""

    name = "pgqueuer"

    async def install(self) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await Queries(AsyncpgDriver(connection)).install()
        finally:
            await connection.close()

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator[Publish]:
        connection = await asyncpg.connect(self.dsn)
        try:
            queries = Queries(AsyncpgDriver(connection))

            async def publish(row: int) -> None:
                await queries.enqueue("changed", str(row).encode())

            yield publish
        finally:
            await connection.close()

    @asynccontextmanager
    async def consumer(self, handle: Handle) -> AsyncIterator[None]:
        async with asyncpg.create_pool(self.dsn, min_size=2, max_size=4) as pool:
            worker = PgQueuer(AsyncpgPoolDriver(pool))

            @worker.entrypoint("changed")
            async def changed(job: Job) -> None:
                handle()

            running = asyncio.create_task(worker.run(batch_size=BATCH))
            try:
                yield
            finally:
                worker.shutdown.set()
                await running
