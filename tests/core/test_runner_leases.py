"""Runners that share leases: one of them runs a consumer, evenly shared, taken over in time."""

import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import anyio
import pytest
import trio

from reflex_aio import ConnectionLost, Consumer, Event, Lease, LeaseState, LeaseStore, Runner, Spec
from reflex_aio.memory import MemoryCursorStore, MemoryEvents, MemoryLeaseStore
from reflex_aio.patterns import by_foreign_id, shards
from tests.core.cancelling import on_trio
from tests.core.sources import Pages, events
from tests.core.test_runner import Stubborn, spec_of, states
from tests.waiting import eventually

pytestmark = [pytest.mark.anyio, on_trio]

TTL = 15.0


class Service:
    """What replicas of a service share; each hosts the same consumers."""

    def __init__(self, names: list[str], *, seconds: float = 0.0) -> None:
        self.names = names
        self.seconds = seconds
        self.source = MemoryEvents()
        self.store = MemoryCursorStore()
        self.leases = MemoryLeaseStore()
        self.running: Counter[str] = Counter()
        self.handled: list[tuple[str, str]] = []

    def runner(self, owner: str, *, leases: Any = None, **options: Any) -> Runner:
        specs = [Spec(self.source, self.store, Consumer(name, self._handler(name))) for name in self.names]
        return Runner(
            specs,
            leases=self.leases if leases is None else leases,
            lease_ttl=TTL,
            owner=owner,
            **options,
        )

    def _handler(self, name: str) -> Callable[[Event], Any]:
        async def handle(event: Event) -> None:
            self.running[name] += 1
            assert self.running[name] == 1, f"{name} runs twice"
            try:
                await anyio.sleep(self.seconds)
                self.handled.append((name, event.id))
            finally:
                self.running[name] -= 1

        return handle

    async def holders(self) -> dict[str, str]:
        """Who runs which consumer."""
        return {
            name: state.owner
            for name, state in (await self.leases.all()).items()
            if name in self.names and state.is_held
        }

    async def counts(self) -> list[int]:
        """How many each replica runs that runs any."""
        return sorted(Counter((await self.holders()).values()).values())


class Replica:
    """A runner in the background, to be drained or killed."""

    def __init__(self, runner: Runner, scope: anyio.CancelScope) -> None:
        self.runner = runner
        self.scope = scope

    def running(self) -> list[str]:
        return [name for name, state in states(self.runner).items() if state == "running"]


@asynccontextmanager
async def replicas() -> AsyncIterator[Callable[[Runner], Replica]]:
    """Start runners in the background; in the end they are drained."""
    started: list[Replica] = []

    async with anyio.create_task_group() as group:

        def start(runner: Runner) -> Replica:
            scope = anyio.CancelScope()

            async def run() -> None:
                with scope:
                    await runner.run()

            group.start_soon(run)
            started.append(Replica(runner, scope))
            return started[-1]

        yield start
        for replica in started:
            await replica.runner.drain()


class CutOff(MemoryLeaseStore):
    """A connection to a lease store that may be lost."""

    def __init__(self, store: MemoryLeaseStore) -> None:
        self._store = store
        self.lost = False
        self.silent = False
        self.delay = 0.0

    async def _check(self) -> None:
        if self.silent:
            await anyio.sleep_forever()
        if self.lost:
            raise ConnectionLost("the network is down")
        await anyio.sleep(self.delay)

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        await self._check()
        return await self._store.acquire(name, owner, ttl=ttl)

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        await self._check()
        await self._store.renew(lease, ttl=ttl)

    async def release(self, lease: Lease) -> None:
        await self._check()
        await self._store.release(lease)

    async def all(self) -> Mapping[str, LeaseState]:
        await self._check()
        return await self._store.all()


