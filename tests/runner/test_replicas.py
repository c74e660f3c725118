"""Replicas that share leases in a database: killed, paused, and restarted one after another under load."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio.patterns import by_foreign_id, shards
from tests.fix_backends import Backend, PostgresBackend
from tests.fix_databases import Database
from tests.fix_processes import Child, Spawn
from tests.runner.replicas import create, cursors, events, leases, note, replicate
from tests.waiting import deadline, eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.one_library]

# In seconds.
TTL = 1.5
DRAIN = deadline(5.0)
# What acquiring a lease, opening a stream and the first event may take on a busy machine.
SLACK = deadline(5.0)

# How often all replicas are replaced: more of them for a longer run.
ROUNDS = int(os.environ.get("REFLEX_TEST_ROLLING_ROUNDS", "1"))


class Service:
    """The replicas of a service, and what they have done."""

    def __init__(self, spawn: Spawn, backend: Backend, pool: Any, count: int) -> None:
        self._spawn = spawn
        self._backend = backend
        self._pool = pool
        self._shards = shards("work", count, key=by_foreign_id)

    async def start(self, owner: str, *, seconds: float = 0.0, blocks: bool = False) -> Child:
        """Start a replica, whose handlers take ``seconds`` for an event, and may block the event loop for that."""
        settings = (TTL, DRAIN, len(self._shards), seconds, blocks)
        child = await self._spawn(replicate, self._backend.url, owner, *settings)
        assert await child.line() == "ready"
        return child

    async def insert(self, *rows: int) -> None:
        async with self.connection() as connection:
            await events.insert_many(connection, [(row, 1) for row in rows])

    def connection(self) -> AbstractAsyncContextManager[Any]:
        return self._backend.driver.acquire(self._pool)

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
        return [row[0] for row in await self._effects() if owner in (None, row[1])]

    async def time_of(self, owner: str, event_id: int) -> datetime:
        """When this effect was written, by the database's clock."""
        [at] = [row[2] for row in await self._effects() if (row[0], row[1]) == (event_id, owner)]
        assert isinstance(at, datetime)
        return at

    async def _effects(self) -> Sequence[Sequence[Any]]:
        async with self.connection() as connection:
            return await self._backend.fetch(
                connection, "SELECT event_id, owner, at FROM effects ORDER BY at"
            )

    async def caught_up(self, last: int) -> bool:
        """Tell whether each shard's cursor has got to the event ``last``."""
        async with self.connection() as connection:
            stored = await cursors.all(connection)
        return len(stored) == len(self._shards) and all(int(cursor) >= last for cursor in stored.values())


@pytest_asyncio.fixture
async def tables(backend: Backend, backend_pool: Any) -> None:
    async with backend.driver.acquire(backend_pool) as connection:
        await create(connection)


@pytest.mark.usefixtures("tables")
async def test_replica_that_is_killed_is_replaced_within_a_ttl(
    spawn: Spawn, backend: Backend, backend_pool: Any
) -> None:
    service = Service(spawn, backend, backend_pool, count=1)
    first = await service.start("first")
    await eventually(lambda: service.shared_by(first=1))
    await service.start("second")
    await service.insert(1, 2)
    await eventually(lambda: service.caught_up(2))
    await first.kill()
    await note(backend_pool, "killer", "kill", 0)
    await service.insert(3)
    await eventually(lambda: service.caught_up(3), within=30)
    assert await service.effects("first") == [1, 2]
    assert await service.effects("second") == [3]
    taken_over = (await service.time_of("second", 3) - await service.time_of("killer", 0)).total_seconds()
    print(f"taken over after {taken_over:.2f} s, with a ttl of {TTL} s")
    assert taken_over < TTL + SLACK


@pytest.mark.usefixtures("tables")
async def test_replica_that_was_paused_can_not_move_the_cursor_when_it_wakes(
    spawn: Spawn, backend: Backend, backend_pool: Any
) -> None:
    service = Service(spawn, backend, backend_pool, count=1)
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
    async with service.connection() as connection:
        await cursors.rewind(connection, "work_1_of_1", "")
    epoch = await service.epoch()
    paused.send(signal.SIGCONT)
    await eventually(lambda: has_joined(backend_pool, "paused"))
    assert not await service.caught_up(1)
    assert await service.epoch() == epoch
    assert await service.shared_by(other=1)
    assert await service.effects() == [1, 1]
    assert await paused.terminate() == await other.terminate() == 0


async def has_joined(pool: Any, owner: str) -> bool:
    states = await leases.store(pool).all()
    return any(
        state.owner == owner and state.is_held
        for name, state in states.items()
        if name.startswith("reflex_aio.runner/")
    )


@pytest.mark.usefixtures("tables")
async def test_shards_are_shared_by_the_replicas_that_are_there(
    spawn: Spawn, backend: Backend, backend_pool: Any
) -> None:
    service = Service(spawn, backend, backend_pool, count=4)
    a = await service.start("a")
    await eventually(lambda: service.shared_by(a=4))
    await service.start("b")
    await eventually(lambda: service.shared_by(a=2, b=2))
    await a.terminate()
    await eventually(lambda: service.shared_by(b=4))
    await service.insert(*range(100))
    await eventually(lambda: service.caught_up(100))
    assert sorted(await service.effects()) == list(range(1, 101))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_rolling_restart_under_load_loses_nothing(
    spawn: Spawn, database: Database, pool: asyncpg.Pool, how: signal.Signals
) -> None:
    """Three replicas of four shards, each ended and replaced while events are written."""
    async with pool.acquire() as connection:
        await create(connection)
    service = Service(spawn, PostgresBackend(database.dsn), pool, count=4)
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

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for number in range(ROUNDS * 3):
            await end(replicas.pop(0))
            replicas.append(await service.start(f"{number % 3}-{number // 3 + 1}", seconds=0.001))
        ended = True
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
