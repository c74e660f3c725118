"""A source of what has to be asked for."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from reflex_aio import Consumer, Event, Source, Spec, run
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.patterns import PollSource
from tests.core.cancelling import CancelledAt, each_cancellation, on_trio
from tests.core.sources import event, ids
from tests.patterns.making import Handling

pytestmark = pytest.mark.anyio


class Pages:
    """An interface with pages of so many events."""

    def __init__(self, last: int, size: int = 2) -> None:
        self.events = [event(number) for number in range(1, last + 1)]
        self.size = size
        self.asked: list[str] = []

    async def __call__(self, after: str) -> Sequence[Event]:
        await anyio.lowlevel.checkpoint()
        self.asked.append(after)
        later = [event for event in self.events if int(event.id) > int(after or 0)]
        return later[: self.size]

    async def head(self) -> str:
        return self.events[-1].id if self.events else ""


with_and_without_head = pytest.mark.parametrize("known", [False, True], ids=["walked", "told"])


def source_of(pages: Pages, known: bool = False, **options: Any) -> PollSource:
    return PollSource(pages, head=pages.head if known else None, **options)


async def read(source: Source, after: str = "", **options: Any) -> list[int]:
    async with source.stream(after, to_head=True, **options) as stream:
        return ids([event async for event in stream])


@with_and_without_head
@pytest.mark.parametrize("last", [0, 1, 2, 5])
async def test_events_are_streamed_to_the_head(last: int, known: bool) -> None:
    source = source_of(Pages(last), known)
    assert await read(source) == list(range(1, last + 1))
    assert await read(source, "1") == list(range(2, last + 1))
    assert await source.head() == (str(last) if last else "")
    assert await read(source, from_head=True) == []


@with_and_without_head
async def test_head_is_the_one_of_when_the_stream_was_opened(known: bool) -> None:
    pages = Pages(3)
    async with source_of(pages, known).stream(to_head=True) as stream:
        pages.events += [event(4), event(5)]
        assert ids([event async for event in stream]) == [1, 2, 3]


async def test_stream_ends_though_the_newest_event_is_gone() -> None:
    pages = Pages(3)
    async with source_of(pages).stream(to_head=True) as stream:
        del pages.events[2]
        assert ids([event async for event in stream]) == [1, 2]


@on_trio
@with_and_without_head
async def test_stream_from_the_head_asks_again_and_again(known: bool) -> None:
    pages, began = Pages(3), anyio.current_time()
    source = source_of(pages, known, every=10.0)
    async with source.stream(from_head=True) as stream, anyio.create_task_group() as group:
        assert stream.cursor == "3"

        async def add() -> None:
            await anyio.sleep(25)
            pages.events += [event(4), event(5), event(6)]

        group.start_soon(add)
        assert ids([await anext(stream) for _ in range(3)]) == [4, 5, 6]
        # A page that had events is followed by the next one at once.
        assert anyio.current_time() == began + 30


@on_trio
async def test_events_wait_until_they_are_old_enough() -> None:
    now = 0.0

    def clock() -> float:
        return now + anyio.current_time()

    now -= anyio.current_time()
    source = PollSource(Pages(4, size=3), clock=clock)
    async with source.stream(lag=1.5) as stream:
        for number in (1, 2, 3, 4):
            assert (await anext(stream)).id == str(number)
            assert clock() == number + 1.5
    assert await read(source, lag=4.0) == [1]
    assert await read(source, lag=100.0) == []


async def test_interface_that_returns_the_event_of_the_cursor_is_refused() -> None:
    async def poll(after: str) -> Sequence[Event]:
        return [event(7)]

    async with PollSource(poll).stream("7") as stream:
        with pytest.raises(RuntimeError, match="returned event 7: accepted are events after that one"):
            await anext(stream)


async def test_it_is_a_source() -> None:
    pages, store, handling = Pages(5), MemoryCursorStore({"c": "2"}), Handling()
    source = source_of(pages)
    assert isinstance(source, Source)
    assert repr(source).startswith("PollSource(<")
    await run(Spec(source, store, Consumer("c", handling.one), to_head=True))
    assert handling.finished == [3, 4, 5]


@each_cancellation
async def test_read_that_is_cancelled_anywhere_loses_nothing(cancelled_at: CancelledAt) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        seen: list[Event] = []
        async with source_of(Pages(5)).stream(to_head=True) as stream:

            async def read_on(stream: Any = stream, seen: list[Event] = seen) -> None:
                seen += await stream.read_page()
                seen += await stream.read_page()

            in_time = await cancelled_at(step, read_on())
            seen += [event async for event in stream]
        assert ids(seen) == [1, 2, 3, 4, 5]
    assert step > 1


async def test_clock_that_is_set_back_does_not_end_the_stream() -> None:
    times = [2.5]
    source = PollSource(Pages(2), clock=lambda: times.pop() if times else 0.0)
    async with source.stream(lag=1.5) as stream:
        assert ids(await stream.read_page()) == [1]