async def test_consumer_runs_in_one_replica_and_the_others_stand_by() -> None:
    service = Service(["c"])
    async with replicas() as start:
        started = [start(service.runner(owner)) for owner in "abc"]
        await anyio.sleep(1)
        told = sorted(states(replica.runner)["c"] for replica in started)
        assert told == ["running", "standby", "standby"]
        assert all(replica.runner.ready and replica.runner.live for replica in started)
        for number in range(100):
            await service.source.insert(number, 1)
            await anyio.sleep(1)
        [holder] = [replica for replica in started if replica.running()]
        assert holder.runner.statuses()["c"].epoch == 1
    assert [event_id for _, event_id in service.handled] == [str(number) for number in range(1, 101)]


async def test_drained_replica_gives_back_its_leases_once_their_cursors_are_stored() -> None:
    service = Service(["c"], seconds=5)
    await service.source.insert(1, 1)
    await service.source.insert(2, 1)
    async with replicas() as start:
        first = start(service.runner("first"))
        await anyio.sleep(1)
        start(service.runner("second"))
        await anyio.sleep(1)
        await first.runner.drain()
        assert service.handled == [("c", "1")]
        assert await service.store.get("c") == "1"
        assert await service.holders() == {}
        await anyio.sleep(TTL / 3)
        assert await service.holders() == {"c": "second"}
    assert service.handled == [("c", "1"), ("c", "2")]


async def test_replica_that_dies_is_replaced_within_a_ttl_of_its_last_renewal(seed: int) -> None:
    chance = random.Random(seed)
    service = Service(["a", "b"])
    for repetition in range(20):
        service.leases = MemoryLeaseStore()
        connection = CutOff(service.leases)
        async with replicas() as start:
            dead = start(service.runner("dead", leases=connection))
            await anyio.sleep(1)
            start(service.runner("alive"))
            # Somewhere between two renewals.
            await anyio.sleep(30 + chance.uniform(0, 5))
            assert sorted((await service.holders()).values()) == ["alive", "dead"], repetition
            # As a dead process doesn't give its leases back.
            connection.lost = True
            dead.scope.cancel()
            await anyio.sleep(TTL + 0.1)
            assert await service.holders() == {"a": "alive", "b": "alive"}


async def test_leases_are_renewed_for_as_long_as_their_consumers_run() -> None:
    service = Service(["c"])
    async with replicas() as start:
        replica = start(service.runner("a"))
        await anyio.sleep(1000)
        assert replica.running() == ["c"]
        assert replica.runner.statuses()["c"].epoch == 1


