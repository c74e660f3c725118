"""What every stream promises, whatever its source: order, cancellation, closing, one reader."""

import gc
from types import AsyncGeneratorType
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from reflex_aio import Event, EventStream, Source, StreamClosed
from tests.core.cancelling import CancelledAt, each_cancellation
from tests.core.sources import Pages, events, ids

pytestmark = pytest.mark.anyio


async def take(stream: EventStream, count: int) -> list[Event]:
    return [await anext(stream) for _ in range(count)]


# Reading.


async def test_events_come_in_order_page_after_page() -> None:
    async with Pages(events(1, 3), events(4, 4), events(5, 6), None) as stream:
        assert ids([event async for event in stream]) == [1, 2, 3, 4, 5, 6]


async def test_stream_is_opened_when_entered() -> None:
    stream = Pages(events(1, 1))
    assert (stream.opened, stream.cursor) == (0, "")
    async with stream:
        assert (stream.opened, stream.cursor) == (1, "resolved")


async def test_stream_that_is_not_entered_is_opened_by_its_first_read_and_once() -> None:
    stream = Pages(events(1, 2), events(3, 3))
    assert ids(await take(stream, 3)) == [1, 2, 3]
    assert stream.opened == 1
    await stream.aclose()


async def test_stream_can_be_left_in_the_middle_and_read_on() -> None:
    async with Pages(events(1, 3), events(4, 6), None) as stream:
        async for seen in stream:
            if seen.id == "2":
                break
        assert ids(await take(stream, 2)) == [3, 4]
        assert ids([event async for event in stream]) == [5, 6]


async def test_stream_that_ended_stays_ended() -> None:
    async with Pages(events(1, 1), None) as stream:
        assert ids([event async for event in stream]) == [1]
        assert ids([event async for event in stream]) == []
        assert await anext(stream, None) is None
        assert await stream.read_page() == []


async def test_cursor_is_that_of_the_last_event_handed_out() -> None:
    async with Pages(events(1, 3), events(4, 5), None, after="0") as stream:
        assert stream.cursor == "0"
        assert [stream.cursor async for _ in stream] == ["1", "2", "3", "4", "5"]


async def test_page_is_what_is_left_of_the_last_one_or_else_the_next() -> None:
    async with Pages(events(1, 3), events(4, 5), events(6, 8), None) as stream:
        assert ids(await take(stream, 1)) == [1]
        assert ids(await stream.read_page()) == [2, 3]
        assert stream.cursor == "3"
        assert ids(await stream.read_page()) == [4, 5]
        assert ids(await take(stream, 1)) == [6]
        assert ids(await stream.read_page()) == [7, 8]
        assert await stream.read_page() == []
        assert stream.cursor == "8"


async def test_page_is_the_readers_own() -> None:
    page = events(1, 3)
    async with Pages(page) as stream:
        (await stream.read_page()).clear()
    assert ids(page) == [1, 2, 3]


async def test_error_of_a_read_is_raised_and_the_next_read_goes_on() -> None:
    async with Pages(events(1, 2), OSError("lost"), events(3, 3), OSError("again"), events(4, 4)) as stream:
        assert ids(await take(stream, 2)) == [1, 2]
        with pytest.raises(OSError, match="lost"):
            await anext(stream)
        assert ids(await take(stream, 1)) == [3]
        with pytest.raises(OSError, match="again"):
            await stream.read_page()
        assert ids(await stream.read_page()) == [4]


async def test_stream_that_could_not_be_opened_by_a_read_may_be_tried_again() -> None:
    refusals = [OSError("down")]

    async def connect() -> None:
        while refusals:
            raise refusals.pop()

    async with anyio.create_task_group():
        stream = Pages(events(1, 1), on_open=connect)
        with pytest.raises(OSError, match="down"):
            await anext(stream)
        assert ids(await take(stream, 1)) == [1]
        await stream.aclose()


async def test_stream_that_could_not_be_opened_when_entered_is_closed() -> None:
    async def refuse() -> None:
        raise OSError("down")

    stream = Pages(on_open=refuse)
    with pytest.raises(OSError, match="down"):
        async with stream:
            pytest.fail("entered")
    assert stream.closed == 1


async def test_second_reader_is_refused_and_the_first_goes_on() -> None:
    go = anyio.Event()
    stream = Pages(events(1, 1), go.wait, events(2, 2))
    seen: list[int] = []

    async def read() -> None:
        seen.extend(ids(await take(stream, 2)))

    async with stream, anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError):
            await anext(stream)
        with pytest.raises(
            RuntimeError, match="another task reads the stream: accepted is one task at a time"
        ):
            await stream.read_page()
        go.set()
    assert seen == [1, 2]


# Cancellation.


