"""A replica of a service with an atomic consumer, as a process of its own."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from reflex_aio import Backoff, Event, run_forever
from reflex_aio.sql import AtomicBatchConsumer, AtomicConsumer, CursorsTable, EventsTable, atomic_spec

__all__ = ["NAME", "cursors", "events", "replica"]

NAME = "counting"
events = EventsTable("events", poll_period=0.05, page_size=200)
cursors = CursorsTable("cursors")


async def replica(dsn: str, batch: int) -> None:
    """Count each event's effects, until killed.

    :param batch: how many events share a transaction; with 1 each has its own
    """
    async with asyncpg.create_pool(dsn, min_size=0, max_size=4) as pool:
        if batch == 1:
            consumer: Any = AtomicConsumer(NAME, _count)
        else:
            consumer = AtomicBatchConsumer(NAME, _count_all, size=batch, age=0.02)
        print("ready", flush=True)
        spec = atomic_spec(events.source(pool), consumer, cursors=cursors, pool=pool)
        await run_forever(spec, backoff=Backoff(initial=0.005, maximum=0.1))


async def _count(event: Event, connection: asyncpg.Connection) -> None:
    # No key: a second effect is a second row, and no error.
    await connection.execute("INSERT INTO effects VALUES ($1)", event.id_int)
    await asyncio.sleep(0)


async def _count_all(batch: Sequence[Event], connection: asyncpg.Connection) -> None:
    for event in batch:
        await _count(event, connection)
