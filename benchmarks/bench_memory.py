"""Memory: a thousand streams of one table, of which one stalls, while events go by."""

import asyncio
from typing import Any

import asyncpg
import psutil

from benchmarks.measure import Baseline, Result, Series, compare, say
from benchmarks.processes import child, standard_input
from reflex_aio.sql import EventsTable

__all__ = ["bench_memory", "read"]

EVENTS = EventsTable("bench_memory")
INSERTED_AT_ONCE = 1000
SAMPLES = 20
MEGABYTE = 1 << 20


async def bench_memory(dsn: str, *, events: int, streams: int) -> tuple[list[Result], list[Series]]:
    """Measure the resident memory of a process whose ``streams`` streams read ``events`` events, but for one."""
    connection = await asyncpg.connect(dsn)
    try:
        await EVENTS.create(connection)
        async with child("benchmarks.bench_memory:read", dsn, str(streams)) as reader:
            samples = await _sampled(connection, reader, events)
    finally:
        await connection.close()
    # What a first tenth of the events has made of it is what streams and full buffers need.
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
        # Not faster than they read, or the slowest would page for themselves: that is another measurement.
        memory = int(await reader.read())
        if done * SAMPLES // events > len(samples):
            say(f"memory: {done:,} of {events:,} events")
            samples.append((float(done), memory / MEGABYTE))
    say("")
    return samples


def _constantly(value: float) -> Any:
    async def measure() -> float:
        return value

    return measure


async def read(dsn: str, streams: str) -> None:
    """Read with so many streams, one of them after its first event no more; tell the memory when asked."""
    process = psutil.Process()
    stalled = asyncio.Event()
    # At how many events a stream says that it has them: told before they are inserted.
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
