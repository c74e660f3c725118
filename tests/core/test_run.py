"""Running a spec: what is consumed, where the cursor stands after whatever ended the run, and what is told."""

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint

from reflex_aio import Consumer, CursorConflict, Event, Lease, Spec, StreamStopped, run
from reflex_aio.errors import FilterError
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from tests.core.cancelling import CancelledAt, each_cancellation, on_trio
from tests.core.recording import RecordingConsumer, RecordingHooks, RecordingStore, Streams
from tests.core.sources import Pages, events

pytestmark = pytest.mark.anyio


class Fatal(BaseException):
    """As KeyboardInterrupt, which a test had better not raise."""


def is_even(event: Event) -> bool:
    return int(event.id) % 2 == 0


def no_event(event: Event) -> bool:
    return False


async def ignore(event: Event) -> None: ...


def failing(error: BaseException) -> Callable[..., Any]:
    async def fail(*_: Any) -> None:
        await checkpoint()
        raise error

    return fail


def failing_at(event_id: str, error: BaseException) -> Callable[[Event], Any]:
    async def handle(event: Event) -> None:
        await checkpoint()
        if event.id == event_id:
            raise error

    return handle


async def some(count: int, **arguments: Any) -> MemoryEvents:
    source = MemoryEvents(**arguments)
    for number in range(1, count + 1):
        await source.insert(number, 1)
    return source


# With filters the cursor is moved in another way.
with_and_without_filters = pytest.mark.parametrize(
    "filters", [{}, {"types": [1]}], ids=["unfiltered", "filtered"]
)


# What is consumed, and the cursor.


@with_and_without_filters
async def test_events_are_handled_in_order_each_before_its_cursor_is_set(filters: Any) -> None:
    log: list[str] = []
    store = RecordingStore(log)
    await run(Spec(await some(3), store, RecordingConsumer(log, **filters), to_head=True))
    assert log == [
        "enter",
        "consumer entered",
        "get",
        "handle 1",
        "set 1",
        "handle 2",
        "set 2",
        "handle 3",
        "set 3",
        "consumer left",
        "flush",
        "exit",
    ]


async def test_run_begins_after_the_stored_cursor() -> None:
    consumer = RecordingConsumer([])
    await run(Spec(await some(4), MemoryCursorStore({"c": "2", "other": "3"}), consumer, to_head=True))
    assert consumer.handled == [3, 4]


async def test_run_again_handles_nothing_twice() -> None:
    source, store, consumer = await some(2), MemoryCursorStore(), RecordingConsumer([])
    spec = Spec(source, store, consumer, to_head=True)
    await run(spec)
    await source.insert(3, 1)
    await run(spec)
    assert consumer.handled == [1, 2, 3]
    assert await store.all() == {"c": "3"}


async def test_from_head_begins_after_the_head_whatever_the_cursor() -> None:
    source, store, consumer = await some(3), MemoryCursorStore({"c": "1"}), RecordingConsumer([])
    async with anyio.create_task_group() as group:
        group.start_soon(run, Spec(source, store, consumer, from_head=True))
        await anyio.wait_all_tasks_blocked()
        await source.insert(4, 1)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert consumer.handled == [4]
    assert await store.get("c") == "4"


async def test_plain_store_and_consumer_need_not_be_entered() -> None:
    store = MemoryCursorStore()
    await run(Spec(await some(2), store, Consumer("c", ignore), to_head=True))
    assert await store.get("c") == "2"


async def test_stream_that_ends_by_itself_stops_the_run() -> None:
    stream = Pages(events(1, 2), None)
    store = MemoryCursorStore()
    with pytest.raises(StreamStopped):
        await run(Spec(Streams(lambda after: stream), store, Consumer("c", ignore)))
    assert await store.get("c") == "2"
    assert stream.closed == 1


async def test_run_that_a_consumer_ends_in_silence_is_not_taken_for_one_at_the_head() -> None:
    class Silent(RecordingConsumer):
        async def __aexit__(self, *_: Any) -> bool:
            return True

    consumer = Silent([], recover=failing(OSError("lost")))
    consumer.handler = failing(OSError("lost"))
    with pytest.raises(StreamStopped):
        await run(Spec(await some(2), MemoryCursorStore(), consumer))


# Whatever ends the run leaves the cursor before the event that wasn't finished.


