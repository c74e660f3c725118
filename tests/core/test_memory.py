"""Events and cursors in memory keep the whole contract of a table's."""

from typing import Any

import anyio
import pytest
import trio

from reflex_aio import CursorAhead, CursorConflict, CursorStore, Event, EventStream, InvalidCursor, Source
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from tests.core.cancelling import CancelledAt, each_cancellation, on_trio
from tests.core.sources import ids

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def some(count: int, **arguments: Any) -> MemoryEvents:
    source = MemoryEvents(**arguments)
    for number in range(1, count + 1):
        await source.insert(number, 1)
    return source


async def all_of(stream: EventStream) -> list[int]:
    async with stream:
        return ids([event async for event in stream])


# Inserting.


async def test_insert_returns_the_id_of_the_event_that_it_makes() -> None:
    source = MemoryEvents(clock=Clock(1.5))
    assert await source.insert(42, 1, metadata=b"m", trace=b"t") == "1"
    assert await source.insert("row", 2) == "2"
    async with source.stream(to_head=True) as stream:
        assert await stream.read_page() == [
            Event("1", 1, "42", 1_500_000, b"m", b"t"),
            Event("2", 2, "row", 1_500_000),
        ]


async def test_insert_refuses_what_a_table_refuses() -> None:
    source = MemoryEvents()
    arguments: Any
    for arguments in ((None, 1), (True, 1), ("", 1), (1, 2**31), (1, "1"), (0, 0)):
        with pytest.raises((TypeError, ValueError), match=r"foreign id|event type"):
            await source.insert(*arguments)
    with pytest.raises(TypeError, match="metadata is a str"):
        await source.insert(1, 1, metadata="m")  # type: ignore[arg-type]
    assert await source.head() == ""


async def test_timestamps_never_go_back_though_the_clock_may() -> None:
    clock = Clock(10.0)
    source = await some(1, clock=clock)
    clock.now = 9.0
    await source.insert(2, 1)
    clock.now = 11.0
    await source.insert(3, 1)
    async with source.stream(to_head=True) as stream:
        assert [event.timestamp_us async for event in stream] == [10_000_000, 10_000_000, 11_000_000]


# Streaming.


async def test_every_cursor_starts_after_its_event() -> None:
    source = await some(3)
    assert isinstance(source, Source)
    told = {after: await all_of(source.stream(after, to_head=True)) for after in ("", "0", "1", "2", "3")}
    assert told == {"": [1, 2, 3], "0": [1, 2, 3], "1": [2, 3], "2": [3], "3": []}


async def test_head_is_the_newest_event() -> None:
    source = MemoryEvents()
    assert await source.head() == ""
    await source.insert(1, 1)
    assert await source.head() == "1"


async def test_empty_source_ends_at_its_head_at_once() -> None:
    assert await all_of(MemoryEvents().stream(to_head=True)) == []


async def test_to_head_ends_at_the_head_of_when_it_was_opened() -> None:
    source = await some(2)
    async with source.stream(to_head=True) as stream:
        await source.insert(3, 1)
        assert ids([event async for event in stream]) == [1, 2]
        await source.insert(4, 1)
        assert await anext(stream, None) is None


async def test_from_head_is_resolved_when_opened_not_at_the_first_read() -> None:
    source = await some(2)
    async with source.stream("1", from_head=True) as stream:
        assert stream.cursor == "2"
        await source.insert(3, 1)
        assert ids([await anext(stream)]) == [3]


async def test_from_head_of_a_stream_that_is_not_entered_is_resolved_by_its_first_read() -> None:
    source = await some(2)
    stream = source.stream(from_head=True, to_head=True)
    await source.insert(3, 1)
    assert await anext(stream, None) is None
    assert stream.cursor == "3"
    await stream.aclose()


async def test_from_head_to_head_is_empty() -> None:
    assert await all_of((await some(2)).stream(from_head=True, to_head=True)) == []


async def test_from_head_of_an_empty_source_is_the_beginning() -> None:
    source = MemoryEvents()
    async with source.stream(from_head=True) as stream:
        assert stream.cursor == ""
        await source.insert(1, 1)
        assert ids([await anext(stream)]) == [1]


