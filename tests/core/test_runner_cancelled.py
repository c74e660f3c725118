"""A runner that is cancelled at any moment leaves no task, no lease and no cursor behind."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from reflex_aio import Consumer, Event, Lease, LeaseState, Runner, Spec, run_forever, tasks
from reflex_aio.cursor import CursorMark
from reflex_aio.memory import MemoryCursorStore, MemoryEvents, MemoryLeaseStore
from reflex_aio.patterns import AckConsumer, BatchConsumer, ConcurrentConsumer
from tests.waiting import eventually

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


# Handlers that swallow their cancellation.


class Swallowing:
    """A handler that goes on after each cancellation, until something has been logged about it.

    It waits at its second item: the event 4, as the others are skipped.
    """

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.waiting = False
        self.swallowed = 0

    async def __call__(self, item: Any) -> None:
        if not self.waiting and self._id(item) == "2":
            if not isinstance(item, (Event, list)):
                await item.ack()
            return
        self.waiting = True
        while not self.reports() and self.swallowed < 100:
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                self.swallowed += 1
        self.waiting = False

    @staticmethod
    def _id(item: Any) -> str:
        event: Event = item[0] if isinstance(item, list) else getattr(item, "event", item)
        return event.id

    def reports(self) -> list[logging.LogRecord]:
        return [record for record in self._caplog.records if "goes on" in record.getMessage()]


class MarkedCursorStore(MemoryCursorStore):
    """Reads the cursors of its consumers from marks, as a store does that writes behind."""

    @contextmanager
    def mark(self, name: str, *, fence: Lease | None = None) -> Iterator[CursorMark | None]:
        yield CursorMark()


def is_even(event: Event) -> bool:
    return int(event.id) % 2 == 0


async def drained(spec: Spec, handler: Swallowing) -> None:
    async with Runner([spec], drain=0.01):
        await eventually(lambda: handler.waiting)


async def without_its_lease(spec: Spec, handler: Swallowing) -> None:
    leases = MemoryLeaseStore()
    async with Runner([spec], leases=leases, lease_ttl=0.5):
        await eventually(lambda: handler.waiting)
        leases._grants.clear()
        await eventually(lambda: not handler.waiting)


async def in_a_scope(spec: Spec, handler: Swallowing) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(Runner([spec]).run)
        await eventually(lambda: handler.waiting)
        group.cancel_scope.cancel()


async def run_for_ever(spec: Spec, handler: Swallowing) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(run_forever, spec)
        await eventually(lambda: handler.waiting)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("cancel", [drained, without_its_lease, in_a_scope, run_for_ever])
@pytest.mark.parametrize(
    ("make", "store"),
    [
        pytest.param(Consumer, MemoryCursorStore, id="set"),
        pytest.param(Consumer, MarkedCursorStore, id="marked"),
        pytest.param(
            lambda name, handler, **options: ConcurrentConsumer(name, handler, limit=2, **options),
            MemoryCursorStore,
            id="concurrent",
        ),
        pytest.param(
            lambda name, handler, **options: BatchConsumer(name, handler, size=1, **options),
            MemoryCursorStore,
            id="batch",
        ),
        pytest.param(AckConsumer, MemoryCursorStore, id="ack"),
    ],
)
async def test_handler_that_swallows_its_cancellation_is_reported_once_with_its_event_and_not_cancelled_incessantly(
    make: Any,
    store: type[MemoryCursorStore],
    cancel: Callable[[Spec, Swallowing], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "_CANCEL_PERIOD", 0.05)
    handler, source = Swallowing(caplog), MemoryEvents()
    for number in range(5):
        await source.insert(number, 1)
    await cancel(Spec(source, store(), make("mail", handler, filter=is_even)), handler)
    [record] = handler.reports()
    assert record.getMessage().startswith("consumer mail: the handler of event 4 was cancelled, and goes on")
    assert (record.consumer, record.event_id) == ("mail", "4")  # type: ignore[attr-defined]
    # By what ended the run, and perhaps once more before the handler saw the report.
    assert handler.swallowed <= 2
