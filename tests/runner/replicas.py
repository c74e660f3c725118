"""Replicas of a service that share leases in a database, each in a process of its own.

What they do is told by rows of ``effects``: who has handled which event.
"""

import asyncio
import logging
import time
from signal import SIGTERM
from typing import Any

from reflex_aio import Consumer, Event, Runner, Spec
from reflex_aio.patterns import by_foreign_id, shards
from reflex_aio.sql import CursorsTable, EventsTable, LeasesTable, open_pool
from reflex_aio.sql.drivers import driver_of_connection, driver_of_pool

events = EventsTable("events", poll_period=0.2)
cursors, leases = CursorsTable("cursors"), LeasesTable("leases")


async def create(connection: Any) -> None:
    """Make all the tables."""
    for table in (events, cursors, leases):
        await table.create(connection)
    await driver_of_connection(connection).fetch(
        connection,
        "CREATE TABLE effects (consumer varchar(99) NOT NULL, event_id bigint NOT NULL, owner varchar(99) NOT NULL,"
        " at timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6))",
    )


async def note(pool: Any, owner: str, consumer: str, event_id: int) -> None:
    """Write an effect; when, the database tells."""
    driver = driver_of_pool(pool)
    async with driver.acquire(pool) as connection:
        await driver.fetch(
            connection,
            f"INSERT INTO effects (consumer, event_id, owner) VALUES ('{consumer}', {event_id}, '{owner}')",
        )


def specs_of(pool: Any, owner: str, count: int, seconds: float, blocks: bool) -> list[Spec]:
    """A spec for each of ``count`` shards of one consumer, whose handlers take ``seconds``, and may block the loop."""

    def spec_of(name: str, shard: object) -> Spec:
        async def handle(event: Event) -> None:
            await note(pool, owner, name, int(event.id))
            if blocks:
                time.sleep(seconds)  # noqa: ASYNC251
            else:
                await asyncio.sleep(seconds)

        consumer = Consumer(name, handle, filter=shard)  # type: ignore[arg-type]
        return Spec(events.source(pool), cursors.store(pool), consumer)

    return [spec_of(shard.name, shard) for shard in shards("work", count, key=by_foreign_id)]


async def replicate(
    dsn: str, owner: str, ttl: float, drain: float, count: int, seconds: float, blocks: bool
) -> None:
    """Run a replica until SIGTERM, and print ``cut off`` with those that didn't finish in time."""
    logging.basicConfig(level=logging.INFO, format=f"{owner}: %(message)s")
    async with open_pool(dsn, size=10) as pool:
        runner = Runner(
            specs_of(pool, owner, count, seconds, blocks),
            leases=leases.store(pool),
            lease_ttl=ttl,
            drain=drain,
            owner=owner,
        )
        print("ready", flush=True)
        await runner.run(signals=[SIGTERM])
        print(f"cut off {len(runner.unfinished)}", flush=True)