async def test_stream_waits_for_further_events() -> None:
    source = await some(1)
    seen: list[int] = []

    async def read(stream: EventStream) -> None:
        async for event in stream:
            seen.append(int(event.id))  # noqa: PERF401

    async with source.stream() as stream, anyio.create_task_group() as group:
        group.start_soon(read, stream)
        for number in (2, 3):
            await anyio.wait_all_tasks_blocked()
            assert seen == list(range(1, number))
            await source.insert(number, 1)
        await anyio.wait_all_tasks_blocked()
        assert seen == [1, 2, 3]
        group.cancel_scope.cancel()


async def test_long_history_comes_in_pages() -> None:
    source = await some(2500)
    async with source.stream(to_head=True) as stream:
        assert [len(await stream.read_page()) for _ in range(4)] == [1000, 1000, 500, 0]
    assert await all_of(source.stream(to_head=True)) == list(range(1, 2501))


async def test_reader_of_a_long_history_lets_others_run() -> None:
    source = await some(2500)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        await all_of(source.stream(to_head=True))
        group.cancel_scope.cancel()
    assert turns >= 3


@each_cancellation
async def test_read_that_is_cancelled_anywhere_loses_nothing(cancelled_at: CancelledAt) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        source = await some(2500)
        stream = source.stream(to_head=True)
        seen: list[Event] = []

        async def read(stream: EventStream = stream, seen: list[Event] = seen) -> None:
            async for event in stream:
                seen.append(event)  # noqa: PERF401

        in_time = await cancelled_at(step, read())
        await read()
        assert ids(seen) == list(range(1, 2501)), f"cancelled at {step}"
        await stream.aclose()
    assert step > 3


@pytest.mark.parametrize("cursor", ["x", "1.0", "-1", " 1", "1_000", "٣", None, 1, b"1"])
async def test_cursor_that_is_no_event_id_is_refused(cursor: Any) -> None:
    with pytest.raises(InvalidCursor, match="is not a cursor: accepted is an event id"):
        MemoryEvents().stream(cursor)


async def test_cursor_beyond_the_newest_event_is_refused_when_opened() -> None:
    source = await some(2)
    stream = source.stream("3")
    with pytest.raises(CursorAhead, match="cursor 3 is ahead of the table, whose last id is 2"):
        await stream.__aenter__()
    async with source.stream("3", from_head=True) as ignored:
        assert ignored.cursor == "2"


async def test_options_are_checked_when_the_stream_is_made() -> None:
    with pytest.raises(ValueError, match="lag -1 is out of range"):
        MemoryEvents().stream(lag=-1)


# Lag.


@on_trio
async def test_event_is_delivered_once_it_is_as_old_as_the_lag() -> None:
    source = MemoryEvents(clock=trio.current_time)
    began = trio.current_time()
    seen: list[tuple[str, float]] = []

    async def read() -> None:
        async with source.stream(lag=5.0) as stream:
            async for event in stream:
                seen.append((event.id, round(trio.current_time() - began, 3)))  # noqa: PERF401

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await source.insert(1, 1)
        await anyio.sleep(1.5)
        await source.insert(2, 1)
        await source.insert(3, 1)
        await anyio.sleep(60)
        group.cancel_scope.cancel()
    assert seen == [("1", 5.0), ("2", 6.5), ("3", 6.5)]


async def test_head_with_a_lag_is_the_newest_event_already_that_old() -> None:
    clock = Clock()
    source = await some(2, clock=clock)
    clock.now += 10.0
    await source.insert(3, 1)
    assert await all_of(source.stream(to_head=True, lag=10.0)) == [1, 2]
    assert await all_of(source.stream(to_head=True, lag=10.5)) == []
    assert await all_of(source.stream(to_head=True, lag=0)) == [1, 2, 3]
    assert await all_of(source.stream("3", to_head=True, lag=10.0)) == []
    async with source.stream(from_head=True, lag=10.0) as stream:
        assert stream.cursor == "2"
        clock.now += 10.0
        assert ids(await stream.read_page()) == [3]