@pytest.mark.parametrize("how", ["lost", "silent"])
async def test_run_whose_lease_can_not_be_renewed_is_over_before_the_lease_is(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(["c"], seconds=1000)
    await service.source.insert(1, 1)
    connection = CutOff(service.leases)
    async with replicas() as start:
        replica = start(service.runner("a", leases=connection))
        await anyio.sleep(20)
        assert service.running == {"c": 1}
        setattr(connection, how, True)
        await eventually(lambda: not service.running["c"], within=TTL)
        state = (await service.leases.all())["c"]
        assert state.is_held
        assert state.seconds_left < TTL / 4
        assert "could not be renewed within its ttl of 15 s" in caplog.text
        await anyio.sleep(10)
        assert states(replica.runner) == {"c": "backing off"}
        assert (replica.runner.ready, replica.runner.live) == (False, True)
        setattr(connection, how, False)
        await anyio.sleep(10)
        assert replica.running() == ["c"]
        assert replica.runner.statuses()["c"].epoch == 2
        replica.scope.cancel()


async def test_renewal_that_fails_is_tried_again_before_the_lease_is_over() -> None:
    service = Service(["c"])
    connection = CutOff(service.leases)
    async with replicas() as start:
        replica = start(service.runner("a", leases=connection))
        for _ in range(10):
            await anyio.sleep(20)
            connection.lost = True
            await anyio.sleep(TTL / 4)
            connection.lost = False
        assert replica.runner.statuses()["c"].epoch == 1


async def test_replica_whose_lease_was_taken_stops_and_its_cursor_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As after it was paused: it hasn't noticed yet that time went on."""
    service = Service(["c"])
    started = anyio.Event()

    async def wait(event: Event) -> None:
        started.set()
        # It goes on when the lease has long been another's.
        with anyio.CancelScope(shield=True):
            await anyio.sleep(100)

    spec = Spec(service.source, service.store, Consumer("c", wait))
    await service.source.insert(1, 1)
    runner = Runner([spec], leases=service.leases, lease_ttl=TTL, owner="paused")
    async with replicas() as start:
        start(runner)
        await started.wait()
        # Time passes without the runner: the lease expires, and another one takes it.
        service.leases._grants.clear()
        taken = await service.leases.acquire("c", "other", ttl=1000)
        assert taken
        await anyio.sleep(200)
        assert await service.store.get("c") == ""
        assert states(runner) == {"c": "standby"}
        assert "no longer holds the lease of epoch 1" in caplog.text


async def test_consumers_are_shared_evenly_and_anew_when_a_replica_joins_or_leaves() -> None:
    names = [shard.name for shard in shards("search", 4, key=by_foreign_id)] + ["mail", "audit"]
    service = Service(names)
    async with replicas() as start:
        started: list[Replica] = []
        for number, counts in enumerate([[6], [3, 3], [2, 2, 2], [1, 1, 2, 2]]):
            started.append(start(service.runner(f"replica-{number}")))
            await anyio.sleep(TTL)
            assert await service.counts() == counts
            shard_holders = Counter(
                holder for name, holder in (await service.holders()).items() if name.startswith("search")
            )
            assert max(shard_holders.values()) - min(shard_holders.values()) <= 1
        for counts in ([2, 2, 2], [3, 3], [6]):
            await started.pop().runner.drain()
            await anyio.sleep(TTL)
            assert await service.counts() == counts


async def test_what_is_shared_evenly_stays_where_it_is() -> None:
    service = Service([f"c_{number}_of_5" for number in range(1, 6)] + ["x", "y"])
    async with replicas() as start:
        for owner in "abc":
            start(service.runner(owner))
        await anyio.sleep(2 * TTL)
        before = await service.leases.all()
        await anyio.sleep(100 * TTL)
        after = await service.leases.all()
        assert {name: state.epoch for name, state in after.items()} == {
            name: state.epoch for name, state in before.items()
        }


async def test_consumer_that_is_handed_over_finishes_what_it_has_in_hand_and_nothing_runs_twice() -> None:
    service = Service([f"c_{number}_of_4" for number in range(1, 5)], seconds=3)
    for number in range(30):
        await service.source.insert(number, 1)
    async with replicas() as start:
        first = start(service.runner("first"))
        await anyio.sleep(10)
        start(service.runner("second"))
        await anyio.sleep(20)
        assert await service.counts() == [2, 2]
        await first.runner.drain()
        await anyio.sleep(100)
    # No handler was cancelled, none got an event again, and each got all in order.
    for name in service.names:
        assert [event_id for consumer, event_id in service.handled if consumer == name] == [
            str(number) for number in range(1, 31)
        ]


async def test_consumer_that_is_handed_over_and_does_not_finish_in_time_is_cancelled() -> None:
    service = Service(["a", "b"], seconds=1000)
    await service.source.insert(1, 1)
    async with replicas() as start:
        one = start(service.runner("one", drain=20))
        await anyio.sleep(10)
        two = start(service.runner("two", drain=20))
        await anyio.sleep(TTL)
        assert sorted(states(one.runner).values()) == ["draining", "running"]
        assert one.runner.ready
        await anyio.sleep(20 + TTL)
        assert await service.counts() == [1, 1]
        one.scope.cancel()
        two.scope.cancel()


async def test_replicas_of_another_version_keep_what_they_have_and_new_consumers_are_run() -> None:
    old, new = Service(["a", "b"]), Service(["a", "b", "c"])
    new.leases, new.store, new.source = old.leases, old.store, old.source
    async with replicas() as start:
        before = start(old.runner("old"))
        await anyio.sleep(10)
        start(new.runner("new"))
        await anyio.sleep(100)
        assert await new.holders() == {"a": "old", "b": "old", "c": "new"}
        await before.runner.drain()
        await anyio.sleep(TTL)
        assert await new.holders() == {"a": "new", "b": "new", "c": "new"}


async def test_replicas_of_a_new_version_share_evenly_what_the_old_ones_leave_them() -> None:
    old, new = Service(["a", "b"]), Service(["a", "b", "c", "d"])
    new.leases, new.store, new.source = old.leases, old.store, old.source
    async with replicas() as start:
        start(old.runner("old"))
        await anyio.sleep(10)
        start(new.runner("new-1"))
        start(new.runner("new-2"))
        await anyio.sleep(2 * TTL)
        holders = await new.holders()
        assert (holders["a"], holders["b"]) == ("old", "old")
        assert {holders["c"], holders["d"]} == {"new-1", "new-2"}


async def test_names_of_members_do_not_grow_with_every_restart() -> None:
    service = Service(["c"])
    for number in range(10):
        async with replicas() as start:
            start(service.runner(f"{number}-a"))
            start(service.runner(f"{number}-b"))
            await anyio.sleep(10)
    assert len(await service.leases.all()) == 3


async def test_runner_without_an_owner_gets_one_of_its_own() -> None:
    service = Service(["c"])
    first, second = service.runner(""), service.runner("")
    assert first.owner != second.owner


async def test_drain_does_not_wait_for_a_store_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    service, handler = Service(["c"]), Stubborn(2)
    connection = CutOff(service.leases)
    runner = Runner(
        [spec_of("c", handler, Pages(events(1, 9)))], leases=connection, lease_ttl=TTL, drain=20.0
    )
    async with replicas() as start:
        start(runner)
        await anyio.sleep(1)
        began = trio.current_time()
        connection.silent = True
        await runner.drain()
        # The handler ends in time; then two leases are given back in vain.
        assert handler.finished == handler.began == ["1"]
        assert trio.current_time() - began < 20


@pytest.mark.parametrize("after", [0.5, 1.5, 2.5, 3.5, 4.5])
async def test_drain_while_a_lease_is_being_acquired_gives_it_back(after: float) -> None:
    service = Service(["c"])
    connection = CutOff(service.leases)
    connection.delay = 1.0
    async with replicas() as start:
        replica = start(service.runner("a", leases=connection))
        await anyio.sleep(after)
        with anyio.fail_after(10):
            await replica.runner.drain()
        assert not any(state.is_held for state in (await service.leases.all()).values())


class PlainLeases(MemoryLeaseStore):
    """A lease store with leases of its own."""

    lease_type: type[Lease] = Lease


class UnfencedStore(MemoryCursorStore):
    fence_type: ClassVar[type[Lease] | None] = None


@pytest.mark.parametrize(
    ("store", "leases", "message"),
    [
        (UnfencedStore(), MemoryLeaseStore(), "compares no leases: accepted is a store with a fence_type"),
        (MemoryCursorStore(), PlainLeases(), "cannot compare a Lease: accepted is a _MemoryLease"),
    ],
)
async def test_leases_that_the_cursor_store_can_not_compare_are_refused_when_the_runner_is_made(
    store: MemoryCursorStore, leases: LeaseStore, message: str
) -> None:
    async def ignore(event: Event) -> None: ...

    spec = Spec(MemoryEvents(), store, Consumer("c", ignore))
    with pytest.raises(TypeError, match=message):
        Runner([spec], leases=leases)
    Runner([spec])
    with pytest.raises(TypeError, match=message):
        spec.fenced(Lease("c", "me", 1))
