"""MariaDB: streams, inserts and queries over asyncmy and aiomysql, compared with the plain library."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.measure import Baseline, Measured, Result, compare
from reflex_aio.ext.embedded import EmbeddedMariaDB
from reflex_aio.sql import EventsTable, open_pool, transaction

__all__ = ["bench_mysql"]

PAGE = 1000
EVENTS = EventsTable("bench_events", metadata=True, trace=True, page_size=PAGE)
INSERTS = EventsTable("bench_inserts")
QUERY = """
SELECT id, type, foreign_id, timestamp, metadata, trace FROM bench_events WHERE id > %s ORDER BY id LIMIT %s
"""
PLAIN = "INSERT INTO bench_inserts (foreign_id, type) VALUES (%s, %s)"
# The goals for streams: asyncmy decodes rows in C, aiomysql in Python.
LIBRARIES = {"asyncmy": 0.8, "aiomysql": 1.0}
MANY = 1000
BATCHES = 10
STREAMS = 100
# The pause between two inserts, in seconds: longer than a page takes, so that each is read by its own query.
PAUSE = 0.005
# The time in seconds after which events count as lost.
LONGEST = 120.0

Insert = Callable[[Any, int], Awaitable[None]]


async def bench_mysql(*, rows: int, transactions: int, inserts: int, repeat: int, more: int) -> list[Result]:
    """Measure on a private MariaDB, which flushes each commit to disk.

    :param rows: the number of events to stream
    :param transactions: the number of transactions of each kind
    :param inserts: the number of events that 100 streams at the head read one by one
    :param repeat: how many pairs to measure of streams, ``more`` of what takes less time
    """
    settings: dict[str, str | int | bool] = {
        "max_connections": 200,
        "innodb_buffer_pool_size": "512M",
        "innodb_log_file_size": "512M",
    }
    async with EmbeddedMariaDB(settings=settings) as server:
        async with open_pool(server.dsn) as pool:
            await _execute(pool, "CREATE DATABASE bench")
        results: list[Result] = []
        for library, goal in LIBRARIES.items():
            dsn = server.dsn_for("bench").replace("mysql:", f"mysql+{library}:", 1)
            async with open_pool(dsn) as pool:
                await _fill(pool, rows)
                results += await _streaming(pool, library, goal=goal, rows=rows, repeat=repeat)
                results += await _inserting(pool, library, transactions=transactions, repeat=more)
        async with open_pool(server.dsn_for("bench")) as pool:
            return [*results, await _sharing(pool, inserts=inserts)]


async def _execute(pool: Any, statement: str) -> Any:
    async with pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(statement)
        await connection.commit()
        return await cursor.fetchall()


async def _fill(pool: Any, rows: int) -> None:
    async with pool.acquire() as connection:
        await EVENTS.create(connection)
        await INSERTS.create(connection)
    await _execute(pool, "TRUNCATE bench_events")
    await _execute(
        pool,
        "INSERT INTO bench_events (foreign_id, type, metadata, trace)"
        f" SELECT seq, seq % 5 + 1, 'some metadata', 'a trace of the span' FROM seq_1_to_{rows}",
    )
    # aiomysql raises a Python warning for IF NOT EXISTS.
    await _execute(pool, "CREATE OR REPLACE TABLE bench_users (id bigint PRIMARY KEY, name text NOT NULL)")
    await _execute(pool, "INSERT INTO bench_users VALUES (1, 'nobody')")


async def _streaming(pool: Any, library: str, *, goal: float, rows: int, repeat: int) -> list[Result]:
    iterating, paging = _iterating(pool), _paging(pool)
    return [
        await compare(
            f"mysql_stream_{library}",
            what=f"MariaDB: async for, {library}",
            ours=iterating,
            against=Baseline(f"{library} paging", paging),
            unit="events/s",
            goal=goal,
            repeat=repeat,
        ),
        await compare(
            f"mysql_stream_{library}_cpu",
            what="the client's CPU for an event",
            ours=_cpu(iterating, rows),
            against=Baseline(f"{library} paging", _cpu(paging, rows)),
            unit="s",
            better="lower",
            repeat=repeat,
        ),
    ]


def _paging(pool: Any) -> Measured:
    async def measure() -> float:
        began, count, last = time.perf_counter(), 0, 0
        async with pool.acquire() as connection, connection.cursor() as cursor:
            while True:
                await cursor.execute(QUERY, (last, PAGE))
                page = await cursor.fetchall()
                if not page:
                    break
                for _row in page:
                    count += 1
                last = page[-1][0]
        return count / (time.perf_counter() - began)

    return measure


def _iterating(pool: Any) -> Measured:
    async def measure() -> float:
        began, count = time.perf_counter(), 0
        async with EVENTS.stream(pool, to_head=True) as stream:
            async for _event in stream:
                count += 1
        return count / (time.perf_counter() - began)

    return measure


def _cpu(work: Measured, events: int) -> Measured:
    """Measure the CPU of this process for each event of ``work``."""

    async def measure() -> float:
        began = time.process_time()
        await work()
        return (time.process_time() - began) / events

    return measure


async def _inserting(pool: Any, library: str, *, transactions: int, repeat: int) -> list[Result]:
    return [
        await compare(
            f"mysql_insert_{library}",
            what=f"MariaDB: insert, 1 writer, {library}",
            ours=_ours(pool, transactions),
            against=Baseline("plain INSERT", _plain(pool, transactions)),
            unit="transactions/s",
            goal=0.85,
            repeat=repeat,
        ),
        await compare(
            f"mysql_insert_many_{library}",
            what=f"MariaDB: insert_many of {MANY}, {library}",
            ours=_ours_many(pool),
            against=Baseline("executemany", _plain_many(pool)),
            unit="events/s",
            goal=0.6,
            repeat=repeat,
        ),
    ]


def _ours(pool: Any, transactions: int) -> Measured:
    async def measure() -> float:
        async with pool.acquire() as connection:
            began = time.perf_counter()
            for i in range(transactions):
                async with transaction(connection):
                    await _change(connection, i)
                    await INSERTS.insert(connection, 1, 1)
            return transactions / (time.perf_counter() - began)

    return measure


def _plain(pool: Any, transactions: int) -> Measured:
    async def measure() -> float:
        async with pool.acquire() as connection:
            began = time.perf_counter()
            for i in range(transactions):
                await connection.begin()
                await _change(connection, i)
                async with connection.cursor() as cursor:
                    await cursor.execute(PLAIN, ("1", 1))
                    assert cursor.lastrowid
                await connection.commit()
            return transactions / (time.perf_counter() - began)

    return measure


async def _change(connection: Any, value: int) -> None:
    async with connection.cursor() as cursor:
        await cursor.execute("UPDATE bench_users SET name = %s WHERE id = 1", (str(value),))


def _ours_many(pool: Any) -> Measured:
    events = [(i, 1) for i in range(MANY)]

    async def measure() -> float:
        async with pool.acquire() as connection:
            began = time.perf_counter()
            for _ in range(BATCHES):
                async with transaction(connection):
                    await INSERTS.insert_many(connection, events)
            return BATCHES * MANY / (time.perf_counter() - began)

    return measure


def _plain_many(pool: Any) -> Measured:
    rows = [(str(i), 1) for i in range(MANY)]

    async def measure() -> float:
        async with pool.acquire() as connection:
            began = time.perf_counter()
            for _ in range(BATCHES):
                await connection.begin()
                async with connection.cursor() as cursor:
                    await cursor.executemany(PLAIN, rows)
                await connection.commit()
            return BATCHES * MANY / (time.perf_counter() - began)

    return measure


async def _sharing(pool: Any, *, inserts: int) -> Result:
    """Count the SELECTs of the server while 100 streams of this process read inserted events."""

    async def selects() -> int:
        rows = await _execute(pool, "SHOW GLOBAL STATUS LIKE 'Com_select'")
        return int(rows[0][1])

    async def measure() -> float:
        ready = asyncio.Barrier(STREAMS + 1)

        async def consume() -> None:
            async with INSERTS.stream(pool, from_head=True) as stream:
                await ready.wait()
                for _ in range(inserts):
                    await anext(stream)

        async with asyncio.timeout(LONGEST), asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(consume())
            await ready.wait()
            before = await selects()
            for i in range(inserts):
                await asyncio.sleep(PAUSE)
                async with pool.acquire() as connection, transaction(connection):
                    await INSERTS.insert(connection, i, 1)
        return (await selects() - before) / inserts

    async def one() -> float:
        return 1.0

    return await compare(
        f"mysql_queries_{STREAMS}",
        what=f"MariaDB: queries of {STREAMS} streams",
        ours=measure,
        against=Baseline("one insert", one),
        unit="queries/insert",
        better="lower",
        goal=2,
        repeat=1,
    )
