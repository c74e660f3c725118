"""Waiting for an event, or for what it would tell."""

import anyio
import pytest

from reflex_aio import Event, StreamStopped
from reflex_aio.memory import MemoryEvents
from reflex_aio.patterns import wait_for_event
from tests.core.cancelling import CancelledAt, each_cancellation, on_trio
from tests.core.recording import Streams
from tests.core.sources import Pages
from tests.patterns.making import some

pytestmark = pytest.mark.anyio


async def insert_soon(source: MemoryEvents, *events: tuple[str, int]) -> None:
    await anyio.wait_all_tasks_blocked()
    for event in events:
        await source.insert(*event)


async def never() -> bool:
    return False


async def always() -> bool:
    return True


@pytest.mark.parametrize("poll", [None, never])
async def test_next_event_of_the_row_and_types_is_returned(poll: object) -> None:
    source, found = await some(3), []

    async def wait() -> None:
        found.append(await wait_for_event(source, 7, types={2, 3}, poll=poll))  # type: ignore[arg-type]
        found.append(await wait_for_event(source, "7"))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await insert_soon(source, ("6", 2), ("7", 1), ("7", 3))
        await insert_soon(source, ("8", 1), ("7", 9))
    assert [event and (event.id, event.type) for event in found] == [("6", 3), ("8", 9)]


async def test_poll_tells_that_there_is_nothing_to_wait_for() -> None:
    assert await wait_for_event(await some(1), 1, poll=always) is None


async def test_poll_is_asked_when_events_are_no_longer_missed() -> None:
    stream = Pages()

    async def poll() -> bool:
        assert stream.opened
        return True

    assert await wait_for_event(Streams(lambda after: stream), 1, poll=poll) is None
    assert stream.closed == 1


@on_trio
async def test_poll_is_asked_again_and_again() -> None:
    began = anyio.current_time()

    async def poll() -> bool:
        return anyio.current_time() >= began + 10

    assert await wait_for_event(MemoryEvents(), 1, poll=poll, every=3.0) is None
    assert anyio.current_time() == began + 12


async def test_error_of_poll_comes_out_as_it_is() -> None:
    error = OSError("lost")

    async def poll() -> bool:
        raise error

    with pytest.raises(OSError, match="lost") as caught:
        await wait_for_event(MemoryEvents(), 1, poll=poll)
    assert caught.value is error


@pytest.mark.parametrize("poll", [None, never])
async def test_stream_that_ends_is_an_error(poll: object) -> None:
    with pytest.raises(StreamStopped):
        await wait_for_event(Streams(lambda after: Pages(None)), 1, poll=poll)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [{"types": ["1"]}, {"every": "1"}, {"foreign_id": None}])
async def test_wrong_argument_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="accepted is"):
        await wait_for_event(MemoryEvents(), **{"foreign_id": 1, **arguments})  # type: ignore[arg-type]


@each_cancellation
async def test_wait_that_is_cancelled_anywhere_closes_its_stream(cancelled_at: CancelledAt) -> None:
    async def enough() -> bool:
        await anyio.lowlevel.checkpoint()
        return True

    async def wait(stream: Pages) -> None:
        await wait_for_event(Streams(lambda after: stream), 1, poll=enough)

    step, in_time = 0, True
    while in_time:
        step += 1
        stream = Pages([Event("1", 1, "another", 0)])
        in_time = await cancelled_at(step, wait(stream))
        assert stream.closed == 1
    assert step > 5
