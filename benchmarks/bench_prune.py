"""Pruning: the latency of writers while another process deletes a backlog of old events."""

import asyncio
import itertools
import json
import statistics
import time
from typing import Any

import asyncpg

from benchmarks.measure import Baseline, Measured, Result, compare
from benchmarks.processes import Child, child, standard_input
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.sql import EventsTable, Retention

__all__ = ["bench_prune", "write"]

EVENTS = EventsTable("bench_prune")
WRITERS = 8
# The pause between two transactions of a writer, in seconds: a busy service below its limit.
PAUSE = 0.005

FILL = f"""
INSERT INTO {EVENTS.name} (foreign_id, type, timestamp)
SELECT n::text, 1, now() FROM generate_series(1, $1) AS n
"""


async def bench_prune(dsn: str, *, transactions: int, rows: int, repeat: int) -> list[Result]:
    """Measure the 99th percentile of the duration of ``transactions`` transactions.

    :param rows: the minimum number of old events to prune
    """
    async with asyncpg.create_pool(dsn, min_size=2, max_size=4) as pool:
        async with pool.acquire() as connection:
            await EVENTS.create(connection)
            await connection.execute("CREATE TABLE bench_prune_accounts (id int PRIMARY KEY, balance int)")
            await connection.execute(
                f"INSERT INTO bench_prune_accounts SELECT n, 0 FROM generate_series(1, {WRITERS}) AS n"
            )
        async with child("benchmarks.bench_prune:write", dsn) as writer:
            return [
                await compare(
                    "writers_p99_pruning",
                    what=f"a transaction of {WRITERS} writers, 99 of 100, beside pruning",
                    ours=_pruning(pool, writer, transactions, rows),
                    against=Baseline("without pruning", _writing(writer, transactions)),
                    unit="s",
                    better="lower",
                    goal=1.5,
                    repeat=repeat,
                )
            ]


def _writing(writer: Child, transactions: int) -> Measured:
    async def measure() -> float:
        await writer.write(f"write {transactions}")
        seconds: list[float] = json.loads(await writer.read())
        return statistics.quantiles(seconds, n=100)[-1]

    return measure


def _pruning(pool: Any, writer: Child, transactions: int, rows: int) -> Measured:
    writing = _writing(writer, transactions)

    async def measure() -> float:
        async with pool.acquire() as connection:
            if await connection.fetchval(f"SELECT count(*) FROM {EVENTS.name}") < rows:
                await connection.execute(FILL.replace("$1", str(rows)))
                await connection.execute(f"VACUUM ANALYZE {EVENTS.name}")
            newest = (await EVENTS.extent(connection)).newest
        retention = Retention(before=newest, cursors=MemoryCursorStore({"all": newest}))
        pruning = asyncio.create_task(EVENTS.prune(pool, retention))
        try:
            seconds = await writing()
            if pruning.done():
                raise RuntimeError(
                    f"{(await pruning).events} events were pruned before the writers had ended"
                )
        finally:
            pruning.cancel()
            await asyncio.wait([pruning])
        return seconds

    return measure


async def write(dsn: str) -> None:
    """Run transactions on commands from standard input, and print their durations in seconds."""
    lines = await standard_input()
    async with asyncpg.create_pool(dsn, min_size=WRITERS, max_size=WRITERS) as pool:
        while line := await lines.readline():
            _, count = line.split()
            left = itertools.repeat(None, int(count))
            seconds: list[float] = []
            async with asyncio.TaskGroup() as group:
                for account in range(1, WRITERS + 1):
                    group.create_task(_write(pool, account, left, seconds))
            print(json.dumps(seconds), flush=True)


async def _write(pool: Any, account: int, left: Any, seconds: list[float]) -> None:
    async with pool.acquire() as connection:
        for _ in left:
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            async with connection.transaction():
                await connection.execute(
                    "UPDATE bench_prune_accounts SET balance = balance + 1 WHERE id = $1", account
                )
                await EVENTS.insert(connection, account, 1)
            seconds.append(time.perf_counter() - began)
