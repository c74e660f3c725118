"""Growth: the cost of an event by the number of rows, gaps, streams and writers."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from benchmarks.measure import Baseline, Measured, Result, Series, compare, show_progress
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql import EventsTable

__all__ = ["bench_growth"]

EVENTS = EventsTable("bench_growth")
HEAD_PAGES = 200
GAPS = EVENTS.replace(name="bench_gaps")
# Rollbacks per second during which events are delivered.
ROLLBACKS = 1000
# The pause between two measured events, in seconds.
PAUSE = 0.02
# The time in seconds after which events count as lost.
LONGEST = 120.0


async def bench_growth(
    server: EmbeddedPostgres,
    *,
    rows: Sequence[int],
    streams: Sequence[int],
    writers: Sequence[int],
    events: int,
    repeat: int,
) -> tuple[list[Result], list[Series]]:
    """Measure at each of these sizes. The first one is the baseline."""
    database = "bench_growth"
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(f"CREATE DATABASE {database}")
    await connection.close()
    async with asyncpg.create_pool(server.dsn_for(database), min_size=4, max_size=80) as pool:
        head, head_series = await _head_pages(pool, rows, repeat)
        gaps = await _gaps(pool, events, repeat)
        return (
            [head, gaps],
            [head_series, await _streams(pool, streams, events), await _writers(pool, writers, events)],
        )


async def _head_pages(pool: Any, sizes: Sequence[int], repeat: int) -> tuple[Result, Series]:
    tables = []
    for size in sizes:
        show_progress(f"growth: a table of {size:,} events")
        table = EVENTS.replace(name=f"bench_growth_{size}")
        async with pool.acquire() as connection:
            await table.create(connection)
            await connection.execute(
                f"INSERT INTO {table.name} (foreign_id, type) SELECT i::text, 1 FROM generate_series(1, $1::int) AS i",
                size,
                timeout=600,
            )
            await connection.execute(f"VACUUM ANALYZE {table.name}", timeout=600)
        tables.append(table)
    points = [(float(size), await _head(pool, table)()) for size, table in zip(sizes, tables, strict=True)]
    result = await compare(
        "head_page",
        what=f"head page of {sizes[-1]:,} rows",
        ours=_head(pool, tables[-1]),
        against=Baseline(f"of {sizes[0]:,}", _head(pool, tables[0])),
        unit="s",
        better="lower",
        goal=1.1,
        repeat=repeat * 3,
    )
    return result, Series("head_page_growth", "head page", "rows", "s", points)


def _head(pool: Any, table: EventsTable) -> Measured:
    """Measure the median time to open a stream near the head, read its events, and close it."""

    async def measure() -> float:
        after = str(int(await table.source(pool).head()) - 10)
        times = []
        async with _kept_open(pool, table):
            for _ in range(HEAD_PAGES):
                began = time.perf_counter()
                async with table.stream(pool, after, to_head=True) as stream:
                    async for _event in stream:
                        pass
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    return measure


@asynccontextmanager
async def _kept_open(pool: Any, table: EventsTable) -> AsyncIterator[None]:
    """Keep one stream open, so that the state shared by the streams of a table exists."""
    async with table.stream(pool, from_head=True) as stream:
        waiting = asyncio.create_task(_discard(stream))
        try:
            yield
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])


async def _discard(stream: Any) -> None:
    async for _event in stream:
        pass


async def _gaps(pool: Any, events: int, repeat: int) -> Result:
    async with pool.acquire() as connection:
        await GAPS.create(connection)
    return await compare(
        "gaps",
        what=f"commit to handler, {ROLLBACKS:,} rollbacks/s",
        ours=_latency(pool, GAPS, events, rollbacks=ROLLBACKS),
        against=Baseline("without rollbacks", _latency(pool, GAPS, events)),
        unit="s",
        better="lower",
        repeat=repeat,
    )


def _latency(pool: Any, table: EventsTable, events: int, *, rollbacks: int = 0, streams: int = 1) -> Measured:
    """Measure the median time from the return of COMMIT to the delivery by the last stream of this process."""

    async def measure() -> float:
        ready = asyncio.Barrier(streams + 1)
        received: dict[str, float] = {}
        sent: dict[str, float] = {}

        async def consume() -> None:
            async with table.stream(pool, from_head=True) as stream:
                await ready.wait()
                for _ in range(events):
                    event = await anext(stream)
                    received[event.id] = time.perf_counter()

        enough = asyncio.Event()
        async with asyncio.timeout(LONGEST), asyncio.TaskGroup() as group:
            group.create_task(_roll_back(pool, table, rollbacks, enough))
            readers = [group.create_task(consume()) for _ in range(streams)]
            await ready.wait()
            async with pool.acquire() as connection:
                for i in range(events):
                    await asyncio.sleep(PAUSE)
                    async with connection.transaction():
                        event_id = await table.insert(connection, i, 1)
                    sent[event_id] = time.perf_counter()
            await asyncio.wait(readers)
            # Not cancelled: that would leave a transaction open.
            enough.set()
        return statistics.median(max(0.0, received[event_id] - at) for event_id, at in sent.items())

    return measure


async def _roll_back(pool: Any, table: EventsTable, per_second: int, enough: asyncio.Event) -> None:
    """Roll back this many inserts per second, evenly, until ``enough`` is set."""
    silent = table.replace(wakeups=None)
    clock = time.perf_counter
    began, done = clock(), 0
    async with pool.acquire() as connection:
        while per_second and not enough.is_set():
            while done < (clock() - began) * per_second:
                transaction = connection.transaction()
                await transaction.start()
                await silent.insert(connection, 0, 1)
                await transaction.rollback()
                done += 1
            await asyncio.sleep(0.001)


async def _streams(pool: Any, counts: Sequence[int], events: int) -> Series:
    points = []
    async with pool.acquire() as connection:
        await EVENTS.create(connection)
    for count in counts:
        show_progress(f"growth: {count:,} streams")
        measure = _latency(pool, EVENTS, max(events // 2, 5), streams=count)
        await measure()
        points.append((float(count), await measure() / count))
    return Series("streams_growth", "commit to the last handler, by stream", "streams", "s/stream", points)


async def _writers(pool: Any, counts: Sequence[int], events: int) -> Series:
    points = []
    for count in counts:
        show_progress(f"growth: {count:,} writers")
        measure = _writing(pool, count, events * 20)
        await measure()
        points.append((float(count), statistics.median([await measure() for _ in range(3)])))
    return Series("writers_growth", "insert in a transaction", "writers", "s/event", points)


def _writing(pool: Any, writers: int, events: int) -> Measured:
    async def write(share: int) -> None:
        async with pool.acquire() as connection:
            for i in range(share):
                async with connection.transaction():
                    await EVENTS.insert(connection, i, 1)

    async def measure() -> float:
        share = max(1, events // writers)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(writers):
                group.create_task(write(share))
        return (time.perf_counter() - began) / (share * writers)

    return measure
