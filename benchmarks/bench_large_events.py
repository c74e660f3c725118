"""Memory: the peak of a process that streams large events, as a multiple of the limit of a page."""

import asyncio
from typing import Any

import asyncpg
import psutil

from benchmarks.measure import Baseline, Result, compare, show_progress
from benchmarks.processes import child
from reflex_aio.event import DEFAULT_PAGE_BYTES
from reflex_aio.sql import EventsTable

__all__ = ["bench_large_events", "read"]

EVENTS = EventsTable("bench_large_events", metadata=True)
# In kB.
SIZES = (256, 900)


async def bench_large_events(dsn: str, *, events: int) -> list[Result]:
    """Measure the peak of the resident memory that a stream of ``events`` events adds to a process, for each size."""
    connection = await asyncpg.connect(dsn)
    results = []
    try:
        for size in SIZES:
            show_progress(f"large_events_{size}: inserting {events:,} events")
            await connection.execute("DROP TABLE IF EXISTS bench_large_events")
            await EVENTS.create(connection)
            # The server stores them compressed, and sends them as they are.
            await connection.execute(
                "INSERT INTO bench_large_events (type, foreign_id, metadata) SELECT 1, i::text,"
                f" convert_to(repeat('abcdefgh', {size * 1024 // 8}), 'UTF8') FROM generate_series(1, {events}) AS i"
            )
            async with child("benchmarks.bench_large_events:read", dsn, str(events)) as reader:
                added = float(await reader.read())
            results.append(
                await compare(
                    f"large_events_{size}",
                    what=f"peak memory of a stream of {events:,} events of {size} kB",
                    ours=_constantly(added),
                    against=Baseline("page_bytes", _constantly(float(DEFAULT_PAGE_BYTES))),
                    unit="bytes",
                    better="lower",
                    goal=8.0,
                    repeat=1,
                )
            )
    finally:
        await connection.close()
    return results


def _constantly(value: float) -> Any:
    async def measure() -> float:
        return value

    return measure


async def read(dsn: str, events: str) -> None:
    """Stream the events to the head, and print the greatest memory in addition to that of the start, in bytes."""
    process = psutil.Process()
    peak, count = 0, 0

    async def sample() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.001)

    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool:
        before = process.memory_info().rss
        sampling = asyncio.create_task(sample())
        async with EVENTS.stream(pool, to_head=True) as stream:
            while page := await stream.read_page():
                count += len(page)
        sampling.cancel()
    assert count == int(events)
    # At least a page of the operating system: the ratio must not be 0.
    print(max(4096, peak - before), flush=True)
