"""procrastinate: jobs, over psycopg."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import procrastinate

from benchmarks.peers.base import Handle, Peer, Publish

__all__ = ["Procrastinate"]

CONCURRENCY = 10


class Procrastinate(Peer):
    """Jobs, ten at a time instead of the default one, woken by LISTEN."""

    name = "procrastinate"

    async def install(self) -> None:
        async with procrastinate.App(
            connector=procrastinate.PsycopgConnector(conninfo=self.dsn)
        ).open_async() as app:
            await app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def publisher(self) -> AsyncIterator[Publish]:
        connector = procrastinate.PsycopgConnector(conninfo=self.dsn, min_size=1, max_size=1)
        async with procrastinate.App(connector=connector).open_async() as app:
            job = app.configure_task("changed")

            async def publish(row: int) -> None:
                await job.defer_async(row=row)

            yield publish

    @asynccontextmanager
    async def consumer(self, handle: Handle) -> AsyncIterator[None]:
        connector = procrastinate.PsycopgConnector(conninfo=self.dsn)
        async with procrastinate.App(connector=connector).open_async() as app:

            @app.task(name="changed")
            async def changed(row: int) -> None:
                handle()

            working = app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
            running = asyncio.create_task(working)
            try:
                yield
            finally:
                running.cancel()
                await asyncio.wait([running])
