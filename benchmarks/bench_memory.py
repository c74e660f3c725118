"""Memory: a thousand streams of one table, one of which is stalled, while events are inserted."""

import asyncio
from typing import Any

import asyncpg
import psutil

from benchmarks.measure import Baseline, Result, Series, compare, show_progress
from benchmarks.processes import child, standard_input
from reflex_aio.sql import EventsTable

__all__ = ["bench_memory", "read"]

EVENTS = EventsTable("bench_memory")
INSERTED_AT_ONCE = 1000
SAMPLES = 20
MEGABYTE = 1 << 20


async def bench_memory(dsn: str, *, events: int, streams: int) -> tuple[list[Result], list[Series]]:
    """Measure the resident memory of a process in which all but one of ``streams`` streams read ``events`` events."""
    connection = await asyncpg.connect(dsn)
    try:
        await EVENTS.create(connection)
        async with child("benchmarks.bench_memory:read", dsn, str(streams)) as reader:
            samples = await _sampled(connection, reader, events)
    finally:
        await connection.close()
    # The memory after the first tenth of the events is the need of streams and full buffers.
    early, late = samples[len(samples) // 10][1], samples[-1][1]
    result = await compare(
        "memory",
        what=f"memory of {streams:,} streams, one stalled, after {events:,} events",
        ours=_constantly(late),
        against=Baseline("after a tenth of them", _constantly(early)),
        unit="MB",
        better="lower",
        goal=1.1,
        repeat=1,
    )
    return [result], [Series("memory_growth", f"memory of {streams:,} streams", "events", "MB", samples)]


async def _sampled(connection: Any, reader: Any, events: int) -> list[tuple[float, float]]:
    samples: list[tuple[float, float]] = []
    await reader.read()
    batch = min(INSERTED_AT_ONCE, max(1, events // SAMPLES))
    for done in range(batch, events + 1, batch):
        await reader.write(str(done))
        await reader.read()
        await EVENTS.insert_many(connection, [(i, 1) for i in range(batch)])
        # Not faster than the streams read: the slowest would load pages of their own, which is not measured here.
        memory = int(await reader.read())
        if done * SAMPLES // events > len(samples):
            show_progress(f"memory: {done:,} of {events:,} events")
            samples.append((float(done), memory / MEGABYTE))
    show_progress("")
    return samples


def _constantly(value: float) -> Any:
    async def measure() -> float:
        return value

    return measure


async def read(dsn: str, streams: str) -> None:
    """Read with many streams, one of which stalls after its first event. Print the memory on each command."""
    process = psutil.Process()
    stalled = asyncio.Event()
    # The number of events at which a stream reports that it has read them; set before they are inserted.
    wanted, arrived = [0], asyncio.Semaphore(0)

    async def consume(index: int, ready: asyncio.Barrier) -> None:
        async with EVENTS.stream(pool, from_head=True) as stream:
            await ready.wait()
            count = 0
            async for _event in stream:
                count += 1
                if count == wanted[0]:
                    arrived.release()
                if index == 0:
                    await stalled.wait()

    lines = await standard_input()
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool, asyncio.TaskGroup() as group:
        ready = asyncio.Barrier(int(streams) + 1)
        readers = [group.create_task(consume(index, ready)) for index in range(int(streams))]
        await ready.wait()
        print("ready", flush=True)
        while line := await lines.readline():
            wanted[0] = int(line)
            print("ready", flush=True)
            for _ in readers[1:]:
                await arrived.acquire()
            print(process.memory_info().rss, flush=True)
        for reader in readers:
            reader.cancel()
