"""Two replicas of an atomic consumer that are killed again and again, on a server that is restarted: no effect is lost,
and none is there twice.

``--atomic-events`` says over how many events, ``--stress-seed`` repeats a run's choices.
"""

import asyncio
import random
import time

import asyncpg
import pytest

from reflex_aio.ext.embedded import EmbeddedPostgres
from tests.fix_processes import Child, Spawn
from tests.sql.atomic_replica import NAME, cursors, events, replica

pytestmark = [pytest.mark.asyncio, pytest.mark.suite_server]

# Of so many blows one is dealt to the server.
_SERVER = 6
# How long a replica or a server may work before the next blow, in seconds: it takes about one to start.
_PAUSES = 0.5, 2.5


@pytest.mark.parametrize("batch", [1, 20], ids=["each-event", "batches"])
async def test_each_event_has_its_effect_once_whatever_is_killed(
    own_server: EmbeddedPostgres, spawn: Spawn, atomic_events: int, stress_seed: int, batch: int
) -> None:
    connection = await asyncpg.connect(own_server.dsn)
    await events.create(connection)
    await cursors.create(connection)
    await connection.execute("CREATE TABLE effects (event_id bigint NOT NULL)")
    await connection.execute(
        "INSERT INTO events (type, foreign_id) SELECT 1, g FROM generate_series(1, $1::int) g", atomic_events
    )
    await connection.close()

    began, kills, restarts = time.monotonic(), 0, 0
    luck = random.Random(stress_seed)
    replicas: list[Child] = [await spawn(replica, own_server.dsn, batch) for _ in range(2)]
    while await _cursor(own_server.dsn) < atomic_events:
        await asyncio.sleep(luck.uniform(*_PAUSES))
        if luck.randrange(_SERVER) == 0:
            # At once is a crash: what was committed is recovered.
            await own_server.stop(luck.choice(("fast", "immediate")))
            await own_server.start()
            restarts += 1
        else:
            number = luck.randrange(2)
            await replicas[number].kill()
            replicas[number] = await spawn(replica, own_server.dsn, batch)
            kills += 1
    seconds = time.monotonic() - began
    await spawn.kill_all()

    connection = await asyncpg.connect(own_server.dsn)
    wrong = await connection.fetch(
        "SELECT id, count(event_id) FROM events LEFT JOIN effects ON event_id = id"
        " GROUP BY id HAVING count(event_id) <> 1"
    )
    effects = await connection.fetchval("SELECT count(*) FROM effects")
    await connection.close()
    print(
        f"{effects} effects of {atomic_events} events, {kills} replicas killed, {restarts} restarts of the server,"
        f" in {seconds:.0f} s"
    )
    assert not wrong, f"{len(wrong)} events have another number of effects than one: {wrong[:10]}"
    assert effects == atomic_events
    assert kills, "nothing was killed: that shows nothing"


async def _cursor(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await cursors.get(connection, NAME) or "0")
    finally:
        await connection.close()