async def test_lag_goes_by_the_clock_that_was_given() -> None:
    clock = Clock()
    source = await some(1, clock=clock)
    async with source.stream(lag=3600.0) as stream:
        with anyio.move_on_after(0):
            await anext(stream)
            pytest.fail("delivered too early")
        clock.now += 3600.0
        assert ids([await anext(stream)]) == [1]


# Cursors.


async def test_cursor_is_empty_until_set() -> None:
    store = MemoryCursorStore()
    assert isinstance(store, CursorStore)
    assert await store.get("a") == ""
    await store.set("a", "7")
    await store.flush()
    assert (await store.get("a"), await store.get("b")) == ("7", "")
    assert await store.all() == {"a": "7"}


async def test_store_begins_with_the_cursors_given_and_leaves_them_alone() -> None:
    given: dict[str, str | int] = {"a": "7", "b": 9}
    store = MemoryCursorStore(given)
    await store.set("a", "8")
    assert await store.all() == {"a": "8", "b": "9"}
    assert given == {"a": "7", "b": 9}


async def test_what_all_returns_is_the_callers_own() -> None:
    store = MemoryCursorStore({"a": "7"})
    told = await store.all()
    await store.set("a", "8")
    assert told == {"a": "7"}


@pytest.mark.parametrize(
    ("stored", "given"), [("10", "9"), ("7", ""), ("x", ""), ("100", "20"), ("8", "07"), ("1" * 5000, "2")]
)
async def test_cursor_does_not_move_backwards(stored: str, given: str) -> None:
    store = MemoryCursorStore({"a": stored})
    with pytest.raises(CursorConflict) as caught:
        await store.set("a", given)
    assert (caught.value.consumer, caught.value.stored, caught.value.given) == ("a", stored, given)
    assert caught.value.expected is None
    assert await store.get("a") == stored


@pytest.mark.parametrize(
    ("stored", "given"), [("", "1"), ("9", "10"), ("7", "7"), ("", "x"), ("2", "1" * 5000)]
)
async def test_cursor_moves_forward_and_may_stay(stored: str, given: str) -> None:
    store = MemoryCursorStore({"a": stored})
    await store.set("a", given)
    assert await store.get("a") == given


@pytest.mark.parametrize(("stored", "given"), [("a", "b"), ("b-10", "b-9"), ("7", "x"), ("x", "7")])
async def test_cursor_that_is_no_number_moves_anywhere(stored: str, given: str) -> None:
    store = MemoryCursorStore({"a": stored})
    await store.set("a", given)
    assert await store.get("a") == given


async def test_cursor_that_is_not_where_it_is_expected_does_not_move() -> None:
    store = MemoryCursorStore({"a": "7"})
    for expected in ("6", "8", ""):
        with pytest.raises(CursorConflict) as caught:
            await store.set("a", "9", expected=expected)
        told = caught.value
        assert (told.stored, told.given, told.expected) == ("7", "9", expected)
    await store.set("a", "9", expected="7")
    assert await store.get("a") == "9"


async def test_expected_of_a_new_consumer_is_empty() -> None:
    store = MemoryCursorStore()
    await store.set("a", "9", expected="")
    assert await store.get("a") == "9"


async def test_expected_is_no_way_backwards() -> None:
    store = MemoryCursorStore({"a": "7"})
    with pytest.raises(CursorConflict, match="cursor '6' is not after the stored '7'"):
        await store.set("a", "6", expected="7")


async def test_rewind_moves_the_cursor_backwards() -> None:
    store = MemoryCursorStore({"a": "7"})
    await store.rewind("a", "3")
    assert await store.get("a") == "3"
    await store.rewind("a", "")
    assert await store.get("a") == ""


@pytest.mark.parametrize("cursor", [7, None, b"7"])
async def test_cursor_that_is_no_string_is_refused(cursor: Any) -> None:
    store = MemoryCursorStore({"a": "3"})
    with pytest.raises(TypeError, match=r"cursor .* is a .*: accepted is a str"):
        await store.set("a", cursor)
    with pytest.raises(TypeError, match=r"cursor .* is a .*: accepted is a str"):
        await store.rewind("a", cursor)
    assert await store.get("a") == "3"
