"""The source and the cursor store whose failures a test decides."""

import anyio
import pytest

from reflex_aio import (
    ConnectionLost,
    Consumer,
    CursorConflict,
    Event,
    EventStream,
    Spec,
    StreamStopped,
    run,
    run_forever,
)
from reflex_aio.memory import MemoryEvents
from reflex_aio.testing import ScriptedCursorStore, ScriptedSource, await_cursor, read_events
from tests.core.sources import ids

pytestmark = pytest.mark.anyio

LOST = ConnectionLost("the cable")


async def some(count: int) -> MemoryEvents:
    events = MemoryEvents()
    for number in range(1, count + 1):
        await events.insert(number, 1)
    return events


async def test_a_stream_fails_after_the_event_that_the_script_says_once() -> None:
    source = ScriptedSource(await some(4))
    source.fail(LOST, after=2)
    async with source.stream(to_head=True) as stream:
        seen = [await anext(stream), await anext(stream)]
        with pytest.raises(ConnectionLost, match="the cable"):
            await anext(stream)
        assert ids(seen) == [1, 2]
        assert ids([event async for event in stream]) == [3, 4]
    assert ids(await read_events(source)) == [1, 2, 3, 4]


async def test_a_stream_fails_to_open_once() -> None:
    source = ScriptedSource(await some(2))
    source.fail(LOST)
    with pytest.raises(ConnectionLost):
        await source.stream().__aenter__()
    assert source.opened == 0
    assert ids(await read_events(source)) == [1, 2]
    assert source.opened == 1


async def test_a_read_that_waits_after_an_event_fails_when_that_is_scripted() -> None:
    source = ScriptedSource(await some(1))
    async with source.stream() as stream:
        await anext(stream)

        async def fail() -> None:
            await anyio.wait_all_tasks_blocked()
            source.fail(LOST, after=1)

        async with anyio.create_task_group() as group:
            group.start_soon(fail)
            with pytest.raises(ConnectionLost):
                await anext(stream)


async def test_stopping_ends_streams_that_wait_and_those_to_come_until_the_start() -> None:
    source = ScriptedSource(await some(1))
    met: list[object] = []

    async def read(stream: EventStream) -> None:
        try:
            met.append(await anext(stream))
        except StreamStopped:
            met.append("stopped")

    async with source.stream("1") as waiting:
        async with anyio.create_task_group() as group:
            group.start_soon(read, waiting)
            await anyio.wait_all_tasks_blocked()
            source.stop()
        with pytest.raises(StreamStopped):
            await source.stream().__aenter__()
        source.start()
        assert ids(await read_events(source)) == [1]
    assert met == ["stopped"]


async def test_a_consumer_runs_through_the_failures_of_a_script() -> None:
    events = await some(5)
    source, store = ScriptedSource(events), ScriptedCursorStore()
    for event_id in (2, 4):
        source.fail(LOST, after=event_id)
    store.fail("set", ConnectionLost("the database"))
    seen: list[int] = []

    async def handle(event: Event) -> None:
        seen.append(int(event.id))

    async with anyio.create_task_group() as group:
        group.start_soon(run_forever, Spec(source, store, Consumer("c", handle)))
        await await_cursor(store, "c", 5)
        group.cancel_scope.cancel()
    assert seen == [1, 1, 2, 3, 4, 5]
    assert source.opened == 4


async def test_a_store_writes_down_what_was_set_and_counts_flushes() -> None:
    store = ScriptedCursorStore({"c": 1})
    await run(Spec(await some(3), store, Consumer("c", _nothing), to_head=True))
    assert store.sets == [("c", "2"), ("c", "3")]
    assert store.flushes == 1
    with pytest.raises(CursorConflict):
        await store.set("c", "2")
    assert store.sets == [("c", "2"), ("c", "3")]


async def test_a_store_raises_what_the_script_says_in_order_and_then_works() -> None:
    store = ScriptedCursorStore()
    store.fail("set", LOST)
    store.fail("set", OSError("full"))
    store.fail("get", LOST)
    store.fail("flush", LOST)
    store.fail("all", LOST)
    for expected in (ConnectionLost, OSError):
        with pytest.raises(expected):
            await store.set("c", "1")
    for call in (store.get("c"), store.flush(), store.all()):
        with pytest.raises(ConnectionLost):
            await call
    await store.set("c", "1")
    await store.flush()
    assert (await store.get("c"), await store.all(), store.flushes) == ("1", {"c": "1"}, 1)


async def _nothing(event: Event) -> None:
    """Consume it."""
