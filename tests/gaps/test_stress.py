"""Many writers with every kind of trouble, and readers here and over gRPC: none missed, all in order, each once.

``--stress-seconds`` is the duration, ``--seed`` repeats a run's choices.
"""

import asyncio
import json
import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import asyncpg
import pytest

from tests.fix_databases import Connect, Database
from tests.fix_processes import Spawn
from tests.gaps.interleaving import faults
from tests.gaps.stress_readers import Notes, consume, rest, serve
from tests.gaps.stress_writers import LONG, events, write
from tests.waiting import deadline

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres, pytest.mark.suite_server]

# How long an event may take beyond the end of the last transaction that held an id below it, in seconds: at the median,
# and at most. A writer whose beginning fell between two scans can hold up what lies just below its first id as well, so
# that the longest transaction counts; the rest is for machines that are busy otherwise.
_MEDIAN, _LONGEST = 0.5, 2 * LONG + 2.0

# How long readers may take for the rest when the writers have ended, in seconds.
_REST = 20.0


async def test_under_stress_each_reader_gets_each_event_once_in_order_and_soon(
    database: Database,
    pool: asyncpg.Pool,
    connect: Connect,
    spawn: Spawn,
    tmp_path: Path,
    stress_seconds: float,
    seed: int,
) -> None:
    connection, unrelated = await connect(), await connect()
    await events.create(connection)
    await unrelated.execute("BEGIN; CREATE TABLE unrelated (); SELECT pg_current_xact_id()")
    local = {"local": Notes(), "local, in many runs": Notes()}
    tasks = [
        asyncio.create_task(local["local"].read(events.source(pool))),
        asyncio.create_task(
            local["local, in many runs"].read_in_runs(events.source(pool), random.Random(seed))
        ),
    ]
    try:
        server = await spawn(serve, database.dsn)
        consumer = await spawn(consume, f"127.0.0.1:{await server.line()}", str(tmp_path / "consumed"))
        await consumer.until("ready")
        writers = await spawn(write, database.dsn, stress_seconds, seed, str(tmp_path / "written"))
        await writers.until("written", within=stress_seconds + 30.0)
        rows = await connection.fetch("SELECT id FROM events ORDER BY id")
        committed = [row[0] for row in rows]
        await consumer.write_line(json.dumps([committed[-1], _REST]))
        await rest(local.values(), committed[-1], within=_REST)
        await consumer.until("consumed", within=_REST + 10.0)
        await server.write_line("stop")
        await server.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        assert task.cancelled() or task.exception() is None, task

    received = {name: (notes.ids, notes.times) for name, notes in local.items()}
    paged, single = json.loads((tmp_path / "consumed").read_text())
    received |= {"gRPC, in pages": paged, "gRPC, one by one": single}
    wrong = [f"{name}: {fault}" for name, (ids, _) in received.items() for fault in faults(ids, committed)]
    assert not wrong, "\n".join(wrong)

    written = json.loads((tmp_path / "written").read_text())
    drawn = sum(len(ids) for ids, _ in written)
    print(f"{len(committed)} events committed of {drawn} drawn, in {len(written)} transactions")
    assert len(committed) > 10 * stress_seconds, "a stress test without stress shows nothing"
    for name, (ids, times) in received.items():
        late = delays(written, ids, times)
        if name == "gRPC, one by one":
            # Writers that are faster than single messages leave these behind, which is no fault: what matters is how
            # long the reader was idle while an event was due.
            late = [min(delay, pause) for delay, pause in zip(late, pauses(times), strict=True)]
        median, longest = statistics.median(late), max(late)
        print(f"{name}: delays of {median * 1000:.0f} ms at the median, {longest * 1000:.0f} ms at most")
        assert median < deadline(_MEDIAN), name
        assert longest < deadline(_LONGEST), name


def delays(
    written: Sequence[tuple[list[int], float]], ids: Sequence[int], times: Sequence[float]
) -> list[float]:
    """Return how long after the end of the last transaction that held a lower id, or its own, each event came."""
    holders = sorted((min(drawn), ended) for drawn, ended in written if drawn)
    lowest = [low for low, _ in holders]
    last_end = list(accumulate((ended for _, ended in holders), max))
    return [
        came - last_end[bisect_right(lowest, event_id) - 1] for event_id, came in zip(ids, times, strict=True)
    ]


def pauses(times: Sequence[float]) -> list[float]:
    """Return how long each event came after the one before it; the first counts from the beginning of time."""
    return [came - before for before, came in pairwise([-math.inf, *times])]
