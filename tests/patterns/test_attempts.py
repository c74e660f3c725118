"""Attempts that are kept: they count on, and the next one waits until it is due, whatever has happened meanwhile."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from reflex_aio import Attempts, Backoff, Consumer, Event, Runner, Spec, run, run_forever
from reflex_aio.consumer import BaseConsumer
from reflex_aio.health import ConsumerState
from reflex_aio.memory import MemoryAttemptStore, MemoryCursorStore, MemoryEvents, MemoryLeaseStore
from reflex_aio.patterns import (
    AckConsumer,
    AckEvent,
    BatchConsumer,
    ConcurrentConsumer,
    DeadLetterConsumer,
    LogRecorder,
)
from tests.core.cancelling import CancelledAt, each_cancellation, on_trio
from tests.patterns.making import some

pytestmark = pytest.mark.anyio

BACKOFF = Backoff(initial=60.0, maximum=3600.0)


class Handler:
    """Fails at event 2 until it has failed so often; knows when it was called on it."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.called_at: list[float] = []
        self.handled: list[str] = []

    async def __call__(self, event: Event) -> None:
        await checkpoint()
        if event.id == "2":
            self.called_at.append(anyio.current_time())
            if len(self.called_at) <= self.failures:
                raise ValueError(f"failure {len(self.called_at)}")
        self.handled.append(event.id)

    async def all(self, events: list[Event]) -> None:
        for event in events:
            await self(event)

    async def ack(self, event: AckEvent) -> None:
        await self(event.event)
        await event.ack()


