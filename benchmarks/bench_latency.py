"""Latency: from COMMIT to the handler in another process, compared with a bare NOTIFY."""

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import asyncpg

from benchmarks.measure import Baseline, Measured, Result, compare
from benchmarks.processes import Child, child, standard_input
from benchmarks.tables import fill_and_analyze
from reflex_aio import EventStream
from reflex_aio.sql import EventsTable

__all__ = ["bench_latency", "write"]

EVENTS = EventsTable("bench_latency")
CHANNEL = "bench_latency_raw"
# The pause between two events, in seconds: longer than wake-ups are coalesced, to measure the latency of one event.
PAUSE = 0.02
# The tail of latencies requires more events, and so fewer repetitions.
MORE = 3
# Indexes of the two times that the writer reports for each event: before COMMIT was sent, and after it returned.
BEGUN, DONE = 0, 1


async def bench_latency(dsn: str, *, events: int, repeat: int) -> list[Result]:
    """Measure the median latency of ``events`` events, one at a time, written by another process."""
    async with asyncpg.create_pool(dsn, min_size=2, max_size=8) as pool:
        async with pool.acquire() as connection:
            await EVENTS.create(connection)
            await fill_and_analyze(connection, EVENTS)
        async with child("benchmarks.bench_latency:write", dsn) as writer:
            bare = Baseline("bare NOTIFY", _notified(dsn, writer, events))
            return [
                await compare(
                    "latency_p50",
                    what="commit to handler, other process",
                    ours=_streaming(pool, writer, events),
                    against=bare,
                    unit="s",
                    better="lower",
                    goal=2.2,
                    repeat=repeat,
                ),
                await compare(
                    "latency_p50_with_commit",
                    what="the same, the commit included",
                    ours=_streaming(pool, writer, events, since=BEGUN),
                    against=bare,
                    unit="s",
                    better="lower",
                    repeat=repeat,
                ),
                await compare(
                    "latency_p50_same",
                    what="commit to handler, same process",
                    ours=_alone(pool, events),
                    against=bare,
                    unit="s",
                    better="lower",
                    goal=1.0,
                    repeat=repeat,
                ),
                await compare(
                    "latency_p99",
                    what="commit to handler, other process, 99 of 100",
                    ours=_streaming(pool, writer, 4 * events, of=_p99),
                    against=Baseline("5 ms", _five_milliseconds),
                    unit="s",
                    better="lower",
                    goal=1.0,
                    repeat=max(1, repeat // MORE),
                ),
                await compare(
                    "latency_p50_100",
                    what="to the last of 100 handlers",
                    ours=_streaming(pool, writer, events, streams=100),
                    against=Baseline("one stream", _streaming(pool, writer, events)),
                    unit="s",
                    better="lower",
                    goal=1.6,
                    repeat=repeat,
                ),
            ]


async def _five_milliseconds() -> float:
    return 0.005


def _p99(values: Iterable[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


def _streaming(
    pool: Any,
    writer: Child,
    events: int,
    *,
    streams: int = 1,
    since: int = DONE,
    of: Callable[[Iterable[float]], float] = statistics.median,
) -> Measured:
    async def consume(ready: asyncio.Barrier, received: dict[str, float]) -> None:
        async with EVENTS.stream(pool, from_head=True) as stream:
            await ready.wait()
            for _ in range(events):
                event = await anext(stream)
                received[event.id] = time.monotonic()

    async def measure() -> float:
        ready = asyncio.Barrier(streams + 1)
        received: dict[str, float] = {}
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(consume(ready, received))
            await ready.wait()
            await writer.write(f"insert {events}")
        sent: dict[str, list[float]] = json.loads(await writer.read())
        return of(received[event_id] - times[since] for event_id, times in sent.items())

    return measure


def _alone(pool: Any, events: int) -> Measured:
    """Write and stream in one process."""

    async def measure() -> float:
        latencies = []
        async with (
            EVENTS.stream(pool, from_head=True) as stream,
            pool.acquire() as connection,
            asyncio.TaskGroup() as group,
        ):
            for i in range(events):
                handled = group.create_task(_read(stream))
                await asyncio.sleep(PAUSE)
                async with connection.transaction():
                    await EVENTS.insert(connection, i + 1, 1)
                done = time.monotonic()
                latencies.append(await handled - done)
        return statistics.median(latencies)

    return measure


async def _read(stream: EventStream) -> float:
    """Return the time at which the next event is delivered."""
    await anext(stream)
    return time.monotonic()


def _notified(dsn: str, writer: Child, events: int) -> Measured:
    async def measure() -> float:
        received: dict[str, float] = {}
        done = asyncio.Event()

        def heard(connection: Any, pid: int, channel: str, payload: Any) -> None:
            received[str(payload)] = time.monotonic()
            if len(received) == events:
                done.set()

        connection = await asyncpg.connect(dsn)
        try:
            await connection.add_listener(CHANNEL, heard)
            await writer.write(f"notify {events}")
            await done.wait()
        finally:
            await connection.close()
        sent: dict[str, list[float]] = json.loads(await writer.read())
        return statistics.median(received[key] - times[BEGUN] for key, times in sent.items())

    return measure


async def write(dsn: str) -> None:
    """Write on commands from standard input, and print the times at which each commit started and returned."""
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)
    reader = await standard_input()
    while line := (await reader.readline()).decode().split():
        sent: dict[str, tuple[float, float]] = {}
        async with pool.acquire() as connection:
            for i in range(int(line[1])):
                await asyncio.sleep(PAUSE)
                if line[0] == "notify":
                    begun = time.monotonic()
                    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, str(i))
                    sent[str(i)] = begun, time.monotonic()
                    continue
                transaction = connection.transaction()
                await transaction.start()
                event_id = await EVENTS.insert(connection, i + 1, 1)
                begun = time.monotonic()
                await transaction.commit()
                sent[event_id] = begun, time.monotonic()
        print(json.dumps(sent), flush=True)
