"""Two replicas of an atomic consumer that are killed repeatedly, on a server that is restarted: no effect is lost, and
none exists twice.

``--atomic-events`` is the number of events; ``--seed`` repeats the random choices of a run.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from reflex_aio.ext.embedded import EmbeddedMariaDB, EmbeddedPostgres
from reflex_aio.sql import open_pool
from reflex_aio.sql.drivers import driver_of_pool
from tests.fix_processes import Child, Spawn
from tests.sql.atomic_replica import NAME, cursors, events, replica

pytestmark = [pytest.mark.asyncio, pytest.mark.suite_server]

each_event_and_batches = pytest.mark.parametrize("batch", [1, 20], ids=["each-event", "batches"])

# Of this many kills, the first one hits the server, the others hit replicas.
_SERVER = 4
# The greatest number of events between two kills: about every second kill hits a transaction.
_STRIDE = 300


@each_event_and_batches
async def test_each_event_has_its_effect_once_whatever_is_killed(
    own_server: EmbeddedPostgres, spawn: Spawn, atomic_events: int, seed: int, batch: int
) -> None:
    # A server that is stopped with "immediate" recovers as after a crash.
    stops = partial(own_server.stop, "fast"), partial(own_server.stop, "immediate")
    fire = Fire(own_server.dsn, stops, own_server.start, spawn, batch, random.Random(seed))
    await fire.each_event_has_its_effect_once(atomic_events)


@each_event_and_batches
async def test_each_event_has_its_effect_once_whatever_is_killed_on_mariadb(
    own_mariadb: EmbeddedMariaDB, spawn: Spawn, atomic_events: int, seed: int, batch: int
) -> None:
    async with _connection(own_mariadb.dsn) as (_, fetch):
        await fetch("CREATE DATABASE fire CHARACTER SET utf8mb4")
    stops = own_mariadb.stop, own_mariadb.kill
    fire = Fire(own_mariadb.dsn_for("fire"), stops, own_mariadb.start, spawn, batch, random.Random(seed))
    await fire.each_event_has_its_effect_once(atomic_events)


class Fire:
    """Kills two replicas and restarts the server that they use.

    :param stops: the ways to stop the server
    :param batch: the number of events in a transaction
    """

    def __init__(
        self,
        dsn: str,
        stops: Sequence[Callable[[], Awaitable[None]]],
        start: Callable[[], Awaitable[None]],
        spawn: Spawn,
        batch: int,
        luck: random.Random,
    ) -> None:
        self._dsn = dsn
        self._stops = stops
        self._start = start
        self._spawn = spawn
        self._batch = batch
        self._luck = luck
        self._replicas: list[Child] = []
        self._kills = 0
        self._restarts = 0

    async def each_event_has_its_effect_once(self, count: int) -> None:
        """Let the replicas consume ``count`` events while they are killed, and check the effects."""
        async with _connection(self._dsn) as (connection, fetch):
            await events.create(connection)
            await cursors.create(connection)
            await fetch("CREATE TABLE effects (event_id bigint NOT NULL)")
            for first in range(0, count, 1000):
                rows = [(number, 1) for number in range(first, min(first + 1000, count))]
                await events.insert_many(connection, rows)

        began = time.monotonic()
        self._replicas = [await self._spawn(replica, self._dsn, self._batch) for _ in range(2)]
        reached = 0
        while (goal := reached + self._luck.randint(1, _STRIDE)) < count:
            await self._wait_for(goal)
            await self._strike()
            reached = await self._cursor()
        await self._wait_for(count)
        seconds = time.monotonic() - began
        await self._spawn.kill_all()

        async with _connection(self._dsn) as (_, fetch):
            wrong = await fetch(
                "SELECT id, count(event_id) FROM events LEFT JOIN effects ON event_id = id"
                " GROUP BY id HAVING count(event_id) <> 1"
            )
            [[effects]] = await fetch("SELECT count(*) FROM effects")
        print(
            f"{effects} effects of {count} events, {self._kills} replicas killed,"
            f" {self._restarts} restarts of the server, in {seconds:.0f} s"
        )
        assert not wrong, f"{len(wrong)} events have another number of effects than one: {wrong[:10]}"
        assert effects == count
        assert self._kills, "no replica was killed: that shows nothing"
        assert self._restarts, "the server was never ended: that shows nothing"

    async def _strike(self) -> None:
        if (self._kills + self._restarts) % _SERVER == 0:
            await self._luck.choice(self._stops)()
            await self._start()
            self._restarts += 1
        else:
            number = self._luck.randrange(2)
            await self._replicas[number].kill()
            self._replicas[number] = await self._spawn(replica, self._dsn, self._batch)
            self._kills += 1

    async def _wait_for(self, goal: int) -> None:
        while await self._cursor() < goal:
            for child in self._replicas:
                assert child.returncode is None, "a replica has ended by itself"
            await asyncio.sleep(0.01)

    async def _cursor(self) -> int:
        async with _connection(self._dsn) as (connection, _):
            return int(await cursors.get(connection, NAME) or "0")


@asynccontextmanager
async def _connection(
    dsn: str,
) -> AsyncIterator[tuple[Any, Callable[..., Awaitable[Sequence[Sequence[Any]]]]]]:
    """Open a connection, and yield it with a function that returns the rows of a statement."""
    async with open_pool(dsn, size=1) as pool:
        driver = driver_of_pool(pool)
        async with driver.acquire(pool) as connection:
            yield connection, partial(driver.fetch, connection)
