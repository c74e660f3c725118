"""Runners under leases whose cursors are written behind, on every database: what is stored, and when."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio import Consumer, Event, Lease, LeaseState, LeaseStore, Runner, Spec
from reflex_aio.health import ConsumerState
from reflex_aio.memory import MemoryEvents
from reflex_aio.sql import CursorsTable, LeasesTable
from tests.fix_backends import Backend
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

NAME = "work"
# In seconds: a runner asks after its leases once in a third of it.
TTL = 1.0
# In seconds: only who flushes stores anything.
NEVER = 3600.0

cursors, leases = CursorsTable("cursors"), LeasesTable("leases")


@pytest_asyncio.fixture
async def connection(backend: Backend, backend_pool: Any) -> AsyncIterator[Any]:
    async with backend.driver.acquire(backend_pool) as connection:
        for table in (cursors, leases):
            await table.create(connection)
        yield connection


class Releases(LeaseStore):
    """A lease store that notes where the cursor was when the consumer's lease was given back."""

    def __init__(self, store: LeaseStore, connection: Any) -> None:
        self._store = store
        self._connection = connection
        self.lease_type = store.lease_type
        self.at: list[str] = []

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        return await self._store.acquire(name, owner, ttl=ttl)

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        await self._store.renew(lease, ttl=ttl)

    async def release(self, lease: Lease) -> None:
        if lease.name == NAME:
            self.at.append(await cursors.get(self._connection, NAME))
        await self._store.release(lease)

    async def all(self) -> Mapping[str, LeaseState]:
        return await self._store.all()


class Hosted:
    """A runner of one consumer of three events, and what it has handled."""

    def __init__(self, pool: Any, leases: LeaseStore) -> None:
        self.events = MemoryEvents()
        self.handled: list[str] = []
        self.store = cursors.store(pool, flush_every=NEVER)
        spec = Spec(self.events, self.store, Consumer(NAME, self._handle))
        self.runner = Runner([spec], leases=leases, lease_ttl=TTL, owner="first")

    async def _handle(self, event: Event) -> None:
        self.handled.append(event.id)

    async def has_handled_three(self) -> None:
        for number in range(3):
            await self.events.insert(number, 1)
        # The last one's cursor is set a little later than it is handled.
        await eventually(self._kept)

    def stands_by(self) -> bool:
        return self.runner.statuses()[NAME].state is ConsumerState.STANDBY

    async def _kept(self) -> bool:
        return await self.store.get(NAME) == "3"


async def test_cursor_is_flushed_before_the_lease_is_given_back(backend_pool: Any, connection: Any) -> None:
    releases = Releases(leases.store(backend_pool), connection)
    hosted = Hosted(backend_pool, releases)
    async with hosted.runner:
        await hosted.has_handled_three()
        assert await cursors.get(connection, NAME) == ""
    assert releases.at == ["3"]
    assert not (await leases.store(backend_pool).all())[NAME].is_held


async def test_cursor_under_a_lease_that_is_lost_is_never_stored(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    store = leases.store(backend_pool)
    hosted = Hosted(backend_pool, store)
    async with hosted.runner:
        await hosted.has_handled_three()
        # As if its time were over while the process was paused: somebody else takes over, and begins anew.

        async def take_over() -> Lease | None:
            await backend.fetch(
                connection,
                f"UPDATE leases SET expires_at = '2000-01-01 00:00:00' WHERE id = '{NAME}'",
            )
            # None if the runner has renewed the lease in between.
            return await store.acquire(NAME, "second", ttl=60.0)

        taken = await eventually(take_over, "the lease taken over")
        assert taken is not None
        await cursors.store(backend_pool).set(NAME, "1", fence=taken)
        await eventually(hosted.stands_by, "it has noticed")
        assert await cursors.get(connection, NAME) == "1"
    await hosted.store.flush()
    assert await cursors.get(connection, NAME) == "1"
    state = (await store.all())[NAME]
    assert (state.owner, state.epoch) == ("second", taken.epoch)
    assert hosted.handled == ["1", "2", "3"]
