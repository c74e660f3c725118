"""Ending a stream, a run and runs one after another, with what is in hand finished."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from reflex_aio import Backoff, Consumer, Event, ReflexError, Spec, StreamClosed, run_forever
from reflex_aio.consumer import BaseConsumer
from reflex_aio.health import ConsumerState
from reflex_aio.hooks import Hooks
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import BatchConsumer, ConcurrentConsumer
from reflex_aio.running.run import Run
from reflex_aio.running.supervisor import Supervisor
from tests.core.cancelling import on_trio
from tests.core.recording import RecordingStore, Streams
from tests.core.sources import Pages, events, ids

pytestmark = pytest.mark.anyio


# A stream.


async def test_stream_that_is_ended_hands_out_nothing_more_and_raises_nothing() -> None:
    async with Pages(events(1, 3)) as stream:
        assert (await anext(stream)).id == "1"
        stream.end()
        stream.end()
        assert [event async for event in stream] == []
        assert await stream.read_page() == []
        assert stream.cursor == "1"
    with pytest.raises(StreamClosed):
        await anext(stream)


@pytest.mark.parametrize("read", [lambda stream: anext(stream, None), lambda stream: stream.read_page()])
async def test_read_that_waits_ends_when_its_stream_is_ended(read: Callable[[Any], Awaitable[Any]]) -> None:
    found: list[object] = []

    async def read_on() -> None:
        found.append(await read(stream))

    async with Pages() as stream:
        async with anyio.create_task_group() as group:
            group.start_soon(read_on)
            await stream.waiting.wait()
            stream.end()
        assert found in ([None], [[]])
        assert [event async for event in stream] == []


async def test_page_of_a_read_that_was_past_cancelling_is_not_handed_out_by_an_ended_stream() -> None:
    reading = anyio.Event()

    async def not_to_be_cancelled() -> None:
        with anyio.CancelScope(shield=True):
            reading.set()
            await anyio.wait_all_tasks_blocked()

    class Stubborn(Pages):
        async def _read(self) -> Any:
            with anyio.CancelScope(shield=True):
                return await super()._read()

    async def read_on() -> None:
        assert [event async for event in stream] == []

    async with Stubborn(not_to_be_cancelled, events(1, 1)) as stream, anyio.create_task_group() as group:
        group.start_soon(read_on)
        await reading.wait()
        stream.end()


# A run.


class Handler:
    """Waits in each call until it is let go on."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.finished: list[Any] = []
        self.go_on = anyio.Event()

    async def __call__(self, item: Any) -> None:
        numbers = ids(item) if isinstance(item, list) else int(item.id)
        self.begun.append(numbers)
        await self.go_on.wait()
        self.finished.append(numbers)


CONSUMERS: dict[str, tuple[Callable[[Any], BaseConsumer[Any]], list[Any], list[Any]]] = {
    # What of events 1 to 9 is in hand, and what is finished in the end: the last one waits for its turn.
    "plain": (lambda handler: Consumer("c", handler), [1], [1]),
    "filtered": (lambda handler: Consumer("c", handler, filter=lambda event: event.id != "1"), [2], [2]),
    "batch": (lambda handler: BatchConsumer("c", handler, size=2), [[1, 2]], [[1, 2]]),
    "concurrent": (lambda handler: ConcurrentConsumer("c", handler, limit=3), [1, 2, 3], [1, 2, 3, 4]),
}


@pytest.mark.parametrize("kind", CONSUMERS)
async def test_run_that_is_ended_finishes_what_is_in_hand_and_stores_the_cursor(kind: str) -> None:
    handler, log = Handler(), list[str]()
    make, in_hand, finished = CONSUMERS[kind]
    stream, store = Pages(events(1, 9)), RecordingStore(log)
    one_run = Run(Spec(Streams(lambda after: stream), store, make(handler)))
    async with anyio.create_task_group() as group:
        group.start_soon(one_run.run)
        while len(handler.begun) < len(in_hand):
            await checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert one_run.end()
        await anyio.wait_all_tasks_blocked()
        assert (sorted(handler.begun), handler.finished) == (in_hand, [])
        handler.go_on.set()
    assert sorted(handler.finished) == finished
    assert log[-2:] == ["flush", "exit"]
    last = finished[-1]
    assert await store.get("c") == str(last[-1] if isinstance(last, list) else last)
    assert stream.closed == 1


async def test_batch_that_is_not_full_is_handed_over_when_its_run_is_ended() -> None:
    batches: list[list[int]] = []

    async def handle(batch: list[Event]) -> None:
        batches.append(ids(batch))

    stream, store = Pages(events(1, 3)), MemoryCursorStore()
    one_run = Run(Spec(Streams(lambda after: stream), store, BatchConsumer("c", handle, size=10)))
    async with anyio.create_task_group() as group:
        group.start_soon(one_run.run)
        await stream.waiting.wait()
        one_run.end()
    assert batches == [[1, 2, 3]]
    assert await store.get("c") == "3"


