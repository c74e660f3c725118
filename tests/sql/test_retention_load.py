"""Pruning while writers write, with gaps, and consumers consume: no consumer misses an event."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import asyncpg
import pytest

from reflex_aio import Consumer, CursorStore, Event, Spec, run
from reflex_aio.sql import CursorsTable, EventsTable, Retention, transaction
from tests.fix_backends import Backend, MysqlBackend, PostgresBackend
from tests.fix_databases import Database
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

WRITERS, TRANSACTIONS = 8, 60

events = EventsTable("events", poll_period=0.1)
cursors = CursorsTable("cursors")


class Writers:
    """Transactions of one event or several, of which a third is rolled back, and some stay open for a while."""

    def __init__(self, backend: Backend, pool: Any, chance: random.Random) -> None:
        self._backend = backend
        self._pool = pool
        self._chance = chance
        self.committed: list[int] = []

    async def write(self) -> None:
        for _ in range(TRANSACTIONS):
            async with self._pool.acquire() as connection:
                # One who comes late with an id that a noop has taken is refused, as is who meets a deadlock.
                with suppress(_RolledBack, self._backend.library_error):
                    await self._transaction(connection)

    async def _transaction(self, connection: Any) -> None:
        chance, ids = self._chance, []
        async with transaction(connection):
            for _ in range(chance.choice((1, 1, 3))):
                ids.append(int(await events.insert(connection, 1, 1)))
                await asyncio.sleep(chance.choice((0.0, 0.0, 0.002, 0.02)))
            if chance.random() < 0.33:
                raise _RolledBack
        self.committed += ids


class _RolledBack(Exception):
    """Rolls back a transaction."""


class Consumers:
    """A consumer that is stopped again and again, and begins anew at its cursor."""

    def __init__(self, name: str, pool: Any, store: CursorStore, pause: float, chance: random.Random) -> None:
        self._spec = Spec(events.source(pool), store, Consumer(name, self._consume))
        self._pause = pause
        self._chance = chance
        self.received: list[int] = []
        self.runs = 0

    async def _consume(self, event: Event) -> None:
        self.received.append(int(event.id))
        await asyncio.sleep(self._pause)

    async def run(self) -> None:
        while True:
            self.runs += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(self._chance.uniform(0.2, 0.6)):
                    await run(self._spec)


@asynccontextmanager
async def running(*tasks: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if not isinstance(outcome, asyncio.CancelledError):
                raise AssertionError("it ended by itself") from outcome


async def test_no_consumer_misses_an_event_that_is_pruned_under_load_on_mariadb(
    mysql: MysqlBackend, backend_pool: Any, seed: int
) -> None:
    await no_consumer_misses_an_event(mysql, backend_pool, random.Random(seed))


@pytest.mark.every_postgres
async def test_no_consumer_misses_an_event_that_is_pruned_under_load_on_postgres(
    database: Database, pool: asyncpg.Pool, seed: int
) -> None:
    backend = PostgresBackend(database.dsn)
    await no_consumer_misses_an_event(backend, pool, random.Random(seed))
    backend.close()


async def no_consumer_misses_an_event(backend: Backend, backend_pool: Any, chance: random.Random) -> None:
    arguments = {"autocommit": True} if backend.has_autocommit else {}
    connection = await backend.connect(**arguments)
    await events.create(connection)
    await cursors.create(connection)
    prunings = 0
    store = cursors.store(backend_pool)

    async def prune() -> None:
        nonlocal prunings
        # Noops go soon, so that there is something to prune; later than any of these writers comes.
        retention = Retention(older_than=0, cursors=store, expect=["fast", "slow", "lazy"], noop_age=1.0)
        while True:
            prunings += 1
            with suppress(TimeoutError):
                # Cut off anywhere, as by a crash; whatever it has in hand is rolled back or done.
                async with asyncio.timeout(chance.uniform(0.005, 0.2)):
                    await events.prune(backend_pool, retention, batch_size=50, pause=0.1)
            await asyncio.sleep(0.01)

    async with backend.pool(8) as consuming:
        lazy = cursors.store(consuming, flush_every=0.05)
        consumers = [
            Consumers("fast", consuming, cursors.store(consuming), 0.0, chance),
            Consumers("slow", consuming, cursors.store(consuming), 0.002, chance),
            Consumers("lazy", consuming, lazy, 0.001, chance),
        ]
        writers = Writers(backend, backend_pool, chance)
        tasks = [asyncio.create_task(consumer.run()) for consumer in consumers]
        pruners = [asyncio.create_task(prune()) for _ in range(2)]
        async with running(*tasks, *pruners):
            await asyncio.gather(*(writers.write() for _ in range(WRITERS)))
            committed = sorted(writers.committed)

            def all_there() -> bool:
                return all(consumer.received[-1:] >= committed[-1:] for consumer in consumers)

            await eventually(
                all_there,
                lambda: f"{committed[-1]} at {[each.received[-1:] for each in consumers]}",
                within=60,
            )

            async def pruned() -> bool:
                rows = await backend.fetch(
                    connection, f"SELECT COUNT(*) FROM events WHERE id < {committed[-50]}"
                )
                return bool(rows[0][0] == 0)

            await eventually(pruned, "what was consumed is gone", within=30)

    for consumer in consumers:
        assert sorted(set(committed) - set(consumer.received)) == []
        assert sorted(set(consumer.received) - set(committed)) == []
        # At each new run it goes back by what the store hadn't yet, and otherwise forward.
        received = consumer.received
        backward = sum(later <= earlier for earlier, later in pairwise(received))
        assert backward < consumer.runs
    assert prunings > 5
