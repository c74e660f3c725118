"""A replica of a service with an atomic consumer, as a process of its own."""

import asyncio
from collections.abc import Sequence
from typing import Any

from reflex_aio import Backoff, ConnectionLost, Event, Spec, run_forever
from reflex_aio.sql import (
    AtomicBatchConsumer,
    AtomicConsumer,
    CursorsTable,
    EventsTable,
    open_pool,
)
from reflex_aio.sql.drivers import driver_of_connection

__all__ = ["NAME", "cursors", "events", "replica"]

NAME = "counting"
events = EventsTable("events", poll_period=0.05, page_size=200)
cursors = CursorsTable("cursors")


async def replica(dsn: str, batch: int) -> None:
    """Insert a row as the effect of each event, until killed.

    :param batch: the number of events in a transaction; 1 for a consumer without batches
    """
    if batch == 1:
        consumer: Any = AtomicConsumer(NAME, _count)
    else:
        consumer = AtomicBatchConsumer(NAME, _count_all, size=batch, age=0.02)
    print("ready", flush=True)
    while True:
        try:
            async with open_pool(dsn, size=4) as pool:
                spec = Spec(events.source(pool), cursors.store(pool), consumer)
                await run_forever(spec, backoff=Backoff(initial=0.005, maximum=0.1))
        except ConnectionLost:
            # The replica was started while the server was down.
            await asyncio.sleep(0.05)


async def _count(event: Event, connection: Any) -> None:
    # The table has no key: a second effect is a second row rather than an error.
    driver = driver_of_connection(connection)
    await driver.fetch(connection, f"INSERT INTO effects VALUES ({event.id_int})")
    await asyncio.sleep(0)


async def _count_all(batch: Sequence[Event], connection: Any) -> None:
    for event in batch:
        await _count(event, connection)
