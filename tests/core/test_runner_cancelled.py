"""A runner that is cancelled at any moment leaves no task, no lease and no cursor behind."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import anyio
import pytest
from anyio.lowlevel import checkpoint

from reflex_aio import Consumer, Event, Lease, LeaseState, Runner, Spec
from reflex_aio.memory import MemoryCursorStore, MemoryEvents, MemoryLeaseStore

pytestmark = pytest.mark.anyio


class Moments:
    """Counts what may be a moment to cancel, in whatever task, and cancels at one of them."""

    def __init__(self, moment: int) -> None:
        self._left = moment
        self.cancel: Callable[[], object] = lambda: None

    async def pass_one(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.cancel()
        await checkpoint()

    @property
    def is_past(self) -> bool:
        return self._left <= 0


class WaitingLeaseStore(MemoryLeaseStore):
    """Waits before and after each request takes effect."""

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self._pass = moments.pass_one

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        await self._pass()
        lease = await super().acquire(name, owner, ttl=ttl)
        await self._pass()
        return lease

    async def release(self, lease: Lease) -> None:
        await self._pass()
        await super().release(lease)
        await self._pass()

    async def all(self) -> Mapping[str, LeaseState]:
        await self._pass()
        states = await super().all()
        await self._pass()
        return states


async def in_scope(work: Callable[[], Awaitable[None]], moments: Moments) -> None:
    with anyio.CancelScope() as scope:
        moments.cancel = scope.cancel
        await work()


async def in_task(work: Callable[[], Awaitable[None]], moments: Moments) -> None:
    async def run() -> None:
        await work()

    task = asyncio.create_task(run())
    moments.cancel = task.cancel
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None


@pytest.mark.parametrize(
    ("anyio_backend", "cancelled"),
    [
        pytest.param("asyncio", in_scope, id="asyncio-scope"),
        pytest.param("asyncio", in_task, id="asyncio-task"),
        pytest.param("trio", in_scope, id="trio"),
    ],
    indirect=["anyio_backend"],
)
@pytest.mark.parametrize("with_leases", [False, True], ids=["alone", "leases"])
async def test_run_that_is_cancelled_anywhere_leaves_nothing_behind(
    cancelled: Callable[[Callable[[], Awaitable[None]], Moments], Awaitable[None]], with_leases: bool
) -> None:
    for moment in range(1, 100):
        moments = Moments(moment)
        handled = await run_to_the_third_event(moments, cancelled, with_leases=with_leases)
        if not moments.is_past:
            break
    assert handled == ["1", "2", "3"]
    assert moment > (12 if with_leases else 6)


async def run_to_the_third_event(
    moments: Moments,
    cancelled: Callable[[Callable[[], Awaitable[None]], Moments], Awaitable[None]],
    *,
    with_leases: bool,
) -> list[str]:
    source, store, leases = MemoryEvents(), MemoryCursorStore(), WaitingLeaseStore(moments)
    for number in range(3):
        await source.insert(number, 1)
    handled: list[str] = []

    async def handle(event: Event) -> None:
        await moments.pass_one()
        handled.append(event.id)
        await moments.pass_one()
        if event.id == "3":
            runner.end()

    runner = Runner([Spec(source, store, Consumer("c", handle))], leases=leases if with_leases else None)
    await cancelled(runner.run, moments)
    assert {status.state.value for status in runner.statuses().values()} == {"stopped"}
    held = [name for name, state in (await MemoryLeaseStore.all(leases)).items() if state.is_held]
    assert held == []
    # One event may have been handled whose cursor wasn't set any more.
    assert int(await store.get("c") or 0) in (len(handled), len(handled) - 1)
    return handled
