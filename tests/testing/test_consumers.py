"""Waiting for consumers."""

import anyio
import asyncpg
import pytest

from reflex_aio import Consumer, Event, Spec
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.sql import CursorsTable, EventsTable
from reflex_aio.testing import ScriptedCursorStore, await_consumer, await_cursor
from tests.core.cancelling import on_trio


class Seen:
    """A handler that keeps the ids of its events."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    async def __call__(self, event: Event) -> None:
        await anyio.lowlevel.checkpoint()
        self.ids.append(int(event.id))


async def some(count: int) -> MemoryEvents:
    events = MemoryEvents()
    for number in range(1, count + 1):
        await events.insert(number, number % 2)
    return events


@pytest.mark.anyio
async def test_a_consumer_that_runs_elsewhere_is_waited_for() -> None:
    store = MemoryCursorStore({"c": 8})

    async def move() -> None:
        await anyio.wait_all_tasks_blocked()
        await store.set("c", "11")

    await await_cursor(store, "c", 8)
    async with anyio.create_task_group() as group:
        group.start_soon(move)
        await await_cursor(store, Consumer("c", Seen()), "10")


@on_trio
@pytest.mark.anyio
async def test_a_consumer_that_does_not_get_there_in_time_is_an_error() -> None:
    began = anyio.current_time()
    with pytest.raises(AssertionError, match="c has not consumed event 10 within 15 s: its cursor is '9'"):
        await await_cursor(MemoryCursorStore({"c": 9}), "c", 10)
    assert anyio.current_time() - began == pytest.approx(15.0, abs=0.1)


@pytest.mark.anyio
async def test_opaque_cursors_are_waited_for_as_they_are() -> None:
    store = MemoryCursorStore({"c": "file-2"})
    await await_cursor(store, "c", "file-2")
    with pytest.raises(AssertionError):
        await await_cursor(store, "c", "file-1", within=0.01)


@pytest.mark.anyio
async def test_a_spec_runs_until_its_consumer_has_consumed_the_event() -> None:
    seen, store = Seen(), ScriptedCursorStore()
    spec = Spec(await some(5), store, Consumer("c", seen))
    assert await await_consumer(spec, 3) == "3"
    assert seen.ids[:3] == [1, 2, 3]
    assert store.flushes == 1
    assert int(await store.get("c")) == len(seen.ids)


@pytest.mark.anyio
async def test_a_spec_runs_until_as_many_events_are_consumed_as_are_asked_for() -> None:
    seen, store = Seen(), MemoryCursorStore({"c": 1})
    spec = Spec(await some(9), store, Consumer("c", seen, types={1}))
    assert await await_consumer(spec, count=2) == "5"
    assert seen.ids[:2] == [3, 5]


@pytest.mark.anyio
async def test_events_that_come_meanwhile_are_waited_for() -> None:
    events, seen = MemoryEvents(), Seen()

    async def insert() -> None:
        for number in (1, 2):
            await anyio.wait_all_tasks_blocked()
            await events.insert(number, 1)

    async with anyio.create_task_group() as group:
        group.start_soon(insert)
        await await_consumer(Spec(events, MemoryCursorStore(), Consumer("c", seen)), count=2)
    assert seen.ids == [1, 2]


@pytest.mark.anyio
async def test_a_run_may_end_at_the_head_once_the_event_is_consumed() -> None:
    spec = Spec(await some(2), MemoryCursorStore(), Consumer("c", Seen()), to_head=True)
    assert await await_consumer(spec, 2) == "2"


@pytest.mark.anyio
async def test_a_run_that_ends_before_is_an_error() -> None:
    spec = Spec(await some(2), MemoryCursorStore(), Consumer("c", Seen()), to_head=True)
    with pytest.raises(AssertionError, match="not consumed event 3 before the run ended: its cursor is '2'"):
        await await_consumer(spec, 3)
    with pytest.raises(AssertionError, match="not consumed 1 events"):
        await await_consumer(spec, count=1)


@pytest.mark.anyio
async def test_what_the_run_raises_is_raised_bare() -> None:
    async def fail(event: Event) -> None:
        raise OSError("no mail")

    with pytest.raises(OSError, match="no mail"):
        await await_consumer(Spec(await some(2), MemoryCursorStore(), Consumer("c", fail)), 2)


@on_trio
@pytest.mark.anyio
async def test_an_event_that_never_comes_is_an_error() -> None:
    spec = Spec(await some(2), MemoryCursorStore(), Consumer("c", Seen()))
    with pytest.raises(AssertionError, match="c has not consumed event 3 within 2 s: its cursor is '2'"):
        await await_consumer(spec, 3, within=2)
    with pytest.raises(AssertionError, match="c has not consumed 1 events within 2 s"):
        await await_consumer(spec, count=1, within=2)


@pytest.mark.anyio
async def test_either_an_event_or_a_count_is_waited_for() -> None:
    spec = Spec(MemoryEvents(), MemoryCursorStore(), Consumer("c", Seen()))
    with pytest.raises(TypeError, match="accepted is either event_id or count"):
        await await_consumer(spec)
    with pytest.raises(TypeError, match="accepted is either event_id or count"):
        await await_consumer(spec, 1, count=1)
    with pytest.raises(ValueError, match="count 0 is out of range"):
        await await_consumer(spec, count=0)


@pytest.mark.asyncio
async def test_a_consumer_of_a_table_is_run_and_its_cursor_stored(pool: asyncpg.Pool) -> None:
    events, cursors, seen = EventsTable("user_events"), CursorsTable("cursors"), Seen()
    async with pool.acquire() as connection:
        await events.create(connection)
        await cursors.create(connection)
        ids = await events.insert_many(connection, [(1, 1), (2, 1), (3, 1)])
    spec = Spec(events.source(pool), cursors.store(pool, flush_every=3600.0), Consumer("c", seen))
    await await_consumer(spec, ids[-1])
    assert seen.ids == [1, 2, 3]
    assert await cursors.store(pool).get("c") == ids[-1]
