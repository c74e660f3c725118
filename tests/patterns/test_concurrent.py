"""Several events at a time, with the cursor before the first unfinished one."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from reflex_aio import Event, Spec, run
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import ConcurrentConsumer
from tests.core.cancelling import on_trio
from tests.core.recording import RecordingHooks, RecordingStore
from tests.patterns.making import some

pytestmark = pytest.mark.anyio


async def ignore(event: Event) -> None: ...


def by_foreign_id(event: Event) -> str:
    return event.foreign_id


async def blocked_run(
    source: MemoryEvents,
    store: MemoryCursorStore,
    body: Callable[[dict[str, anyio.Event]], Awaitable[None]],
    **options: Any,
) -> None:
    """Run with a handler that waits until the event of its name is set; ``body`` gets those in flight."""
    in_flight: dict[str, anyio.Event] = {}

    async def handle(event: Event) -> None:
        in_flight[event.id] = anyio.Event()
        await in_flight[event.id].wait()
        del in_flight[event.id]

    async with anyio.create_task_group() as group:
        group.start_soon(run, Spec(source, store, ConcurrentConsumer("c", handle, **options)))
        await anyio.wait_all_tasks_blocked()
        await body(in_flight)
        group.cancel_scope.cancel()


async def test_no_more_events_than_the_limit_are_in_flight() -> None:
    async def body(in_flight: dict[str, anyio.Event]) -> None:
        assert sorted(in_flight) == ["1", "2", "3"]
        in_flight["2"].set()
        await anyio.wait_all_tasks_blocked()
        assert sorted(in_flight) == ["1", "3", "4"]

    await blocked_run(await some(9), MemoryCursorStore(), body, limit=3)


async def test_cursor_is_before_the_first_event_that_is_not_finished() -> None:
    store = RecordingStore()

    async def body(in_flight: dict[str, anyio.Event]) -> None:
        for number, cursor in (("2", ""), ("4", ""), ("1", "2"), ("3", "4")):
            in_flight[number].set()
            await anyio.wait_all_tasks_blocked()
            assert await MemoryCursorStore.get(store, "c") == cursor

    await blocked_run(await some(5), store, body, limit=4)
    assert store.sets == ["set 2", "set 4"]


async def test_no_more_events_than_the_window_come_after_an_unfinished_one() -> None:
    async def body(in_flight: dict[str, anyio.Event]) -> None:
        for number in ("2", "3", "4"):
            in_flight[number].set()
            await anyio.wait_all_tasks_blocked()
        assert sorted(in_flight) == ["1"]
        in_flight["1"].set()
        await anyio.wait_all_tasks_blocked()
        assert sorted(in_flight) == ["5", "6"]

    await blocked_run(await some(9), MemoryCursorStore(), body, limit=2, window=4)


async def test_events_of_one_key_wait_for_one_another_and_keep_no_others_waiting() -> None:
    source = MemoryEvents()
    for foreign_id in ("a", "a", "a", "b", "c"):
        await source.insert(foreign_id, 1)

    async def body(in_flight: dict[str, anyio.Event]) -> None:
        assert sorted(in_flight) == ["1", "4"]
        in_flight["4"].set()
        await anyio.wait_all_tasks_blocked()
        assert sorted(in_flight) == ["1", "5"]
        in_flight["1"].set()
        await anyio.wait_all_tasks_blocked()
        assert sorted(in_flight) == ["2", "5"]

    await blocked_run(source, MemoryCursorStore(), body, limit=2, ordered_by=by_foreign_id)


async def test_first_failure_cancels_those_in_flight_and_keeps_what_is_finished() -> None:
    error, cancelled, begun = OSError("lost"), [], []
    store, hooks = MemoryCursorStore(), RecordingHooks()

    async def handle(event: Event) -> None:
        begun.append(event.id)
        if event.id == "1":
            return
        if event.id == "3":
            await anyio.wait_all_tasks_blocked()
            raise error
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(event.id)

    with pytest.raises(OSError, match="lost") as caught:
        await run(Spec(await some(9), store, ConcurrentConsumer("c", handle, limit=3), hooks=hooks))
    assert caught.value is error
    assert sorted(begun) == ["1", "2", "3", "4"]
    assert sorted(cancelled) == ["2", "4"]
    assert await store.get("c") == "1"
    assert [told for told in hooks.log if told[0] in {"handled", "failed"}] == [
        ("handled", "c", "1"),
        ("failed", "c", "3", error),
    ]


@on_trio
async def test_slow_store_is_told_the_latest_cursor_only() -> None:
    async def slowly() -> None:
        await anyio.sleep(10)

    store, source = RecordingStore(set=slowly), await some(8)
    await run(Spec(source, store, ConcurrentConsumer("c", ignore, limit=4), to_head=True))
    assert len(store.sets) < 8
    assert store.sets[-1] == "set 8"


@on_trio
async def test_what_is_finished_is_stored_when_the_run_is_cancelled() -> None:
    """Also if it is waiting for the store to take an earlier cursor."""

    async def slowly() -> None:
        await anyio.sleep(1)

    store = RecordingStore(set=slowly)

    async def handle(event: Event) -> None:
        if event.id == "4":
            await anyio.sleep_forever()

    with anyio.move_on_after(0.5):
        await run(Spec(await some(4), store, ConcurrentConsumer("c", handle, limit=9)))
    assert await MemoryCursorStore.get(store, "c") == "3"
