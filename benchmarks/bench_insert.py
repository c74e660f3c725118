"""Inserts: an update and an event in one transaction, compared with a plain INSERT instead."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from benchmarks.measure import Baseline, Measured, Result, compare
from reflex_aio.sql import EventsTable

__all__ = ["bench_insert"]

EVENTS = EventsTable("bench_inserts")
SILENT = EVENTS.replace(wakeups=None)
LOUD = EVENTS.replace(wakeups="transaction")
WRITERS = 64
# Simulates a slow disk: PostgreSQL itself waits before each flush of the log. Commits that wait at the same time share
# one flush.
COMMIT_MS = 2
SLOW_COMMIT = {"commit_delay": str(COMMIT_MS * 1000), "commit_siblings": "0"}
SHORTER = 5
# Transactions before the first measured one: the steady state is measured, not the start.
WARM_UP = 64
MANY = 1000
BATCHES = 2


async def bench_insert(dsn: str, *, transactions: int, repeat: int) -> list[Result]:
    """Measure ``transactions`` transactions of each kind."""
    async with (
        asyncpg.create_pool(dsn, min_size=8, max_size=WRITERS) as pool,
        asyncpg.create_pool(dsn, min_size=8, max_size=WRITERS, server_settings=SLOW_COMMIT) as slow_pool,
    ):
        await _prepare(pool)

        async def insert(name: str, what: str, ours: Any, against: Baseline, **more: Any) -> Result:
            measured = _transacting(
                pool, ours, more.pop("transactions", transactions), more.pop("writers", 1)
            )
            times = more.pop("repeat", repeat)
            return await compare(
                name, what=what, ours=measured, against=against, unit="transactions/s", repeat=times, **more
            )

        # A single writer waits for the disk most of the time, and the load by other users of the disk changes within a
        # second. So the same number of transactions is measured in more and shorter pairs.
        few = {"transactions": transactions // SHORTER, "repeat": repeat * SHORTER}
        plain = Baseline("plain INSERT", _transacting(pool, _plain, transactions // SHORTER, 1))
        silent = Baseline("wake-ups off", _transacting(pool, _insert(SILENT), transactions, 8))
        # Each writer has as many transactions as with eight writers.
        many = transactions * WRITERS // 8
        within = Baseline("NOTIFY within", _transacting(slow_pool, _insert(LOUD), transactions, WRITERS))
        copy = Baseline("COPY", _copying(pool))
        return [
            await insert("insert", "insert, 1 writer", _insert(EVENTS), plain, goal=0.95, **few),
            await insert("insert_silent", "insert, 1 writer, wake-ups off", _insert(SILENT), plain, **few),
            await insert("insert_8", "insert, 8 writers", _insert(EVENTS), silent, writers=8),
            await insert(
                "insert_8_notify", "insert, 8 writers, NOTIFY within", _insert(LOUD), silent, writers=8
            ),
            await insert(
                "insert_64",
                f"insert, {WRITERS} writers",
                _insert(EVENTS),
                Baseline("wake-ups off", _transacting(pool, _insert(SILENT), many, WRITERS)),
                transactions=many,
                writers=WRITERS,
                goal=0.9,
            ),
            await compare(
                "insert_64_slow_commit",
                what=f"the same, commits of {COMMIT_MS} ms",
                ours=_transacting(slow_pool, _insert(EVENTS), transactions, WRITERS),
                against=within,
                unit="transactions/s",
                goal=10,
                repeat=max(1, repeat // 3),
            ),
            # The best possible result.
            await compare(
                "insert_64_slow_commit_plain",
                what="the same, plain INSERT",
                ours=_transacting(slow_pool, _plain, transactions, WRITERS),
                against=within,
                unit="transactions/s",
                repeat=max(1, repeat // 3),
            ),
            await compare(
                "insert_many",
                what=f"insert_many of {MANY}",
                ours=_inserting_many(pool),
                against=copy,
                unit="events/s",
                goal=0.9,
                repeat=repeat * SHORTER,
            ),
        ]


async def _prepare(pool: Any) -> None:
    async with pool.acquire() as connection:
        await EVENTS.create(connection)
        await connection.execute("CREATE TABLE bench_users (id bigint PRIMARY KEY, name text NOT NULL)")
        await connection.execute(
            "INSERT INTO bench_users SELECT i, 'nobody' FROM generate_series(1, 64) AS i"
        )


async def _plain(connection: Any, user: int) -> None:
    await connection.fetch(
        "INSERT INTO bench_inserts (foreign_id, type) VALUES ($1, $2) RETURNING id", str(user), 1
    )


def _insert(events: EventsTable) -> Any:
    async def insert(connection: Any, user: int) -> None:
        await events.insert(connection, user, 1)

    return insert


def _transacting(pool: Any, insert: Any, transactions: int, writers: int) -> Measured:
    async def write(connection: Any, user: int, times: int) -> None:
        for i in range(times):
            async with connection.transaction():
                await connection.execute("UPDATE bench_users SET name = $2 WHERE id = $1", user, str(i))
                await insert(connection, user)

    async def measure() -> float:
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(pool.acquire()) for _ in range(writers)]

            async def write_all(times: int) -> float:
                began = time.perf_counter()
                async with asyncio.TaskGroup() as group:
                    for user, connection in enumerate(connections, 1):
                        group.create_task(write(connection, user, times))
                return writers * times / (time.perf_counter() - began)

            await write_all(WARM_UP // writers)
            return await write_all(transactions // writers)

    return measure


def _inserting_many(pool: Any) -> Measured:
    events = [(i, 1) for i in range(MANY)]

    async def measure() -> float:
        async with pool.acquire() as connection:
            began = time.perf_counter()
            for _ in range(BATCHES):
                async with connection.transaction():
                    await EVENTS.insert_many(connection, events)
            return BATCHES * MANY / (time.perf_counter() - began)

    return measure


def _copying(pool: Any) -> Measured:
    records = [(str(i), 1) for i in range(MANY)]

    async def measure() -> float:
        async with pool.acquire() as connection:
            began = time.perf_counter()
            for _ in range(BATCHES):
                async with connection.transaction():
                    await connection.copy_records_to_table(
                        "bench_inserts", records=records, columns=["foreign_id", "type"]
                    )
            return BATCHES * MANY / (time.perf_counter() - began)

    return measure