async def read_by_events(stream: EventStream, seen: list[Event]) -> None:
    # No comprehension, which would keep what it has to itself when it is cancelled.
    async for event in stream:
        seen.append(event)  # noqa: PERF401


async def read_by_pages(stream: EventStream, seen: list[Event]) -> None:
    while page := await stream.read_page():
        seen.extend(page)


@each_cancellation
@pytest.mark.parametrize("again", [read_by_events, read_by_pages])
@pytest.mark.parametrize("read", [read_by_events, read_by_pages])
async def test_read_that_is_cancelled_anywhere_loses_nothing(
    cancelled_at: CancelledAt, read: Any, again: Any
) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        stream = Pages(events(1, 2), checkpoint, events(3, 3), events(4, 6), None)
        seen: list[Event] = []
        in_time = await cancelled_at(step, read(stream, seen))
        await again(stream, seen)
        assert ids(seen) == [1, 2, 3, 4, 5, 6], f"cancelled at {step}"
        assert stream.opened == 1
        await stream.aclose()
    assert step > 8


@each_cancellation
async def test_read_that_is_cancelled_again_and_again_loses_nothing(cancelled_at: CancelledAt) -> None:
    stream = Pages(events(1, 2), checkpoint, events(3, 3), events(4, 6), None)
    seen: list[Event] = []
    # Each try gets further by one wait at least, as every one that was over is over.
    for step in range(1, 20):
        if not await cancelled_at(step, read_by_events(stream, seen)):
            break
    else:
        pytest.fail("never came to the end")
    assert ids(seen) == [1, 2, 3, 4, 5, 6]
    await stream.aclose()


@each_cancellation
async def test_use_that_is_cancelled_anywhere_closes_the_stream_once(cancelled_at: CancelledAt) -> None:
    async def use(stream: EventStream) -> None:
        async with stream:
            await take(stream, 4)

    step, in_time = 0, True
    while in_time:
        step += 1
        stream = Pages(events(1, 2), events(3, 3), events(4, 6))
        in_time = await cancelled_at(step, use(stream))
        assert stream.closed == 1, f"cancelled at {step}"
    assert step >= 8


# Closing.


async def test_reading_a_closed_stream_raises() -> None:
    stream = Pages(events(1, 3))
    async with stream:
        await take(stream, 1)
    for _ in range(2):
        with pytest.raises(StreamClosed):
            await anext(stream)
        with pytest.raises(StreamClosed):
            await stream.read_page()
        with pytest.raises(StreamClosed):
            [event async for event in stream]
    with pytest.raises(StreamClosed):
        async with stream:
            pytest.fail("entered again")
    assert stream.closed == 1


async def test_stream_that_was_never_opened_can_be_closed() -> None:
    stream = Pages(events(1, 3))
    await stream.aclose()
    assert (stream.opened, stream.closed) == (0, 1)
    with pytest.raises(StreamClosed):
        await anext(stream)


async def test_closing_twice_closes_once() -> None:
    stream = Pages(events(1, 3))
    await take(stream, 1)
    await stream.aclose()
    await stream.aclose()
    assert stream.closed == 1


async def test_closing_in_two_tasks_at_once_closes_once_and_both_wait() -> None:
    stream = Pages(events(1, 3))
    await take(stream, 1)
    closed: list[int] = []

    async def close() -> None:
        await stream.aclose()
        closed.append(stream.closed)

    async with anyio.create_task_group() as group:
        group.start_soon(close)
        group.start_soon(close)
    assert closed == [1, 1]


@pytest.mark.parametrize("read", [anext, EventStream.read_page, EventStream.__aenter__])
async def test_closing_under_a_read_ends_it_there(read: Any) -> None:
    stream = Pages(on_open=anyio.sleep_forever if read is EventStream.__aenter__ else checkpoint)
    ended: list[str] = []

    async def reader() -> None:
        with pytest.raises(StreamClosed):
            await read(stream)
        ended.append("read")

    async with anyio.create_task_group() as group:
        group.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        await stream.aclose()
        assert stream.closed == 1
    assert ended == ["read"]


@pytest.mark.parametrize("read", [anext, EventStream.read_page])
async def test_read_that_is_past_cancelling_hands_out_nothing_once_closed(read: Any) -> None:
    """As by a source that has shielded its last await."""
    go = anyio.Event()

    async def shielded_wait() -> None:
        with anyio.CancelScope(shield=True):
            await go.wait()

    class Shielded(Pages):
        async def _read(self) -> list[Event]:
            await shielded_wait()
            return events(2, 3)

    stream = Shielded()
    ended: list[str] = []

    async def reader() -> None:
        with pytest.raises(StreamClosed):
            await read(stream)
        with pytest.raises(StreamClosed):
            await stream.read_page()
        ended.append("read")

    async with anyio.create_task_group() as group:
        group.start_soon(reader)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(stream.aclose)
        await anyio.wait_all_tasks_blocked()
        assert not stream.closed
        go.set()
    assert ended == ["read"]
    assert stream.closed == 1