KINDS: dict[str, Callable[[Handler], BaseConsumer[Any]]] = {
    "consumer": lambda handler: Consumer("c", handler),
    "filtered": lambda handler: Consumer("c", handler, filter=lambda event: True),
    "ack": lambda handler: AckConsumer("c", handler.ack),
    # Each event is a batch, as the first one of a batch stands for it.
    "batch": lambda handler: BatchConsumer("c", handler.all, size=1),
    "concurrent": lambda handler: ConcurrentConsumer("c", handler, limit=2),
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def spec(
    source: MemoryEvents, consumer: BaseConsumer[Any], attempts: MemoryAttemptStore, **options: Any
) -> Spec:
    return Spec(
        source,
        options.pop("store", None) or MemoryCursorStore(),
        consumer,
        attempts=attempts,
        retry_backoff=BACKOFF,
        **options,
    )


class Recorder:
    def __init__(self) -> None:
        self.recorded: list[str] = []

    async def record(self, *, consumer: str, event: Event, error: Exception) -> None:
        self.recorded.append(f"{event.id}: {error}")


@on_trio
@each_kind
async def test_each_attempt_waits_as_the_backoff_says_and_order_is_kept(
    make: Callable[[Handler], BaseConsumer[Any]],
) -> None:
    handler, attempts, store = Handler(3), MemoryAttemptStore(), MemoryCursorStore()
    with anyio.move_on_after(3600.0):
        await run_forever(spec(await some(3), make(handler), attempts, store=store))
    first, *later = handler.called_at
    waited = [round(after - before, 3) for before, after in zip([first, *later], later, strict=False)]
    assert len(waited) == 3
    for least, seconds in zip((30, 60, 120), waited, strict=True):
        assert least <= seconds <= 2 * least + 0.1
    # What is begun beside a failing event is begun again, and may be finished before it.
    assert sorted(handler.handled[-2:]) == ["2", "3"]
    assert await store.get("c") == "3"
    assert await attempts.get("c") == {}


@on_trio
@each_kind
async def test_another_process_waits_for_the_rest_of_the_delay(
    make: Callable[[Handler], BaseConsumer[Any]],
) -> None:
    attempts, store, source = MemoryAttemptStore(), MemoryCursorStore({"c": "1"}), await some(3)
    await attempts.record("c", "2", delay=100.0)
    await anyio.sleep(40.0)
    handler, began = Handler(0), anyio.current_time()
    await run(spec(source, make(handler), attempts, store=store, to_head=True))
    assert handler.called_at == [pytest.approx(began + 60.0)]
    assert await attempts.get("c") == {}


@each_kind
async def test_attempts_are_forgotten_while_the_run_goes_on(
    make: Callable[[Handler], BaseConsumer[Any]],
) -> None:
    attempts, store = MemoryAttemptStore(), MemoryCursorStore({"c": "1"})
    await attempts.record("c", "2", delay=0.0)
    async with anyio.create_task_group() as group:
        group.start_soon(run, spec(await some(3), make(Handler(0)), attempts, store=store))
        while await store.get("c") != "3":
            await checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert await attempts.get("c") == {}
        group.cancel_scope.cancel()


async def test_attempts_are_written_before_the_run_has_ended() -> None:
    attempts = MemoryAttemptStore()
    with pytest.raises(ValueError, match="failure 1"):
        await run(spec(await some(3), Consumer("c", Handler(1)), attempts, to_head=True))
    [(event_id, told)] = (await attempts.get("c")).items()
    assert (event_id, told.count) == ("2", 1)
    assert 25 < told.seconds_left <= 60


@on_trio
@pytest.mark.parametrize("kept", [True, False])
async def test_errors_count_on_in_another_process_only_if_they_are_kept(kept: bool) -> None:
    """Each run has a consumer of its own, as it has after a restart."""
    attempts, store, source, recorder = MemoryAttemptStore(), MemoryCursorStore(), await some(3), Recorder()
    handler = Handler(100)
    options: dict[str, Any] = {"attempts": attempts, "retry_backoff": BACKOFF} if kept else {}
    for _ in range(3):
        consumer = DeadLetterConsumer("c", handler, recorder, retries=3)
        with pytest.raises(ValueError, match="failure"):
            await run(Spec(source, store, consumer, to_head=True, **options))
    consumer = DeadLetterConsumer("c", handler, recorder, retries=3)
    if kept:
        await run(Spec(source, store, consumer, to_head=True, **options))
        assert recorder.recorded == ["2: failure 4"]
        assert handler.handled == ["1", "3"]
        assert await attempts.get("c") == {}
    else:
        with pytest.raises(ValueError, match="failure"):
            await run(Spec(source, store, consumer, to_head=True))
        assert recorder.recorded == []


@on_trio
async def test_drain_does_not_wait_for_an_attempt_that_is_not_due() -> None:
    attempts, store = MemoryAttemptStore(), MemoryCursorStore({"c": "1"})
    await attempts.record("c", "2", delay=3600.0)
    handler = Handler(0)
    runner = Runner([spec(await some(3), Consumer("c", handler), attempts, store=store)], drain=20.0)
    async with anyio.create_task_group() as group:
        group.start_soon(runner.run)
        await anyio.sleep(10.0)
        assert (runner.statuses()["c"].state, runner.ready) == (ConsumerState.BACKING_OFF, False)
        began = anyio.current_time()
        await runner.drain()
        assert anyio.current_time() == pytest.approx(began, abs=0.1)
        assert not runner.unfinished
    assert handler.called_at == []
    assert (await attempts.get("c"))["2"].count == 1


@on_trio
async def test_replica_that_takes_over_waits_for_the_rest_and_runs_then() -> None:
    attempts, store, leases = MemoryAttemptStore(), MemoryCursorStore(), MemoryLeaseStore()
    source, first, second = await some(3), Handler(1), Handler(0)

    async def replica(handler: Handler) -> None:
        await Runner([spec(source, Consumer("c", handler), attempts, store=store)], leases=leases).run()

    with anyio.move_on_after(10.0):
        await replica(first)
    [failed_at] = first.called_at
    due_at = anyio.current_time() + (await attempts.get("c"))["2"].seconds_left
    assert failed_at + 30 <= due_at <= failed_at + 61
    with anyio.move_on_after(3600.0):
        await replica(second)
    assert second.called_at == [pytest.approx(due_at, abs=0.1)]
    assert second.handled == ["2", "3"]
    assert await attempts.get("c") == {}


@pytest.mark.parametrize("cursor", ["2", "10"])
async def test_attempts_at_events_that_somebody_has_skipped_are_forgotten(cursor: str) -> None:
    attempts = MemoryAttemptStore()
    await attempts.record("c", "2", delay=3600.0)
    await attempts.record("d", "2", delay=3600.0)
    await run(
        spec(
            await some(10),
            Consumer("c", Handler(0)),
            attempts,
            store=MemoryCursorStore({"c": cursor}),
            to_head=True,
        )
    )
    assert await attempts.get("c") == {}
    assert set(await attempts.get("d")) == {"2"}


class Broken(MemoryAttemptStore):
    def __init__(self, call: str) -> None:
        super().__init__()
        self.call = call

    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        if self.call == "record":
            raise OSError("no attempts today")
        await super().record(consumer, event_id, delay=delay)

    async def clear(self, consumer: str, event_id: str) -> None:
        if self.call == "clear":
            raise OSError("no attempts today")
        await super().clear(consumer, event_id)

    async def get(self, consumer: str) -> Mapping[str, Attempts]:
        if self.call == "get":
            raise OSError("no attempts today")
        return await super().get(consumer)


@each_kind
async def test_attempt_that_can_not_be_written_is_logged_and_the_handlers_error_raised(
    make: Callable[[Handler], BaseConsumer[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryCursorStore({"c": "1"})
    with pytest.raises(ValueError, match="failure 1"):
        await run(spec(await some(3), make(Handler(1)), Broken("record"), store=store, to_head=True))
    assert await store.get("c") == "1"
    assert [record.getMessage() for record in caplog.records] == [
        "consumer c: could not write the attempts at event 2"
    ]


@on_trio
@each_kind
async def test_attempts_that_can_not_be_forgotten_hold_up_nothing(
    make: Callable[[Handler], BaseConsumer[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    attempts, store = Broken("clear"), MemoryCursorStore({"c": "1"})
    await attempts.record("c", "2", delay=1.0)
    await run(spec(await some(3), make(Handler(0)), attempts, store=store, to_head=True))
    assert await store.get("c") == "3"
    assert "could not write the attempts" in caplog.text


async def test_attempts_that_can_not_be_read_end_the_run_before_the_handler() -> None:
    handler = Handler(0)
    with pytest.raises(OSError, match="no attempts today"):
        await run(spec(await some(3), Consumer("c", handler), Broken("get"), to_head=True))
    assert handler.handled == []


class Waiting(MemoryAttemptStore):
    """Waits in every call."""

    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        await checkpoint()
        await super().record(consumer, event_id, delay=delay)

    async def clear(self, consumer: str, event_id: str) -> None:
        await checkpoint()
        await super().clear(consumer, event_id)

    async def get(self, consumer: str) -> Mapping[str, Attempts]:
        await checkpoint()
        return await super().get(consumer)


@each_cancellation
@each_kind
async def test_cancellation_counts_for_nothing_and_loses_nothing(
    cancelled_at: CancelledAt, make: Callable[[Handler], BaseConsumer[Any]]
) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        handler, attempts, store, source = Handler(0), Waiting(), MemoryCursorStore({"c": "1"}), await some(3)
        await attempts.record("c", "2", delay=0.0)
        one = spec(source, make(handler), attempts, store=store, to_head=True)
        in_time = await cancelled_at(step, run(one))
        told = await attempts.get("c")
        assert set(told) <= {"2"}
        assert all(each.count == 1 for each in told.values())
        await run(one)
        assert await attempts.get("c") == {}
        assert {"2", "3"} <= set(handler.handled)
    assert step > 5


@each_cancellation
@each_kind
async def test_failed_attempt_is_written_though_the_run_is_cancelled_then(
    cancelled_at: CancelledAt, make: Callable[[Handler], BaseConsumer[Any]]
) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        handler, attempts, store = Handler(1), Waiting(), MemoryCursorStore({"c": "1"})
        try:
            in_time = await cancelled_at(step, run(spec(await some(3), make(handler), attempts, store=store)))
        except ValueError:
            in_time = step < 50
        counts = {event_id: told.count for event_id, told in (await attempts.get("c")).items()}
        assert counts == ({"2": 1} if handler.called_at else {})


async def test_error_on_a_batch_counts_for_its_first_event() -> None:
    async def handle(events: list[Event]) -> None:
        raise ValueError("x")

    attempts = MemoryAttemptStore()
    with pytest.raises(ValueError, match="x"):
        await run(spec(await some(3), BatchConsumer("c", handle, size=3), attempts, to_head=True))
    assert set(await attempts.get("c")) == {"1"}


@on_trio
async def test_what_fails_because_the_run_ends_is_no_attempt() -> None:
    async def handle(event: Event) -> None:
        if event.id == "2":
            raise ValueError("x")
        try:
            await anyio.sleep_forever()
        finally:
            raise OSError("clean-up")

    attempts = MemoryAttemptStore()
    with pytest.raises(ValueError, match="x"):
        await run(spec(await some(3), ConcurrentConsumer("c", handle, limit=3), attempts, to_head=True))
    assert set(await attempts.get("c")) == {"2"}


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_clean_up_that_fails_after_a_cancellation_is_no_attempt() -> None:
    async def handle(event: Event) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise OSError("clean-up")

    attempts = MemoryAttemptStore()
    task = asyncio.create_task(run(spec(await some(1), Consumer("c", handle), attempts)))
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(OSError, match="clean-up"):
        await task
    assert await attempts.get("c") == {}


async def test_event_is_skipped_by_kept_attempts_too() -> None:
    attempts, handler = MemoryAttemptStore(), Handler(100)
    await attempts.record("c", "2", delay=0.0)
    consumer = DeadLetterConsumer("c", handler, LogRecorder(), retries=1)
    await run(spec(await some(3), consumer, attempts, to_head=True))
    assert handler.handled == ["1", "3"]
    assert await attempts.get("c") == {}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attempts": object()}, TypeError, "accepted is an AttemptStore"),
        ({"attempts": MemoryAttemptStore(), "retry_backoff": 3.0}, TypeError, "accepted is a Backoff"),
        ({"retry_backoff": Backoff()}, ValueError, "without attempts"),
    ],
)
async def test_wrong_arguments_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Spec(MemoryEvents(), MemoryCursorStore(), Consumer("c", Handler(0)), **options)