@on_trio
@pytest.mark.parametrize("kind", CONSUMERS)
async def test_event_that_is_not_old_enough_is_not_waited_for(kind: str) -> None:
    handler = Handler()
    handler.go_on.set()
    store = MemoryCursorStore()
    spec = Spec(
        Streams(lambda after: Pages(events(1, 9))),
        store,
        CONSUMERS[kind][0](handler),
        lag=100.0,
        # The event n is from second n.
        clock=lambda: trio.current_time() - began + 102.5,
    )
    began = trio.current_time()
    one_run = Run(spec)
    async with anyio.create_task_group() as group:
        group.start_soon(one_run.run)
        await anyio.sleep(0.25)
        one_run.end()
    assert trio.current_time() - began == pytest.approx(0.25)
    assert await store.get("c") == "2"
    finished = [
        number for item in handler.finished for number in (item if isinstance(item, list) else [item])
    ]
    assert sorted(finished) == ([2] if kind == "filtered" else [1, 2])


# Runs, one after another.


def supervisor(spec: Spec, told: list[ConsumerState], **options: Any) -> Supervisor:
    return Supervisor(
        "c",
        lambda: Run(spec, opened=lambda: told.append(ConsumerState.RUNNING)),
        backoff=Backoff(1.0, 8.0),
        hooks=Hooks(),
        report=lambda state, error: told.append(state),
        **options,
    )


async def nothing(event: Event) -> None: ...


STARTING, RUNNING, BACKING_OFF = ConsumerState.STARTING, ConsumerState.RUNNING, ConsumerState.BACKING_OFF


@on_trio
@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([], [STARTING, RUNNING]),
        ([ValueError("x")], [STARTING, RUNNING, BACKING_OFF]),
        ([ValueError("x"), ValueError("y")], [STARTING, RUNNING, BACKING_OFF]),
    ],
    ids=["running", "backing off", "again"],
)
async def test_runs_are_ended_whatever_they_are_at(steps: list[Any], told: list[ConsumerState]) -> None:
    states: list[ConsumerState] = []
    left = list(steps)
    spec = Spec(
        Streams(lambda after: Pages(*([left.pop(0)] if left else []))),
        MemoryCursorStore(),
        Consumer("c", nothing),
    )
    supervised = supervisor(spec, states)
    with anyio.fail_after(100):
        async with anyio.create_task_group() as group:
            group.start_soon(supervised.run)
            await anyio.sleep(0.25)
            supervised.end()
    assert states == told
    assert trio.current_time() % 1 == pytest.approx(0.25, abs=0.3)


@on_trio
async def test_opening_of_a_stream_is_cancelled_when_the_runs_are_ended() -> None:
    states: list[ConsumerState] = []
    store = MemoryCursorStore()
    spec = Spec(Streams(lambda after: Pages(on_open=anyio.sleep_forever)), store, Consumer("c", nothing))
    supervised = supervisor(spec, states)
    async with anyio.create_task_group() as group:
        group.start_soon(supervised.run)
        await anyio.sleep(1)
        supervised.end()
    assert states == [STARTING]


async def test_runs_that_are_ended_before_they_begin_never_begin() -> None:
    states: list[ConsumerState] = []
    supervised = supervisor(Spec(MemoryEvents(), MemoryCursorStore(), Consumer("c", nothing)), states)
    supervised.end()
    await supervised.run()
    assert states == []


async def test_handler_that_fails_while_it_is_ended_is_logged_and_not_run_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    states: list[ConsumerState] = []

    async def fail(event: Event) -> None:
        supervised.end()
        raise ValueError("too late")

    store = MemoryCursorStore()
    supervised = supervisor(
        Spec(Streams(lambda after: Pages(events(1, 2))), store, Consumer("c", fail)), states
    )
    await supervised.run()
    assert states == [STARTING, RUNNING, ConsumerState.DRAINING]
    assert "consumer c failed while it drained" in caplog.text
    assert await store.get("c") == ""


async def test_errors_that_are_final_are_raised() -> None:
    spec = Spec(Streams(lambda after: Pages(KeyError("x"))), MemoryCursorStore(), Consumer("c", nothing))
    with pytest.raises(KeyError):
        await supervisor(spec, [], final=LookupError).run()


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_cancellation_that_nobody_asked_for_is_an_error_like_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As grpc.aio raises one in a handler whose channel was closed."""
    handled: list[str] = []

    async def fail_at_first(event: Event) -> None:
        handled.append(event.id)
        if len(handled) == 1:
            raise anyio.get_cancelled_exc_class()
        done.set()

    done = anyio.Event()
    spec = Spec(Streams(lambda after: Pages(events(1, 1))), MemoryCursorStore(), Consumer("c", fail_at_first))

    async def run() -> None:
        await run_forever(spec, backoff=Backoff(0.001, 0.001))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await done.wait()
        group.cancel_scope.cancel()
    assert handled == ["1", "1"]
    [record] = caplog.records
    assert record.exc_info
    assert isinstance(record.exc_info[1], ReflexError)
    assert "c: cancelled by something below" in str(record.exc_info[1])
