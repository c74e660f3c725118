"""A process with an atomic consumer, which a test pauses in its handler."""

import asyncio
from typing import Any

from reflex_aio import Backoff, Event, Spec, run_forever
from reflex_aio.sql import AtomicConsumer, CursorsTable, EventsTable, open_pool
from reflex_aio.sql.drivers import driver_of_connection

__all__ = ["NAME", "consume", "cursors", "events"]

NAME = "counting"
events = EventsTable("events", poll_period=0.1)
cursors = CursorsTable("cursors")


async def consume(dsn: str, owner: str, idle_timeout: float | None, seconds: float) -> None:
    """Insert a row with the owner as the effect of each event, print a line, and then wait in the handler.

    :param seconds: how long the handler waits
    """

    async def handle(event: Event, connection: Any) -> None:
        driver = driver_of_connection(connection)
        await driver.fetch(connection, f"INSERT INTO effects VALUES ({event.id_int}, '{owner}')")
        print(f"handling {event.id}", flush=True)
        await asyncio.sleep(seconds)

    async with open_pool(dsn, size=4) as pool:
        consumer = AtomicConsumer(NAME, handle)
        store = cursors.store(pool, idle_timeout=idle_timeout)
        spec = Spec(events.source(pool), store, consumer)
        await run_forever(spec, backoff=Backoff(initial=0.01, maximum=0.1))
