"""Replicas that share leases on a real PostgreSQL: killed, paused, and restarted one after another under load."""

import asyncio
import os
import signal
import time
from collections import Counter

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio.patterns import by_foreign_id, shards
from tests.fix_databases import Database
from tests.fix_processes import Child, Spawn
from tests.runner.replicas import create, cursors, events, leases, replicate
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

# In seconds.
TTL = 1.5
DRAIN = 5.0

# How often all replicas are replaced: more of them for a longer run.
ROUNDS = int(os.environ.get("REFLEX_TEST_ROLLING_ROUNDS", "1"))


class Service:
    """The replicas of a service, and what they have done."""

    def __init__(self, spawn: Spawn, database: Database, pool: asyncpg.Pool, count: int) -> None:
        self._spawn = spawn
        self._database = database
        self._pool = pool
        self._shards = shards("work", count, key=by_foreign_id)

    async def start(self, owner: str, *, seconds: float = 0.0, blocks: bool = False) -> Child:
        """Start a replica, whose handlers take ``seconds`` for an event, and may block the event loop for that."""
        settings = (TTL, DRAIN, len(self._shards), seconds, blocks)
        child = await self._spawn(replicate, self._database.dsn, owner, *settings)
        assert await child.line() == "ready"
        return child

    async def insert(self, *rows: int) -> None:
        async with self._pool.acquire() as connection:
            await events.insert_many(connection, [(row, 1) for row in rows])

    async def shared_by(self, **counts: int) -> bool:
        """Tell whether each owner holds the leases of so many shards."""
        states = await leases.store(self._pool).all()
        held = [states[shard.name] for shard in self._shards if shard.name in states]
        return Counter(state.owner for state in held if state.is_held) == counts

    async def epoch(self) -> int:
        """The epoch of the first shard's lease."""
        return (await leases.store(self._pool).all())[self._shards[0].name].epoch

    async def effects(self, owner: str | None = None) -> list[int]:
        """The events that were handled, in order, again and again if they were."""
        rows = await self._pool.fetch("SELECT event_id, owner FROM effects ORDER BY at")
        return [row["event_id"] for row in rows if owner in (None, row["owner"])]

    async def caught_up(self, last: int) -> bool:
        """Tell whether each shard's cursor has got to the event ``last``."""
        async with self._pool.acquire() as connection:
            stored = await cursors.all(connection)
        return len(stored) == len(self._shards) and all(int(cursor) >= last for cursor in stored.values())


@pytest_asyncio.fixture
async def tables(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        await create(connection)


@pytest.mark.usefixtures("tables")
async def test_replica_that_is_killed_is_replaced_within_a_ttl(
    spawn: Spawn, database: Database, pool: asyncpg.Pool
) -> None:
    service = Service(spawn, database, pool, count=1)
    first = await service.start("first")
    await eventually(lambda: service.shared_by(first=1))
    await service.start("second")
    await service.insert(1, 2)
    await eventually(lambda: service.caught_up(2))
    killed_at = await pool.fetchval("SELECT clock_timestamp()")
    await first.kill()
    await service.insert(3)
    # The ttl, and something for a busy machine.
    await eventually(lambda: service.caught_up(3), within=TTL + 5)
    assert await service.effects("first") == [1, 2]
    assert await service.effects("second") == [3]
    taken_over = await pool.fetchval("SELECT at - $1 FROM effects WHERE event_id = 3", killed_at)
    print(f"taken over after {taken_over.total_seconds():.2f} s, with a ttl of {TTL} s")


@pytest.mark.usefixtures("tables")
async def test_replica_that_was_paused_can_not_move_the_cursor_when_it_wakes(
    spawn: Spawn, database: Database, pool: asyncpg.Pool
) -> None:
    service = Service(spawn, database, pool, count=1)
    # It is paused in a handler: the first thing that it does when it wakes is to set the cursor.
    paused = await service.start("paused", seconds=1.0, blocks=True)
    await eventually(lambda: service.shared_by(paused=1))
    await service.insert(1)
    await eventually(service.effects)
    paused.send(signal.SIGSTOP)
    assert not await service.caught_up(1)
    other = await service.start("other")
    await eventually(lambda: service.shared_by(other=1), within=TTL + 5)
    await eventually(lambda: service.caught_up(1))
    # So that it would even go forward.
    async with pool.acquire() as connection:
        await cursors.rewind(connection, "work_1_of_1", "")
    epoch = await service.epoch()
    paused.send(signal.SIGCONT)
    await eventually(lambda: has_joined(pool, "paused"))
    assert not await service.caught_up(1)
    assert await service.epoch() == epoch
    assert await service.shared_by(other=1)
    assert await service.effects() == [1, 1]
    assert await paused.terminate() == await other.terminate() == 0


async def has_joined(pool: asyncpg.Pool, owner: str) -> bool:
    states = await leases.store(pool).all()
    return any(
        state.owner == owner and state.is_held
        for name, state in states.items()
        if name.startswith("reflex_aio.runner/")
    )


@pytest.mark.usefixtures("tables")
async def test_shards_are_shared_by_the_replicas_that_are_there(
    spawn: Spawn, database: Database, pool: asyncpg.Pool
) -> None:
    service = Service(spawn, database, pool, count=4)
    a = await service.start("a")
    await eventually(lambda: service.shared_by(a=4))
    await service.start("b")
    await eventually(lambda: service.shared_by(a=2, b=2))
    await a.terminate()
    await eventually(lambda: service.shared_by(b=4))
    await service.insert(*range(100))
    await eventually(lambda: service.caught_up(100))
    assert sorted(await service.effects()) == list(range(1, 101))


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_rolling_restart_under_load_loses_nothing(
    spawn: Spawn, database: Database, pool: asyncpg.Pool, how: signal.Signals
) -> None:
    """Three replicas of four shards, each ended and replaced while events are written."""
    service = Service(spawn, database, pool, count=4)
    replicas = [await service.start(f"{number}-0", seconds=0.001) for number in range(3)]
    written, ended, drains = 0, False, [0.0]

    async def write() -> None:
        nonlocal written
        while not ended:
            await service.insert(*range(written, written + 10))
            written += 10
            await asyncio.sleep(0.02)

    async def end(replica: Child) -> None:
        began = time.monotonic()
        replica.send(how)
        told = await replica.rest(within=DRAIN + 10)
        drains.append(time.monotonic() - began)
        assert (told, await replica.wait()) == ((["cut off 0"], 0) if how is signal.SIGTERM else ([], -how))

    writer = asyncio.create_task(write())
    for number in range(ROUNDS * 3):
        await end(replicas.pop(0))
        replicas.append(await service.start(f"{number % 3}-{number // 3 + 1}", seconds=0.001))
    ended = True
    await writer
    await eventually(lambda: service.caught_up(written), within=60)
    handled = Counter(await service.effects())
    lost = set(range(1, written + 1)) - handled.keys()
    repeated = sum(handled.values()) - len(handled)
    print(
        f"{written} events, {ROUNDS * 3} replicas ended by {how.name}: {len(lost)} lost, {repeated} handled"
        f" twice, ended in {max(drains):.2f} s at most"
    )
    assert not lost
    # Of a process that dies, each shard may have one event in hand.
    assert repeated <= (0 if how is signal.SIGTERM else ROUNDS * 3 * 4)
    assert max(drains) < DRAIN
    for replica in replicas:
        assert await replica.terminate() == 0
