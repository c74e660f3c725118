"""Stores that find a cursor for a consumer that has none: at the head, or elsewhere."""

import anyio
import pytest

from reflex_aio import Consumer, CursorStore, MemoryCursorStore, MemoryEvents, Spec, run
from reflex_aio.patterns import BootstrapStore, ReadThroughStore
from tests.core.cancelling import CancelledAt, each_cancellation
from tests.core.recording import RecordingStore
from tests.patterns.making import Handling, some

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("before", [0, 3])
async def test_new_consumer_begins_at_the_head_and_skips_nothing_from_then_on(before: int) -> None:
    source, store, handling = await some(before), MemoryCursorStore(), Handling()
    spec = Spec(source, BootstrapStore(store, source), Consumer("c", handling.one), to_head=True)
    await run(spec)
    assert handling.finished == []
    # It was stored at once: a run that ended before its first event doesn't begin at a later head.
    assert await store.get("c") == str(before)
    await source.insert("row", 1)
    await run(spec)
    assert handling.finished == [before + 1]


async def test_consumer_that_has_a_cursor_goes_on_from_there() -> None:
    source, store, handling = await some(3), MemoryCursorStore({"c": "1"}), Handling()
    await run(Spec(source, BootstrapStore(store, source), Consumer("c", handling.one), to_head=True))
    assert handling.finished == [2, 3]


async def test_cursor_that_is_found_is_flushed_before_anything_is_consumed() -> None:
    log: list[str] = []
    source = await some(3)
    store = BootstrapStore(RecordingStore(log), source)
    await run(Spec(source, store, Consumer("c", Handling().one), to_head=True))
    assert log == ["enter", "get", "set 3", "flush", "flush", "exit"]


async def test_run_that_was_first_decides() -> None:
    store, source = MemoryCursorStore(), await some(3)

    class Slow(MemoryEvents):
        async def head(self) -> str:
            await store.set("c", "2")
            return "3"

    assert await BootstrapStore(store, Slow()).get("c") == "2"
    assert await BootstrapStore(store, source).get("other") == "3"


async def test_source_whose_cursors_are_no_numbers_has_a_beginning_of_its_own() -> None:
    store = MemoryCursorStore()
    assert await BootstrapStore(store, MemoryEvents(), beginning="0000-00-00").get("c") == "0000-00-00"
    assert await store.get("c") == "0000-00-00"


@each_cancellation
async def test_start_that_is_cancelled_anywhere_skips_nothing(cancelled_at: CancelledAt) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        source, store, handling = await some(3), RecordingStore(), Handling()
        spec = Spec(source, BootstrapStore(store, source), Consumer("c", handling.one), to_head=True)
        in_time = await cancelled_at(step, run(spec))
        began = (await store.all()).get("c")
        await source.insert("row", 1)
        await run(spec)
        assert handling.finished == ([4] if began else [])
    assert step > 3


async def test_cursor_is_taken_over_from_the_fallback_and_stored() -> None:
    store, old = MemoryCursorStore(), MemoryCursorStore({"c": 2, "other": 9})
    source, handling = await some(4), Handling()
    await run(Spec(source, ReadThroughStore(store, old), Consumer("c", handling.one), to_head=True))
    assert handling.finished == [3, 4]
    assert await store.all() == {"c": "4"}
    assert await old.all() == {"c": "2", "other": "9"}


async def test_cursor_that_is_there_comes_before_the_fallbacks() -> None:
    read_through = ReadThroughStore(MemoryCursorStore({"c": 3}), MemoryCursorStore({"c": 2, "d": 1}))
    assert await read_through.get("c") == "3"
    assert await read_through.get("nowhere") == ""
    assert await read_through.all() == {"c": "3", "d": "1"}


async def test_cursor_that_is_nowhere_is_not_stored() -> None:
    store = MemoryCursorStore()
    assert await ReadThroughStore(store, MemoryCursorStore()).get("c") == ""
    assert await store.all() == {}


async def test_they_go_one_before_the_other() -> None:
    source, handling, store = await some(3), Handling(), MemoryCursorStore()
    both = BootstrapStore(ReadThroughStore(store, MemoryCursorStore({"c": "1"})), source)
    assert isinstance(both, CursorStore)
    async with anyio.create_task_group() as group:
        for name in ("c", "new"):
            group.start_soon(run, Spec(source, both, Consumer(name, handling.one), to_head=True))
    assert handling.finished == [2, 3]
    assert await both.all() == {"c": "3", "new": "3"}
    assert repr(both).startswith("BootstrapStore(ReadThroughStore(")
