"""Idle consumers under leases in one process: the transactions that they cost the server, on PostgreSQL and MariaDB."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.measure import Result, show_progress
from reflex_aio import Consumer, Event, Runner, Spec
from reflex_aio.ext.embedded import EmbeddedMariaDB, EmbeddedPostgres
from reflex_aio.sql import CursorsTable, EventsTable, LeasesTable, open_pool
from reflex_aio.sql.drivers import driver_of_pool

__all__ = ["bench_idle"]

EVENTS, CURSORS, LEASES = EventsTable("bench_idle"), CursorsTable("cursors"), LeasesTable("leases")
TTL = 15.0
# Transactions per second of a process, whatever the number of its consumers.
GOAL = 2.0

Count = Callable[[], Awaitable[int]]


async def bench_idle(server: EmbeddedPostgres, *, consumers: Sequence[int], seconds: float) -> list[Result]:
    """Count transactions on PostgreSQL, and on a private MariaDB, for ``seconds`` for each number of consumers."""
    async with _postgres(server) as (dsn, count):
        results = [await _measure("idle", "PostgreSQL", dsn, count, number, seconds) for number in consumers]
    async with _mariadb() as (dsn, count):
        return results + [
            await _measure("mysql_idle", "MariaDB", dsn, count, number, seconds) for number in consumers
        ]


@asynccontextmanager
async def _postgres(server: EmbeddedPostgres) -> AsyncIterator[tuple[str, Count]]:
    database = "bench_idle"
    connection = await asyncpg.connect(server.dsn)

    async def count() -> int:
        number = await connection.fetchval(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1", database
        )
        return int(number)

    try:
        await connection.execute(f"CREATE DATABASE {database}")
        yield server.dsn_for(database), count
    finally:
        await connection.close()


@asynccontextmanager
async def _mariadb() -> AsyncIterator[tuple[str, Count]]:
    async with EmbeddedMariaDB() as server, open_pool(server.dsn) as pool:
        driver = driver_of_pool(pool)
        # One connection for all: a pool would run statements of its own.
        connection = await driver.checkout(pool)
        try:
            await driver.fetch(connection, "CREATE DATABASE bench_idle")
            asked = 0

            async def count() -> int:
                # Every statement counts as a transaction, except for these, and for those between BEGIN and COMMIT: a
                # renewal is four statements.
                nonlocal asked
                asked += 1
                rows = await driver.fetch(
                    connection,
                    "SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_begin', 'Questions')",
                )
                counters = {name.lower(): int(value) for name, value in rows}
                return counters["questions"] - 3 * counters["com_begin"] - asked

            yield server.dsn_for("bench_idle"), count
        finally:
            await driver.release(pool, connection, broken=False)


async def _measure(
    name: str, database: str, dsn: str, count: Count, consumers: int, seconds: float
) -> Result:
    show_progress(f"{name}_{consumers}")

    async def ignore(event: Event) -> None: ...

    async with open_pool(dsn) as pool:
        driver = driver_of_pool(pool)
        async with driver.acquire(pool) as connection:
            for table in (EVENTS, CURSORS, LEASES):
                await table.create(connection)
        source, store = EVENTS.source(pool), CURSORS.store(pool)
        specs = [Spec(source, store, Consumer(f"idle-{number}", ignore)) for number in range(consumers)]
        async with Runner(specs, leases=LEASES.store(pool), lease_ttl=TTL) as runner:
            while not all(status.state.value == "running" for status in runner.statuses().values()):
                await runner.changed()
            # What opening the streams has cost is counted by then, and the pool's connections are idle.
            await asyncio.sleep(min(seconds, 10))
            before = await count()
            await asyncio.sleep(seconds)
            rate = (await count() - before) / seconds
    show_progress("")
    return Result(
        f"{name}_{consumers}",
        f"transactions of {consumers:,} idle consumers under leases, {database}",
        f"{GOAL:g} per second",
        "transactions/s",
        "lower",
        1.0,
        [{"ours": rate, "raw": GOAL, "ratio": rate / GOAL}],
    )