@with_and_without_filters
@pytest.mark.parametrize("error", [ValueError("x"), ExceptionGroup("x", [ValueError("y")]), Fatal()])
async def test_error_of_the_handler_comes_out_as_it_is(error: BaseException, filters: Any) -> None:
    store = MemoryCursorStore()
    consumer = Consumer("c", failing_at("3", error), **filters)
    with pytest.raises(type(error)) as caught:
        await run(Spec(await some(5), store, consumer, to_head=True))
    assert caught.value is error
    assert await store.get("c") == "2"


@with_and_without_filters
async def test_error_of_a_cursor_being_set_leaves_it_where_it_was(filters: Any) -> None:
    consumer = RecordingConsumer([], **filters)
    store = MemoryCursorStore({"c": "2"})

    async def overtake(event: Event) -> None:
        if event.id == "4":
            await store.set("c", "9")

    consumer.handler = overtake
    with pytest.raises(CursorConflict) as caught:
        await run(Spec(await some(5), store, consumer, to_head=True))
    assert (caught.value.stored, caught.value.given) == ("9", "4")


@with_and_without_filters
@pytest.mark.parametrize("step", ["enter", "get", "set"])
async def test_error_of_the_store_comes_out_as_it_is(step: str, filters: Any) -> None:
    error = OSError("lost")
    before: dict[str, Any] = {step: failing(error)}
    store = RecordingStore(cursors={"c": "2"}, **before)
    with pytest.raises(OSError, match="lost") as caught:
        await run(Spec(await some(5), store, Consumer("c", ignore, **filters), to_head=True))
    assert caught.value is error
    assert (await store.all())["c"] == "2"


@with_and_without_filters
async def test_error_of_the_stream_comes_out_as_it_is(filters: Any) -> None:
    error = OSError("lost")
    store, stream = MemoryCursorStore(), Pages(events(1, 2), error)
    with pytest.raises(OSError, match="lost") as caught:
        await run(Spec(Streams(lambda after: stream), store, Consumer("c", ignore, **filters)))
    assert caught.value is error
    assert await store.get("c") == "2"
    assert stream.closed == 1


async def test_stream_that_can_not_be_opened_ends_the_run() -> None:
    log: list[str] = []
    stream = Pages(on_open=failing(OSError("down")))
    spec = Spec(Streams(lambda after: stream), RecordingStore(log), RecordingConsumer(log))
    with pytest.raises(OSError, match="down"):
        await run(spec)
    assert stream.closed == 1
    assert log == ["enter", "consumer entered", "get", "consumer left", "flush", "exit"]


async def test_consumer_that_can_not_be_entered_ends_the_run() -> None:
    class Unready(RecordingConsumer):
        async def __aenter__(self) -> Any:
            raise OSError("not ready")

    log: list[str] = []
    with pytest.raises(OSError, match="not ready"):
        await run(Spec(await some(1), RecordingStore(log), Unready(log)))
    assert log == ["enter", "flush", "exit"]


async def test_error_of_the_filter_leaves_the_cursor_before_the_event() -> None:
    def fail_at_3(event: Event) -> bool:
        if event.id == "3":
            raise KeyError("x")
        return is_even(event)

    store, hooks = MemoryCursorStore(), RecordingHooks()
    spec = Spec(await some(5), store, Consumer("c", ignore, filter=fail_at_3), to_head=True, hooks=hooks)
    with pytest.raises(FilterError) as caught:
        await run(spec)
    assert await store.get("c") == "2"
    assert ("failed", "c", "3", caught.value) in hooks.log


@each_cancellation
@pytest.mark.parametrize("filters", [{}, {"filter": is_even}], ids=["unfiltered", "filtered"])
async def test_run_that_is_cancelled_anywhere_misses_nothing(cancelled_at: CancelledAt, filters: Any) -> None:
    wanted = [2, 4] if filters else [1, 2, 3, 4]
    step, in_time = 0, True
    while in_time:
        step += 1
        log: list[str] = []
        store, consumer = RecordingStore(log), RecordingConsumer(log, **filters)
        spec = Spec(await some(4), store, consumer, to_head=True)
        in_time = await cancelled_at(step, run(spec))

        assert log.count("exit") == log.count("enter"), f"cancelled at {step}"
        assert log.count("consumer left") == log.count("consumer entered")
        assert log.count("flush") == log.count("enter")
        # Only a handler that has returned may be behind the cursor.
        handled_first = list(consumer.handled)
        cursor = int((await store.all()).get("c", 0))
        assert handled_first == wanted[: len(handled_first)]
        passed = [number for number in wanted if number <= cursor]
        assert passed == handled_first[: len(passed)]

        await run(spec)
        again = consumer.handled[len(handled_first) :]
        assert again == [number for number in wanted if number > cursor], f"cancelled at {step}"
        assert len(handled_first) + len(again) <= len(wanted) + 1
        assert (await store.all())["c"] == "4"
    assert step > 12