async def test_closing_between_two_reads_of_another_task_raises_there() -> None:
    go, between = anyio.Event(), anyio.Event()
    stream = Pages(events(1, 3))
    seen: list[int] = []

    async def read() -> None:
        async for event in stream:
            seen.append(int(event.id))
            between.set()
            await go.wait()

    async def reader() -> None:
        with pytest.raises(StreamClosed):
            await read()

    async with anyio.create_task_group() as group:
        group.start_soon(reader)
        await between.wait()
        await stream.aclose()
        go.set()
    assert seen == [1]


async def test_closing_under_a_page_that_follows_single_reads_leaves_no_generator_behind() -> None:
    stream = Pages(events(1, 1))
    assert ids(await take(stream, 1)) == [1]

    async def reader() -> None:
        with pytest.raises(StreamClosed):
            await stream.read_page()

    async with anyio.create_task_group() as group:
        group.start_soon(reader)
        await stream.waiting.wait()
        await stream.aclose()
    assert isinstance(stream._events, AsyncGeneratorType)
    assert stream._events.ag_frame is None


async def test_streams_may_be_closed_in_any_order_and_by_any_task() -> None:
    first, second, third = (Pages(events(1, 3)) for _ in range(3))
    for stream in (first, second, third):
        await stream.__aenter__()
        await take(stream, 1)
    await second.__aexit__(None, None, None)
    async with anyio.create_task_group() as group:
        group.start_soon(first.aclose)
    assert ids(await take(third, 1)) == [2]
    await third.__aexit__(None, None, None)
    assert [stream.closed for stream in (first, second, third)] == [1, 1, 1]


async def test_closing_in_a_cancelled_scope_closes_all_the_same() -> None:
    stream = Pages(events(1, 3))
    with anyio.CancelScope() as scope:
        async with stream:
            scope.cancel()
            await anext(stream)
    assert scope.cancelled_caught
    assert stream.closed == 1


@each_cancellation
async def test_closing_that_is_cancelled_anywhere_closes_all_the_same(cancelled_at: CancelledAt) -> None:
    for step in (1, 2, 3):
        stream = Pages(events(1, 3))
        await take(stream, 1)
        await cancelled_at(step, stream.aclose())
        assert stream.closed == 1, f"cancelled at {step}"


@each_cancellation
async def test_closing_under_a_read_that_is_cancelled_closes_all_the_same(cancelled_at: CancelledAt) -> None:
    stream = Pages()

    async def reader() -> None:
        with pytest.raises(StreamClosed):
            await anext(stream)

    async with anyio.create_task_group() as group:
        group.start_soon(reader)
        await stream.waiting.wait()
        assert await cancelled_at(1, stream.aclose())
        assert stream.closed == 1


async def test_error_of_closing_is_raised_and_the_stream_counts_as_closed() -> None:
    async def fail() -> None:
        raise OSError("no way")

    stream = Pages(events(1, 1), on_close=fail)
    with pytest.raises(OSError, match="no way"):
        async with stream:
            await take(stream, 1)
    await stream.aclose()
    with pytest.raises(StreamClosed):
        await anext(stream)


async def test_error_of_closing_never_takes_the_place_of_what_the_body_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise OSError("no way")

    with pytest.raises(ValueError, match="first"):
        async with Pages(on_close=fail):
            raise ValueError("first")
    with anyio.CancelScope() as scope:
        async with Pages(on_close=fail) as stream:
            scope.cancel()
            await anext(stream)
    assert scope.cancelled_caught
    with pytest.raises(ValueError, match="opening"):
        await Pages(on_open=_fail_to_open, on_close=fail).__aenter__()
    assert [record.getMessage().endswith("could not be closed") for record in caplog.records] == [True] * 3


async def _fail_to_open() -> None:
    raise ValueError("opening")


# A stream that is never closed.


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_stream_that_was_opened_and_never_closed_warns() -> None:
    await Pages(events(1, 2)).read_page()
    with pytest.warns(ResourceWarning, match=r"Pages object at .* was never closed: use it in"):
        gc.collect()


async def test_stream_that_was_never_opened_does_not_warn() -> None:
    Pages(events(1, 2))
    gc.collect()


async def test_stream_whose_constructor_failed_does_not_warn() -> None:
    class Broken(Pages):
        def __init__(self) -> None:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Broken()
    gc.collect()


# Sources.


async def test_source_is_anything_with_stream_and_head() -> None:
    class Own:
        def stream(self, after: str = "", **options: Any) -> EventStream:
            raise NotImplementedError

        async def head(self) -> str:
            raise NotImplementedError

    assert isinstance(Own(), Source)
    assert not isinstance(object(), Source)
