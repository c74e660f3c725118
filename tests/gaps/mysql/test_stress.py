"""Many writers with every kind of trouble, and a server that is restarted under them: none missed, all in order.

``--stress-seconds`` is the duration, ``--seed`` repeats a run's choices.
"""

import asyncio
import json
import random
import statistics
from pathlib import Path

import pytest

from reflex_aio.ext.embedded import EmbeddedMariaDB
from tests.fix_backends import MYSQL
from tests.fix_mariadb import MysqlDatabase
from tests.fix_processes import Spawn
from tests.gaps.interleaving import faults
from tests.gaps.mysql.interleaving import Writer
from tests.gaps.mysql.stress_writers import LONG, PREPARE, events, write
from tests.gaps.stress_readers import Notes, rest
from tests.gaps.test_stress import delays
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio

# How long an event may take beyond the end of the last transaction that held an id below it, in seconds: at the median,
# and at most, while the server is up. Locks of ranges may hold up noops for a second and more.
_MEDIAN, _LONGEST = 0.5, 2 * LONG + 8.0

# How long readers may take for the rest when the writers have ended, in seconds.
_REST = 30.0


async def test_under_stress_each_reader_gets_each_event_once_in_order_and_soon(
    own_mariadb: EmbeddedMariaDB,
    lock_mode: int,
    spawn: Spawn,
    tmp_path: Path,
    stress_seconds: float,
    seed: int,
) -> None:
    database = MysqlDatabase(own_mariadb, "stress")
    backends = {library: backend(database) for library, backend in MYSQL.items()}
    backend = backends["asyncmy"]
    admin = Writer(backend, await backend.connect(db=None, autocommit=True))
    await admin.run("CREATE DATABASE stress CHARACTER SET utf8mb4")
    first = Writer(backend, await backend.connect(autocommit=True))
    await events.create(first.connection)
    await first.run(PREPARE)
    notes = {"asyncmy": Notes(), "aiomysql": Notes(), "asyncmy, in many runs": Notes()}
    chance = random.Random(seed)
    async with (
        backend.pool(5) as pool,
        backends["aiomysql"].pool(5) as other_pool,
        backend.pool(3) as third_pool,
    ):
        tasks = [
            asyncio.create_task(notes["asyncmy"].read_over_restarts(events.source(pool))),
            asyncio.create_task(notes["aiomysql"].read_over_restarts(events.source(other_pool))),
            asyncio.create_task(
                notes["asyncmy, in many runs"].read_in_runs(events.source(third_pool), chance)
            ),
        ]
        try:
            writers = await spawn(write, database.dsn, stress_seconds, seed, str(tmp_path / "written"))
            await writers.until("half", within=stress_seconds + 20.0)
            await (own_mariadb.kill() if seed % 2 else own_mariadb.stop())
            await own_mariadb.start()
            await writers.until("written", within=stress_seconds + 30.0)
            again = Writer(backend, await backend.connect(autocommit=True))
            committed = [
                row[0] for row in await again.run("SELECT id FROM events WHERE type <> 0 ORDER BY id")
            ]
            await rest(notes.values(), committed[-1], within=_REST)
            noops = await again.value("SELECT COUNT(*) FROM events WHERE type = 0")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    for each in backends.values():
        each.close()
    for task in tasks:
        assert task.cancelled() or task.exception() is None, task

    written = json.loads((tmp_path / "written").read_text())
    passing = set(written["replaced"]) - set(committed)
    wrong = [
        f"{name}: {fault}"
        for name, read in notes.items()
        for fault in faults([each for each in read.ids if each not in passing], committed)
    ]
    assert not wrong, "\n".join(wrong)
    print(
        f"lock mode {lock_mode}: {len(committed)} events committed in {len(written['written'])} transactions,"
        f" {noops} gaps filled ({noops / stress_seconds:.0f} a second), {written['refused']} writers refused"
    )
    assert len(committed) > 10 * stress_seconds, "a stress test without stress shows nothing"
    for name, read in notes.items():
        late = delays(written["written"], read.ids, read.times)
        median, longest = statistics.median(late), max(late)
        print(f"{name}: delays of {median * 1000:.0f} ms at the median, {longest * 1000:.0f} ms at most")
        assert median < deadline(_MEDIAN), name
        assert longest < deadline(_LONGEST), name