# Events that the filters pass over.


async def test_cursor_moves_over_events_passed_over_before_the_run_ends() -> None:
    store = RecordingStore()
    await run(Spec(await some(5), store, Consumer("c", ignore, filter=no_event), to_head=True))
    assert store.sets == ["set 5"]


async def test_cursor_moves_over_events_passed_over_before_an_error_ends_the_run() -> None:
    store = RecordingStore()
    consumer = Consumer("c", failing(OSError("lost")), filter=lambda event: event.id == "4")
    with pytest.raises(OSError, match="lost"):
        await run(Spec(await some(5), store, consumer, to_head=True))
    assert await store.get("c") == "3"


async def test_event_that_is_handled_moves_the_cursor_over_those_passed_over_before() -> None:
    store = RecordingStore()
    await run(Spec(await some(4), store, Consumer("c", ignore, filter=is_even), to_head=True))
    assert store.sets == ["set 2", "set 4"]


async def trickle(source: MemoryEvents, count: int, every: float) -> None:
    for number in range(1, count + 1):
        await source.insert(number, 1)
        await anyio.sleep(every)


@on_trio
async def test_cursor_moves_over_events_passed_over_once_a_second_at_most() -> None:
    source, store = MemoryEvents(), RecordingStore()
    async with anyio.create_task_group() as group:
        group.start_soon(run, Spec(source, store, Consumer("c", ignore, filter=no_event)))
        await trickle(source, 105, 0.1)
        behind = 105 - int(await MemoryCursorStore.get(store, "c"))
        sets = store.sets
        await anyio.sleep(2)
        group.cancel_scope.cancel()
    assert len(sets) == 10
    assert 0 < behind <= 11
    # And it moves without a further event.
    assert await MemoryCursorStore.get(store, "c") == "105"


@on_trio
async def test_cursor_moves_over_events_passed_over_while_a_handler_is_busy() -> None:
    source, store = await some(3), RecordingStore()

    async def slow(event: Event) -> None:
        await anyio.sleep(10)
        assert await MemoryCursorStore.get(store, "c") == "2"

    await run(Spec(source, store, Consumer("c", slow, filter=lambda event: event.id == "3"), to_head=True))
    assert await store.get("c") == "3"


@on_trio
async def test_cursor_is_set_by_one_at_a_time() -> None:
    """The move over what was passed over takes long; the event handled meanwhile waits for it."""
    source, under_way = MemoryEvents(), 0

    class Slow(RecordingStore):
        async def set(
            self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
        ) -> None:
            nonlocal under_way
            under_way += 1
            assert under_way == 1
            await anyio.sleep(5)
            await super().set(name, cursor)
            under_way -= 1

    store = Slow()
    async with anyio.create_task_group() as group:
        group.start_soon(run, Spec(source, store, Consumer("c", ignore, filter=is_even)))
        await source.insert(1, 1)
        await anyio.sleep(2)
        await source.insert(2, 1)
        await source.insert(3, 1)
        await anyio.sleep(60)
        group.cancel_scope.cancel()
    assert store.sets == ["set 1", "set 2", "set 3"]


@on_trio
async def test_what_is_passed_over_during_a_move_is_moved_over_next() -> None:
    source = MemoryEvents()

    async def slowly() -> None:
        await anyio.sleep(0.5)

    store = RecordingStore(set=slowly)
    async with anyio.create_task_group() as group:
        group.start_soon(run, Spec(source, store, Consumer("c", ignore, filter=no_event)))
        await source.insert(1, 1)
        await anyio.sleep(1.25)
        await source.insert(2, 1)
        await anyio.sleep(60)
        group.cancel_scope.cancel()
    assert store.sets == ["set 1", "set 2"]


@on_trio
async def test_move_that_an_error_has_interrupted_is_made_good() -> None:
    source, attempts = MemoryEvents(), 0

    async def slowly_at_first() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await anyio.sleep(60)

    store = RecordingStore(set=slowly_at_first)
    consumer = Consumer("c", failing(OSError("lost")), filter=is_even)

    async def insert() -> None:
        await source.insert(1, 1)
        await anyio.sleep(2)
        assert attempts == 1
        await source.insert(2, 1)

    async with anyio.create_task_group() as group:
        group.start_soon(insert)
        with pytest.raises(OSError, match="lost"):
            await run(Spec(source, store, consumer))
    assert await MemoryCursorStore.get(store, "c") == "1"


