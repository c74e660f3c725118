"""Running a spec for ever: what is tried again, when, and what is said about it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio

from reflex_aio import (
    Backoff,
    ConnectionLost,
    Consumer,
    Event,
    EventStream,
    Lease,
    Spec,
    StreamStopped,
    run_forever,
)
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from tests.core.cancelling import on_trio
from tests.core.recording import RecordingHooks, Streams
from tests.core.sources import Pages, event, events

pytestmark = pytest.mark.anyio

BACKOFF = Backoff(1.0, 8.0)


async def ignore(event: Event) -> None: ...


@asynccontextmanager
async def running(spec: Spec, backoff: Backoff | None = BACKOFF) -> AsyncIterator[None]:
    async def run() -> None:
        await run_forever(spec, backoff=backoff)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        yield
        group.cancel_scope.cancel()


class Runs:
    """A source of which each stream takes its turn; the last one goes on for ever."""

    def __init__(self, *turns: EventStream) -> None:
        self._turns = list(turns)
        self.began: list[float] = []
        self.source = Streams(self._next)

    def _next(self, after: str) -> EventStream:
        self.began.append(anyio.current_time())
        return self._turns.pop(0) if self._turns else Pages()

    @property
    def waits(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.began, self.began[1:], strict=False)]


def spec_of(runs: Runs, handler: Any = ignore, **options: Any) -> Spec:
    return Spec(runs.source, MemoryCursorStore(), Consumer("c", handler), **options)


def down() -> Pages:
    return Pages(ConnectionLost("down"))


@on_trio
async def test_run_that_failed_is_begun_again_after_growing_delays_with_jitter() -> None:
    hooks = RecordingHooks()
    runs = Runs(*(down() for _ in range(6)))
    async with running(spec_of(runs, hooks=hooks)):
        await anyio.sleep(100)
    for wait, bound in zip(runs.waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert bound / 2 <= wait <= bound
    delays = [told[4] for told in hooks.log if told[0] == "restarting"]
    assert delays == pytest.approx(runs.waits)


@on_trio
async def test_delays_are_those_of_the_default_backoff_if_none_is_given() -> None:
    runs = Runs(*(down() for _ in range(12)))
    async with running(spec_of(runs), backoff=None):
        await anyio.sleep(1000)
    assert 0.05 <= runs.waits[0] <= 0.1
    assert 15 <= runs.waits[-1] <= 30


@on_trio
async def test_run_goes_on_where_the_last_one_got() -> None:
    handled: list[int] = []

    async def fail_at_first(event: Event) -> None:
        handled.append(int(event.id))
        if handled == [1, 2]:
            raise ValueError("x")

    source, store = MemoryEvents(), MemoryCursorStore()
    for number in (1, 2, 3):
        await source.insert(number, 1)
    async with running(Spec(source, store, Consumer("c", fail_at_first))):
        await anyio.sleep(10)
        assert await store.get("c") == "3"
    assert handled == [1, 2, 2, 3]


@on_trio
async def test_progress_begins_the_backoff_anew() -> None:
    runs = Runs(down(), down(), down(), Pages(events(1, 1), ConnectionLost("down")), down())
    async with running(spec_of(runs)):
        await anyio.sleep(100)
    for wait, bound in zip(runs.waits, [1, 2, 4, 1, 2], strict=True):
        assert bound / 2 <= wait <= bound


@on_trio
async def test_consumers_that_wait_for_a_service_go_on_when_a_neighbour_opens_its_stream() -> None:
    waiting = [Runs(*(down() for _ in range(20))) for _ in range(10)]
    broken = Runs(*(Pages(ValueError("broken")) for _ in range(20)))
    backoff = Backoff(1000.0, 1000.0)
    async with anyio.create_task_group() as group:
        for runs in [*waiting, broken]:
            group.start_soon(_run_forever, spec_of(runs), backoff)
        await anyio.sleep(400)
        tries = [len(runs.began) for runs in waiting]
        opened = anyio.current_time()
        async with running(spec_of(Runs())):
            await anyio.sleep(1)
            assert [len(runs.began) for runs in waiting] == [number + 1 for number in tries]
            # Not all in the same moment.
            assert len({runs.began[-1] for runs in waiting}) == len(waiting)
            assert all(runs.began[-1] - opened <= 0.5 for runs in waiting)
        # What failed by itself keeps its delay.
        assert len(broken.began) == 1
        group.cancel_scope.cancel()


@on_trio
async def test_consumers_that_fail_after_opening_do_not_wake_each_other_all_the_time() -> None:
    several = [Runs(*(down() for _ in range(1000))) for _ in range(3)]
    async with anyio.create_task_group() as group:
        for runs in several:
            group.start_soon(_run_forever, spec_of(runs), Backoff(1000.0, 1000.0))
        await anyio.sleep(1)
        tries = [len(runs.began) for runs in several]
        await anyio.sleep(100)
        for runs, before in zip(several, tries, strict=True):
            assert len(runs.began) - before <= 100 / 5 + 1
        group.cancel_scope.cancel()


async def _run_forever(spec: Spec, backoff: Backoff) -> None:
    await run_forever(spec, backoff=backoff)


@on_trio
async def test_run_that_held_out_longer_than_the_longest_delay_begins_the_backoff_anew() -> None:
    async def hold_out() -> None:
        await anyio.sleep(8.5)

    runs = Runs(down(), down(), down(), Pages(hold_out, ConnectionLost("down")), down())
    async with running(spec_of(runs)):
        await anyio.sleep(100)
    held_out = [0, 0, 0, 8.5, 0]
    for wait, held, bound in zip(runs.waits, held_out, [1, 2, 4, 1, 2], strict=True):
        assert bound / 2 <= wait - held <= bound


@on_trio
@pytest.mark.parametrize("step", ["set", "flush"])
async def test_event_whose_cursor_can_not_be_stored_is_no_progress(step: str) -> None:
    """Or its handler would be called ten times a second."""

    class Refusing(MemoryCursorStore):
        async def set(
            self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
        ) -> None:
            if step == "set":
                raise ConnectionLost("no writes")

        async def flush(self) -> None:
            raise ConnectionLost("no writes")

    runs = Runs(*(Pages(events(1, 1), ConnectionLost("down")) for _ in range(6)))
    async with running(Spec(runs.source, Refusing(), Consumer("c", ignore))):
        await anyio.sleep(100)
    for wait, bound in zip(runs.waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert bound / 2 <= wait <= bound


@on_trio
async def test_expected_errors_are_information_and_others_errors_with_their_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "reflex_aio")
    hooks = RecordingHooks()
    turns = [StreamStopped(), ConnectionLost("down"), ValueError("bug"), ExceptionGroup("two", [OSError()])]
    runs = Runs(*(Pages(turn) for turn in turns))
    async with running(spec_of(runs, hooks=hooks)):
        await anyio.sleep(100)

    told = [(record.levelno, record.getMessage().partition("restarting in")[0]) for record in caplog.records]
    assert told == [
        (logging.INFO, "consumer c: the event stream has been stopped; "),
        (logging.INFO, "consumer c: down; "),
        (logging.ERROR, "consumer c failed; "),
        (logging.ERROR, "consumer c failed; "),
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [False, False, True, True]
    restarts = [told[2:4] for told in hooks.log if told[0] == "restarting"]
    assert restarts == [(turns[0], True), (turns[1], True), (turns[2], False), (turns[3], False)]


@on_trio
async def test_expected_errors_are_warnings_if_a_limit_was_exceeded_or_the_same_event_fails_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "reflex_aio")
    late = ConnectionLost("late")
    late.__cause__ = TimeoutError()
    raised = [ConnectionLost("first"), ConnectionLost("second"), ConnectionLost("third")]

    async def fail(event: Event) -> None:
        if raised:
            raise raised.pop(0)

    runs = Runs(Pages(late), Pages(ConnectionLost("idle")), *(Pages(events(1, 1)) for _ in range(4)))
    async with running(spec_of(runs, handler=fail)):
        await anyio.sleep(100)

    assert [(record.levelname, record.getMessage().partition(";")[0]) for record in caplog.records] == [
        ("WARNING", "consumer c: late"),
        ("INFO", "consumer c: idle"),
        ("INFO", "consumer c: first"),
        ("WARNING", "consumer c: second"),
        ("WARNING", "consumer c: third"),
    ]


@on_trio
async def test_conflict_with_another_process_is_information_and_one_that_comes_again_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "reflex_aio")
    hooks, store = RecordingHooks(), MemoryCursorStore()

    async def overtaken(event: Event) -> None:
        if event.id in ("1", "5"):
            await store.set("c", str(int(event.id) + 2))

    # The last two hand out an event that is behind the cursor, as a source must not.
    runs = Runs(*(Pages(events(number, number)) for number in (1, 5, 2, 2)))
    async with running(Spec(runs.source, store, Consumer("c", overtaken), hooks=hooks)):
        await anyio.sleep(100)

    others = (
        "(another process runs the consumer too, which leases would prevent, or its cursor was set by hand); "
    )
    place = "c: cursor '{}' is not after the stored '{}': rewind() moves it backwards "
    told = [
        (record.levelno, record.getMessage().partition("restarting in")[0], bool(record.exc_info))
        for record in caplog.records
    ]
    assert told == [
        (logging.INFO, f"consumer c: {place.format(1, 3)}{others}", False),
        (logging.INFO, f"consumer c: {place.format(5, 7)}{others}", False),
        (logging.ERROR, "consumer c failed; ", True),
        (logging.ERROR, "consumer c failed; ", True),
    ]
    assert [told[3] for told in hooks.log if told[0] == "restarting"] == [True, True, False, False]


@on_trio
async def test_cancellation_ends_it_at_once_also_between_two_runs() -> None:
    for turns in ([], [down()]):
        runs = Runs(*turns)
        began = trio.current_time()
        with trio.move_on_after(0.25) as scope:
            await run_forever(spec_of(runs), backoff=BACKOFF)
        assert scope.cancelled_caught
        assert trio.current_time() - began == pytest.approx(0.25)
        assert len(runs.began) == 1


async def test_what_is_no_exception_ends_it() -> None:
    class Fatal(BaseException):
        """As KeyboardInterrupt, which a test had better not raise."""

    async def fail(event: Event) -> None:
        raise Fatal

    with pytest.raises(Fatal):
        await run_forever(spec_of(Runs(Pages(events(1, 1))), fail))


async def test_spec_that_ends_at_the_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"c: a spec with to_head=True ends: await run\(spec\)"):
        await run_forever(spec_of(Runs(), to_head=True))


# A cancellation by asyncio comes once.


class FailingToLeave(Consumer):
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: Any) -> None:
        raise ConnectionLost("lost while leaving")


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_cancellation_is_not_swallowed_by_a_clean_up_that_fails() -> None:
    begun = asyncio.Event()

    async def wait(event: Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    consumer = FailingToLeave("c", wait)
    spec = Spec(Runs(Pages(events(1, 1))).source, MemoryCursorStore(), consumer)
    task = asyncio.create_task(run_forever(spec))
    await begun.wait()
    task.cancel()
    with pytest.raises(ConnectionLost, match="lost while leaving"):
        await task


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_cancellation_from_before_does_not_end_it() -> None:
    runs, restarted = Runs(down()), asyncio.Event()

    class Noticing(RecordingHooks):
        def consumer_restarting(self, *_: Any, **__: Any) -> None:
            restarted.set()

    async def survive_one_cancellation() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        await run_forever(spec_of(runs, hooks=Noticing()))

    task = asyncio.create_task(survive_one_cancellation())
    await restarted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_cancelling_the_task_ends_it_with_the_cursor_before_the_event() -> None:
    begun, store = asyncio.Event(), MemoryCursorStore()

    async def wait_at_2(each: Event) -> None:
        if each == event(2):
            begun.set()
            await asyncio.Event().wait()

    spec = Spec(Runs(Pages(events(1, 3))).source, store, Consumer("c", wait_at_2, types=[1]))
    task = asyncio.create_task(run_forever(spec))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.get("c") == "1"


async def out_of_time_by_anyio(event: Event) -> None:
    with anyio.fail_after(0):
        await anyio.sleep_forever()


async def out_of_time_by_asyncio(event: Event) -> None:
    async with asyncio.timeout(0):
        await anyio.sleep_forever()


async def out_of_time_stubbornly(event: Event) -> None:
    with anyio.fail_after(0):
        for _ in range(5):
            try:
                await anyio.sleep(0.001)
            except asyncio.CancelledError:
                continue
        await anyio.sleep_forever()


async def fail_in_a_group(event: Event) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        raise ValueError("x")


async def fail(event: Event) -> None:
    raise ValueError("x")


@pytest.mark.parametrize("filters", [{}, {"types": [1]}], ids=["unfiltered", "filtered"])
@pytest.mark.parametrize(
    "handler",
    [out_of_time_by_anyio, out_of_time_by_asyncio, out_of_time_stubbornly, fail_in_a_group, fail],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_cancellation_within_the_run_is_not_taken_for_one_of_the_run(
    handler: Any, filters: Any
) -> None:
    restarts = 0

    class Counting(RecordingHooks):
        def consumer_restarting(self, *_: Any, **__: Any) -> None:
            nonlocal restarts
            restarts += 1
            if restarts == 3:
                task.cancel()

    runs = Runs(*(Pages(events(1, 1)) for _ in range(4)))
    consumer = Consumer("c", handler, **filters)
    spec = Spec(runs.source, MemoryCursorStore(), consumer, hooks=Counting())
    task = asyncio.create_task(run_forever(spec, backoff=Backoff(0.001, 0.001)))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert restarts == 3
