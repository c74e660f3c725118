"""Many streams at the head of one table in one process: their queries, and the load on the server."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.measure import Baseline, Measured, Result, compare
from benchmarks.processes import child, standard_input
from benchmarks.tables import fill_and_analyze
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql import EventsTable

__all__ = ["bench_sharing", "write"]

EVENTS = EventsTable("bench_sharing")
PAGE = f"SELECT id, type, foreign_id, timestamp FROM {EVENTS.name} WHERE id > $1 ORDER BY id LIMIT 1000"
# The pause between two inserts, in seconds: longer than a page takes, so that each is read by its own query.
PAUSE = 0.005
STREAMS = 100
# The application name of all connections of the reading process, that of the notifier included.
READERS = "bench_readers"
# The time in seconds after which events count as lost.
LONGEST = 120.0


async def bench_sharing(
    server: EmbeddedPostgres, *, inserts: int, repeat: int, many: int = 1000
) -> list[Result]:
    """Measure 100 and ``many`` streams that read ``inserts`` events one by one."""
    database = "bench_sharing"
    async with _connected(server.dsn) as connection:
        await connection.execute(f"CREATE DATABASE {database}")
    dsn = server.dsn_for(database)
    async with _connected(dsn) as connection:
        await EVENTS.create(connection)
        await fill_and_analyze(connection, EVENTS)
    settings = {"application_name": READERS}
    async with (
        asyncpg.create_pool(dsn, min_size=12, max_size=12, server_settings=settings) as pool,
        _connected(dsn) as watcher,
    ):
        shared = _sharing(pool, dsn, inserts, STREAMS)
        alone = _alone(pool, dsn, inserts, STREAMS)

        async def client_cpu() -> float:
            return time.process_time()

        async def server_cpu() -> float:
            return await _readers_cpu(watcher)

        results = [
            await compare(
                f"cpu_{side}_{STREAMS}",
                what=f"{side}'s CPU, {STREAMS} streams at the head",
                ours=_cpu(clock, shared, inserts),
                against=Baseline(f"{STREAMS} that query for themselves", _cpu(clock, alone, inserts)),
                unit="s/event",
                better="lower",
                goal=goal,
                repeat=repeat,
            )
            for side, clock, goal in (
                ("client", client_cpu, 1 / 4),
                ("server", server_cpu, 1 / 8),
            )
        ]
        one = Baseline("one insert", _constantly(1.0))
        return results + [
            await compare(
                f"queries_{streams}",
                what=f"queries of {streams:,} streams",
                ours=_queries(server, dsn, inserts, streams),
                against=one,
                unit="queries/insert",
                better="lower",
                goal=1.1,
                repeat=1,
            )
            for streams in (STREAMS, many)
        ]


@asynccontextmanager
async def _connected(dsn: str, application: str = "") -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn, server_settings={"application_name": application})
    try:
        yield connection
    finally:
        await connection.close()


Reading = Callable[[Callable[[], Awaitable[None]], Callable[[], Awaitable[float]]], Awaitable[float]]
"""Reads all inserted events. Calls its first argument when every stream is at the head, before the first insert, and
its second one when all events have been read, while everything is still connected. Returns the result of the second."""


def _sharing(pool: Any, dsn: str, inserts: int, streams: int) -> Reading:
    async def read(begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[float]]) -> float:
        barrier = asyncio.Barrier(streams + 1)

        async def consume() -> None:
            async with EVENTS.stream(pool, from_head=True) as stream:
                await barrier.wait()
                for _ in range(inserts):
                    await anext(stream)
                await barrier.wait()

        async with child("benchmarks.bench_sharing:write", dsn, str(inserts)) as writer:
            await writer.read()
            async with asyncio.timeout(LONGEST), asyncio.TaskGroup() as group:
                for _ in range(streams):
                    group.create_task(consume())
                await barrier.wait()
                await begin()
                await writer.write("go")
                await barrier.wait()
                return await end()

    return read


def _alone(pool: Any, dsn: str, inserts: int, streams: int) -> Reading:
    """Read without sharing: one notification wakes all readers, and each queries after its own last event."""

    async def read(begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[float]]) -> float:
        woken = [asyncio.Event() for _ in range(streams)]

        async def consume(wake: asyncio.Event, last: int) -> None:
            count = 0
            while count < inserts:
                wake.clear()
                rows = await pool.fetch(PAGE, last)
                if rows:
                    count, last = count + len(rows), rows[-1]["id"]
                else:
                    await wake.wait()

        def heard(*_: object) -> None:
            for wake in woken:
                wake.set()

        async with (
            child("benchmarks.bench_sharing:write", dsn, str(inserts)) as writer,
            _connected(dsn, READERS) as listener,
        ):
            await writer.read()
            await listener.add_listener("reflex_aio", heard)
            head = await listener.fetchval(f"SELECT max(id) FROM {EVENTS.name}") or 0
            async with asyncio.timeout(LONGEST), asyncio.TaskGroup() as group:
                for wake in woken:
                    group.create_task(consume(wake, head))
                await begin()
                await writer.write("go")
            return await end()

    return read


def _cpu(clock: Callable[[], Awaitable[float]], read: Reading, inserts: int) -> Measured:
    async def measure() -> float:
        began = 0.0

        async def begin() -> None:
            nonlocal began
            began = await clock()

        async def end() -> float:
            return await clock() - began

        return await read(begin, end) / inserts

    return measure


async def _readers_cpu(watcher: Any) -> float:
    """Return the CPU time of the server processes that serve the readers, in seconds, without that of the writer."""
    pids = await watcher.fetch(
        "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, $1)", READERS
    )
    return sum(_cpu_of(pid) for (pid,) in pids)


def _cpu_of(pid: int) -> float:
    # In nanoseconds. psutil has hundredths of a second only: a backend that mostly sleeps may have used none.
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _constantly(value: float) -> Measured:
    async def measure() -> float:
        return value

    return measure


def _queries(server: EmbeddedPostgres, dsn: str, inserts: int, streams: int) -> Measured:
    """Count the statements that read events or scan for gaps, in the server's log."""

    async def measure() -> float:
        start = 0

        async def begin() -> None:
            nonlocal start
            start = server.log.stat().st_size

        async def end() -> float:
            return _reading_statements(server.log, start) / inserts

        # On connections that log their statements.
        settings = {"log_statement": "all"}
        async with asyncpg.create_pool(dsn, min_size=4, max_size=12, server_settings=settings) as pool:
            return await _sharing(pool, dsn, inserts, streams)(begin, end)

    return measure


def _reading_statements(log: Path, start: int) -> int:
    with log.open("rb") as file:
        file.seek(start)
        written = file.read().decode(errors="replace")
    statements = re.findall(r"LOG:  (?:statement|execute [^:]*):\s*(\w+)", written)
    return sum(verb.upper() in ("SELECT", "WITH") for verb in statements)


async def write(dsn: str, inserts: str) -> None:
    """Insert events one at a time on commands from standard input. Print a line when ready."""
    lines = await standard_input()
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        print("ready", flush=True)
        await lines.readline()
        for i in range(int(inserts)):
            await asyncio.sleep(PAUSE)
            async with pool.acquire() as connection, connection.transaction():
                await EVENTS.insert(connection, i, 1)