@on_trio
async def test_error_of_a_move_ends_a_run_that_waits() -> None:
    source = await some(1)
    store = RecordingStore(set=failing(OSError("lost")))
    with pytest.raises(OSError, match="lost"):
        await run(Spec(source, store, Consumer("c", ignore, filter=no_event)))
    assert trio.current_time() > 0


@on_trio
async def test_error_after_the_first_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    store = RecordingStore(set=failing(OSError("second")))
    consumer = Consumer("c", failing(ValueError("first")), filter=is_even)
    with pytest.raises(ValueError, match="first"):
        await run(Spec(await some(2), store, consumer, to_head=True))
    [record] = caplog.records
    assert record.getMessage() == "consumer c: could not store the cursor"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "second"


# Flushing.


async def flushing(store: MemoryCursorStore, handler: Any = ignore, **options: Any) -> None:
    await run(Spec(await some(2), store, Consumer("c", handler), to_head=True, **options))


async def test_error_of_the_flush_is_raised_if_it_is_the_first() -> None:
    with pytest.raises(OSError, match="lost"):
        await flushing(RecordingStore(flush=failing(OSError("lost"))))


async def test_error_of_the_flush_is_logged_if_it_is_not_the_first(caplog: pytest.LogCaptureFixture) -> None:
    store = RecordingStore(flush=failing(OSError("second")))
    with pytest.raises(ValueError, match="first"):
        await flushing(store, failing(ValueError("first")))
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        "consumer c: could not flush the cursor store",
    )
    assert store.log[-1] == "exit"


async def test_flush_is_made_though_the_run_is_cancelled() -> None:
    flushed = False

    async def slowly() -> None:
        nonlocal flushed
        for _ in range(5):
            await checkpoint()
        flushed = True

    with anyio.CancelScope() as scope:

        async def cancel(event: Event) -> None:
            scope.cancel()
            await checkpoint()

        await flushing(RecordingStore(flush=slowly), cancel)
    assert scope.cancelled_caught
    assert flushed


@on_trio
async def test_flush_that_hangs_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    began = trio.current_time()
    with pytest.raises(TimeoutError, match="cursors were not flushed within 10 s"):
        await flushing(RecordingStore(flush=anyio.sleep_forever))
    assert trio.current_time() - began == pytest.approx(10)
    assert not caplog.records

    began = trio.current_time()
    with pytest.raises(ValueError, match="first"):
        await flushing(RecordingStore(flush=anyio.sleep_forever), failing(ValueError("first")))
    assert trio.current_time() - began == pytest.approx(10)
    assert [record.getMessage() for record in caplog.records] == [
        "consumer c: could not flush the cursor store"
    ]


# Lag.


@on_trio
async def test_event_is_handled_once_it_is_as_old_as_the_lag() -> None:
    source = MemoryEvents(clock=trio.current_time)
    began = trio.current_time()
    handled: list[tuple[str, float]] = []

    async def handle(event: Event) -> None:
        handled.append((event.id, round(trio.current_time() - began, 3)))

    spec = Spec(source, MemoryCursorStore(), Consumer("c", handle), lag=5.0, clock=trio.current_time)
    async with anyio.create_task_group() as group:
        group.start_soon(run, spec)
        await source.insert(1, 1)
        await anyio.sleep(1.5)
        await source.insert(2, 1)
        await source.insert(3, 1)
        await anyio.sleep(60)
        group.cancel_scope.cancel()
    assert handled == [("1", 5.0), ("2", 6.5), ("3", 6.5)]


@on_trio
async def test_event_is_not_handled_early_where_sleep_ends_early() -> None:
    def slow_clock() -> float:
        return trio.current_time() * 0.999

    source = MemoryEvents(clock=slow_clock)
    ages: list[float] = []

    async def handle(event: Event) -> None:
        ages.append(round(slow_clock() - event.timestamp_us / 1_000_000, 6))

    spec = Spec(source, MemoryCursorStore(), Consumer("c", handle), lag=5.0, clock=slow_clock)
    async with anyio.create_task_group() as group:
        group.start_soon(run, spec)
        await source.insert(1, 1)
        await anyio.sleep(60)
        group.cancel_scope.cancel()
    assert ages == [5.0]


