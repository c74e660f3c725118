"""Batches are handed over when they are full, old, or the last."""

from collections.abc import Sequence

import anyio
import pytest

from reflex_aio import Event, Spec, run
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import BatchConsumer
from tests.core.cancelling import on_trio
from tests.core.recording import RecordingHooks, RecordingStore
from tests.core.sources import ids
from tests.patterns.making import some

pytestmark = pytest.mark.anyio


# Sizes.


async def test_batch_is_handed_over_when_it_is_full_and_the_last_one_when_the_stream_ends() -> None:
    log: list[str] = []
    store = RecordingStore(log)

    async def handle(events: Sequence[Event]) -> None:
        log.append(f"handle {ids(events)}")

    await run(Spec(await some(5), store, BatchConsumer("c", handle, size=2), to_head=True))
    assert log[2:-2] == ["handle [1, 2]", "set 2", "handle [3, 4]", "set 4", "handle [5]", "set 5"]


async def test_no_batch_is_empty() -> None:
    batches: list[int] = []

    async def handle(events: Sequence[Event]) -> None:
        batches.append(len(events))

    store = MemoryCursorStore()
    await run(Spec(await some(4), store, BatchConsumer("c", handle, size=2, age=1.0), to_head=True))
    await run(Spec(await some(4), store, BatchConsumer("c", handle, size=2, age=1.0), to_head=True))
    assert batches == [2, 2]


async def test_events_passed_over_are_not_in_a_batch_and_move_the_cursor_with_it() -> None:
    batches: list[list[int]] = []

    async def handle(events: Sequence[Event]) -> None:
        batches.append(ids(events))

    store = RecordingStore()
    consumer = BatchConsumer("c", handle, size=2, filter=lambda event: int(event.id) % 3 == 0)
    await run(Spec(await some(11), store, consumer, to_head=True))
    assert batches == [[3, 6], [9]]
    assert await store.get("c") == "11"


async def test_recover_is_handed_the_batch() -> None:
    recovered: list[list[int]] = []

    async def fail(events: Sequence[Event]) -> None:
        raise ValueError("x")

    async def recover(events: list[Event], error: Exception) -> None:
        recovered.append(ids(events))

    store = MemoryCursorStore()
    consumer = BatchConsumer("c", fail, size=2, recover=recover)
    await run(Spec(await some(3), store, consumer, to_head=True))
    assert recovered == [[1, 2], [3]]
    assert await store.get("c") == "3"


async def test_hooks_are_told_of_each_event_and_of_the_first_of_a_batch_that_failed() -> None:
    error = ValueError("x")

    async def handle(events: Sequence[Event]) -> None:
        if events[0].id == "3":
            raise error

    hooks = RecordingHooks()
    spec = Spec(
        await some(4), MemoryCursorStore(), BatchConsumer("c", handle, size=2), to_head=True, hooks=hooks
    )
    with pytest.raises(ValueError, match="x"):
        await run(spec)
    assert hooks.log[1:-1] == [
        ("received", "c", "1"),
        ("received", "c", "2"),
        ("handled", "c", "1"),
        ("handled", "c", "2"),
        ("received", "c", "3"),
        ("received", "c", "4"),
        ("failed", "c", "3", error),
    ]


# Ages.


async def running_with(
    delays: Sequence[float], *, size: int | None, age: float | None, takes: float = 0.0
) -> list[tuple[float, list[int]]]:
    """Return when each batch was handed over, if an event is inserted after each of the delays."""
    handed_over: list[tuple[float, list[int]]] = []
    source, store, began = MemoryEvents(), MemoryCursorStore(), anyio.current_time()

    async def handle(events: Sequence[Event]) -> None:
        handed_over.append((anyio.current_time() - began, ids(events)))
        await anyio.sleep(takes)

    async with anyio.create_task_group() as group:
        group.start_soon(run, Spec(source, store, BatchConsumer("c", handle, size=size, age=age)))
        for number, delay in enumerate(delays):
            await anyio.sleep(delay)
            await source.insert(number + 1, 1)
        await anyio.sleep(60)
        assert await store.get("c") == (str(handed_over[-1][1][-1]) if handed_over else "")
        group.cancel_scope.cancel()
    return handed_over


@on_trio
async def test_batch_is_handed_over_when_its_first_event_is_old() -> None:
    assert await running_with([1, 3, 3, 3, 20], size=10, age=5.0) == [(6, [1, 2]), (12, [3, 4]), (35, [5])]


@on_trio
async def test_full_batch_leaves_no_time_to_the_next_one_but_its_own() -> None:
    assert await running_with([1, 3, 1, 3], size=2, age=5.0) == [(4, [1, 2]), (8, [3, 4])]
    assert await running_with([1, 3, 1], size=2, age=5.0) == [(4, [1, 2]), (10, [3])]


@on_trio
async def test_batch_with_a_size_alone_waits_for_ever() -> None:
    assert await running_with([1, 1, 1], size=2, age=None) == [(2, [1, 2])]


@on_trio
async def test_no_event_is_read_while_the_handler_is_busy() -> None:
    told = await running_with([1, 1, 1, 1, 1, 1], size=3, age=2.0, takes=10.0)
    assert told == [(3, [1, 2]), (13, [3, 4, 5]), (25, [6])]


@on_trio
async def test_failure_of_an_old_batch_is_raised_without_a_further_event() -> None:
    error = OSError("lost")

    async def fail(events: Sequence[Event]) -> None:
        raise error

    store = MemoryCursorStore()
    with anyio.fail_after(6), pytest.raises(OSError, match="lost") as caught:
        await run(Spec(await some(2), store, BatchConsumer("c", fail, size=10, age=5.0)))
    assert caught.value is error
    assert await store.get("c") == ""
