"""Dead letters, recorded or only logged: an event that fails again and again is skipped, a cancellation never is."""

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from reflex_aio import Backoff, Consumer, Event, Spec, run, run_forever
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import DeadLetterConsumer, ErrorRecorder, LogRecorder
from tests.core.cancelling import CancelledAt, each_cancellation, on_trio
from tests.core.recording import RecordingHooks
from tests.core.sources import event
from tests.patterns.making import some

pytestmark = pytest.mark.anyio


class Recorder:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.recorded: list[tuple[str, str, str]] = []

    async def record(self, *, consumer: str, event: Event, error: Exception) -> None:
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.recorded.append((consumer, event.id, str(error)))


class Failing:
    """Fails at even events."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def __call__(self, event: Event) -> None:
        self.calls.append(int(event.id))
        await anyio.lowlevel.checkpoint()
        if int(event.id) % 2 == 0:
            raise ValueError(f"at {event.id}")


def logged(handler: Any, retries: int) -> Consumer:
    return DeadLetterConsumer("c", handler, LogRecorder(), retries=retries)


def dead_letter(handler: Any, retries: int) -> Consumer:
    return DeadLetterConsumer("c", handler, Recorder(), retries=retries)


each_kind = pytest.mark.parametrize("make", [logged, dead_letter])


async def runs_until_done(source: MemoryEvents, store: MemoryCursorStore, consumer: Consumer) -> int:
    """Run again after each ValueError, and return how many there were."""
    errors = 0
    while True:
        try:
            await run(Spec(source, store, consumer, to_head=True))
        except ValueError:
            errors += 1
        else:
            return errors


@each_kind
@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_event_is_let_go_after_so_many_retries(make: Callable[..., Consumer], retries: int) -> None:
    handler, store = Failing(), MemoryCursorStore()
    errors = await runs_until_done(await some(5), store, make(handler, retries))
    assert errors == 2 * retries
    assert handler.calls == [1, *[2] * (retries + 1), 3, *[4] * (retries + 1), 5]
    assert await store.get("c") == "5"


@each_kind
async def test_errors_are_counted_for_each_event_anew(make: Callable[..., Consumer]) -> None:
    failures = [True, False, True, True, True]

    async def handle(event: Event) -> None:
        if failures.pop(0):
            raise ValueError("x")

    # The first event fails once of the two times that it may; the second one may fail twice.
    assert await runs_until_done(await some(2), MemoryCursorStore(), make(handle, 2)) == 3
    assert failures == []


@on_trio
@each_kind
async def test_run_forever_does_the_retries(make: Callable[..., Consumer]) -> None:
    handler, store = Failing(), MemoryCursorStore()
    with anyio.move_on_after(60):
        await run_forever(Spec(await some(3), store, make(handler, 2)), backoff=Backoff(maximum=1.0))
    assert handler.calls == [1, 2, 2, 2, 3]


async def test_log_recorder_logs_the_skipped_event(caplog: pytest.LogCaptureFixture) -> None:
    await run(Spec(await some(2), MemoryCursorStore(), logged(Failing(), 0), to_head=True))
    [record] = caplog.records
    assert record.getMessage() == "consumer c skips event 2, on which it failed"
    assert (record.__dict__["consumer"], record.__dict__["event_id"]) == ("c", "2")
    assert isinstance(LogRecorder(), ErrorRecorder)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "at 2"


async def test_dead_letters_are_recorded_once_and_told_of_as_handled() -> None:
    recorder, hooks = Recorder(), RecordingHooks()
    consumer = DeadLetterConsumer("c", Failing(), recorder, retries=0)
    await run(Spec(await some(4), MemoryCursorStore(), consumer, to_head=True, hooks=hooks))
    assert recorder.recorded == [("c", "2", "at 2"), ("c", "4", "at 4")]
    assert [told for told in hooks.log if told[0] == "failed"] == []
    assert isinstance(recorder, ErrorRecorder)


async def test_error_of_the_recorder_leaves_the_cursor_before_the_event() -> None:
    recorder, store, handler = Recorder(OSError("lost")), MemoryCursorStore(), Failing()
    consumer = DeadLetterConsumer("c", handler, recorder, retries=1)
    spec = Spec(await some(3), store, consumer, to_head=True)
    with pytest.raises(ValueError, match="at 2"):
        await run(spec)
    for _ in range(2):
        with pytest.raises(OSError, match="lost") as caught:
            await run(spec)
        assert isinstance(caught.value.__context__, ValueError)
        assert await store.get("c") == "1"
    recorder.error = None
    await run(spec)
    assert recorder.recorded == [("c", "2", "at 2")]
    assert handler.calls == [1, 2, 2, 2, 2, 3]


async def test_recover_comes_first() -> None:
    async def recover(event: Event, error: Exception) -> None:
        if event.id == "2":
            return
        raise error

    recorder = Recorder()
    consumer = DeadLetterConsumer("c", Failing(), recorder, retries=0, recover=recover)
    await run(Spec(await some(4), MemoryCursorStore(), consumer, to_head=True))
    assert recorder.recorded == [("c", "4", "at 4")]


@each_cancellation
@each_kind
async def test_cancellation_is_never_let_go(cancelled_at: CancelledAt, make: Callable[..., Consumer]) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        finished: list[str] = []

        async def handle(event: Event, finished: list[str] = finished) -> None:
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            finished.append(event.id)

        store, source = MemoryCursorStore(), await some(3)
        spec = Spec(source, store, make(handle, 0), to_head=True)
        in_time = await cancelled_at(step, run(spec))
        cursor = int(await store.get("c") or 0)
        assert set(range(1, cursor + 1)) <= {int(number) for number in finished}
        await run(spec)
        assert set(finished) == {"1", "2", "3"}
    assert step > 5


@each_kind
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_clean_up_that_fails_does_not_make_a_success_of_a_cancellation(
    make: Callable[..., Consumer],
) -> None:
    async def handle(event: Event) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise OSError("clean-up")

    store = MemoryCursorStore()
    task = asyncio.create_task(run(Spec(await some(1), store, make(handle, 0))))
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(OSError, match="clean-up"):
        await task
    assert await store.get("c") == ""


@each_kind
@pytest.mark.parametrize(
    "between", [pytest.param((2, False), id="another-failed"), pytest.param((1, True), id="it-succeeded")]
)
async def test_errors_before_something_else_do_not_count(
    make: Callable[..., Consumer], between: tuple[int, bool]
) -> None:
    """As after a rewind, or a cursor that could not be stored."""
    succeeds = False

    async def handle(event: Event) -> None:
        if not succeeds:
            raise ValueError("x")

    consumer, (number, succeeds_between) = make(handle, 1), between
    for each, succeeds in ((1, False), (number, succeeds_between), (1, False)):
        if succeeds:
            await consumer.consume(event(each))
        else:
            with pytest.raises(ValueError, match="x"):
                await consumer.consume(event(each))