@on_trio
async def test_lag_is_kept_by_the_consumer_and_the_source_told_only_where_it_tells_the_head() -> None:
    source = Streams(lambda after: Pages(None))
    asked: list[dict[str, Any]] = [{}, {"to_head": True}, {"from_head": True}]
    for options in asked:
        spec = Spec(source, MemoryCursorStore({"c": "7"}), Consumer("c", ignore), lag=5.0, **options)
        try:
            await run(spec)
        except StreamStopped:
            assert not spec.options.to_head
    assert source.asked == [
        {"after": "7", "from_head": False, "to_head": False, "lag": None},
        {"after": "7", "from_head": False, "to_head": True, "lag": 5.0},
        {"after": "7", "from_head": True, "to_head": False, "lag": 5.0},
    ]


@on_trio
async def test_head_with_a_lag_is_the_newest_event_already_that_old() -> None:
    source = MemoryEvents(clock=trio.current_time)
    await trickle(source, 3, 2.0)
    consumer = RecordingConsumer([])
    began = trio.current_time()
    await run(Spec(source, MemoryCursorStore(), consumer, to_head=True, lag=3.0, clock=trio.current_time))
    assert consumer.handled == [1, 2]
    assert trio.current_time() == began


# Hooks.


async def test_hooks_are_told_of_each_event_in_order() -> None:
    hooks = RecordingHooks()
    consumer = Consumer("c", ignore, filter=is_even, lag_alert=5.0, activity_ttl=None)
    await run(Spec(await some(3), MemoryCursorStore(), consumer, to_head=True, hooks=hooks))
    assert hooks.log == [
        ("started", "c", 5.0, None),
        ("skipped", "c", "1"),
        ("received", "c", "2"),
        ("handled", "c", "2"),
        ("skipped", "c", "3"),
        ("stopped", "c", None),
    ]


async def test_hooks_are_told_of_a_failure_and_what_stopped_the_run() -> None:
    hooks, error = RecordingHooks(), OSError("lost")
    with pytest.raises(OSError, match="lost"):
        await run(Spec(await some(3), MemoryCursorStore(), Consumer("c", failing(error)), hooks=hooks))
    assert hooks.log[1:] == [("received", "c", "1"), ("failed", "c", "1", error), ("stopped", "c", error)]


async def test_event_that_was_recovered_from_counts_as_handled() -> None:
    hooks = RecordingHooks()

    async def recover(event: Event, error: Exception) -> None: ...

    consumer = Consumer("c", failing(OSError("lost")), recover=recover)
    await run(Spec(await some(1), MemoryCursorStore(), consumer, to_head=True, hooks=hooks))
    assert hooks.log[1:] == [("received", "c", "1"), ("handled", "c", "1"), ("stopped", "c", None)]


async def test_hooks_are_told_that_a_cancellation_stopped_the_run() -> None:
    hooks = RecordingHooks()
    with anyio.move_on_after(0):
        await run(Spec(MemoryEvents(), MemoryCursorStore(), Consumer("c", ignore), hooks=hooks))
    assert [told[0] for told in hooks.log] == ["started", "stopped"]
    assert isinstance(hooks.log[1][2], anyio.get_cancelled_exc_class())


# What a spec is made of.


@pytest.mark.parametrize(
    ("what", "accepted"),
    [("source", "a Source, such as"), ("store", "a CursorStore, such as"), ("consumer", "a Consumer")],
)
async def test_spec_refuses_what_it_can_not_run(what: str, accepted: str) -> None:
    parts: dict[str, Any] = {
        "source": MemoryEvents(),
        "store": MemoryCursorStore(),
        "consumer": Consumer("c", ignore),
    }
    with pytest.raises(TypeError, match=f"{what} 'x' is a str: accepted is {accepted}"):
        Spec(**{**parts, what: "x"})


async def test_spec_checks_its_options() -> None:
    with pytest.raises(ValueError, match="lag -1 is out of range"):
        Spec(MemoryEvents(), MemoryCursorStore(), Consumer("c", ignore), lag=-1)


async def test_spec_says_what_it_is_made_of() -> None:
    spec = Spec(MemoryEvents(), MemoryCursorStore(), Consumer("c", ignore))
    assert repr(spec).startswith("Spec(<reflex_aio.memory.MemoryEvents object")
    assert repr(spec).endswith("Consumer('c'))")
