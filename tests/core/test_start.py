"""A consumer without a stored cursor starts where its spec says, and that is stored before its first event."""

from typing import Any

import anyio
import pytest

from reflex_aio import Backoff, Consumer, Event, LeaseLost, Runner, Spec, run, run_forever
from reflex_aio.errors import InvalidCursor
from reflex_aio.memory import MemoryCursorStore, MemoryEvents, MemoryLeaseStore
from reflex_aio.patterns import AckConsumer, PollSource, by_event_id, shards
from reflex_aio.testing import await_cursor
from tests.core.cancelling import CancelledAt, each_cancellation
from tests.core.recording import RecordingStore
from tests.patterns.making import Handling, each_consumer, some

pytestmark = pytest.mark.anyio


def spec_of(source: Any, store: Any, handling: Handling, *, name: str = "c", **options: Any) -> Spec:
    return Spec(source, store, Consumer(name, handling.one), **{"to_head": True, **options})


# The head.


async def test_consumer_that_starts_at_the_head_consumes_later_events_only() -> None:
    source, store, handling = await some(3), MemoryCursorStore(), Handling()
    spec = spec_of(source, store, handling, start="head")
    await run(spec)
    assert (handling.finished, await store.get("c")) == ([], "3")
    await source.insert("row", 1)
    await run(spec)
    assert handling.finished == [4]


async def test_consumer_that_has_a_cursor_goes_on_from_there() -> None:
    for start in ("head", "2", MemoryCursorStore({"c": "2"})):
        source, store, handling = await some(3), MemoryCursorStore({"c": "1"}), Handling()
        await run(spec_of(source, store, handling, start=start))
        assert handling.finished == [2, 3]


async def test_start_is_flushed_before_anything_is_consumed() -> None:
    for start, cursor in (("head", "3"), ("3", "3"), (MemoryCursorStore({"c": 3}), "3")):
        log: list[str] = []
        await run(spec_of(await some(3), RecordingStore(log), Handling(), start=start))
        assert log == ["enter", "get", f"set {cursor}", "flush", "flush", "exit"]


async def test_head_of_an_empty_source_is_stored_too() -> None:
    source, store, handling = MemoryEvents(), MemoryCursorStore(), Handling()
    spec = spec_of(source, store, handling, start="head")
    await run(spec)
    assert await store.get("c") == "0"
    for number in range(2):
        await source.insert(number, 1)
    await run(spec)
    assert handling.finished == [1, 2]


async def test_source_whose_ids_are_no_numbers_names_its_own_beginning() -> None:
    days: list[str] = []

    async def poll(after: str) -> list[Event]:
        return [Event(day, 1, "row", 0) for day in days if day > after]

    async def head() -> str:
        return days[-1] if days else "0000-00-00"

    store, seen = MemoryCursorStore(), list[str]()

    async def see(event: Event) -> None:
        seen.append(event.id)

    spec = Spec(PollSource(poll, head=head), store, Consumer("c", see), start="head", to_head=True)
    await run(spec)
    assert await store.get("c") == "0000-00-00"
    days += ["2024-02-28", "2024-02-29"]
    await run(spec)
    assert seen == days


async def test_run_that_was_first_decides() -> None:
    store, source, handling = MemoryCursorStore(), await some(3), Handling()

    class Slow(MemoryEvents):
        async def head(self) -> str:
            await store.set("c", "2")
            return "3"

        def stream(self, after: str = "", **options: Any) -> Any:
            return source.stream(after, **options)

    await run(spec_of(Slow(), store, handling, start="head"))
    assert handling.finished == [3]


@each_consumer
async def test_start_is_for_every_kind_of_consumer(make: Any) -> None:
    source, store, handling = await some(3), MemoryCursorStore(), Handling()
    spec = Spec(source, store, make(handling), start="head", to_head=True)
    await run(spec)
    for number in range(3):
        await source.insert(number, 1)
    await run(spec)
    assert sorted(handling.finished) == [4, 5, 6]
    assert await store.get("c") == "6"


@each_cancellation
async def test_start_that_is_cancelled_anywhere_skips_nothing(cancelled_at: CancelledAt) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        source, store, handling = await some(3), RecordingStore(), Handling()
        spec = spec_of(source, store, handling, start="head")
        in_time = await cancelled_at(step, run(spec))
        began = (await store.all()).get("c")
        await source.insert("row", 1)
        await run(spec)
        assert handling.finished == ([4] if began else [])
    assert step > 3


async def test_run_that_fails_before_its_first_event_has_skipped_nothing_when_it_runs_again() -> None:
    source, store, handling = await some(3), MemoryCursorStore(), Handling()
    down = True

    class Down(MemoryEvents):
        head = source.head

        def stream(self, after: str = "", **options: Any) -> Any:
            if down:
                raise OSError("down")
            return source.stream(after, **options)

    spec = spec_of(Down(), store, handling, start="head")
    with pytest.raises(OSError, match="down"):
        await run(spec)
    await source.insert("row", 1)
    down = False
    await run(spec)
    assert handling.finished == [4]


async def test_head_is_read_again_until_it_is_known() -> None:
    source, store, failures = await some(3), MemoryCursorStore(), [OSError("down")]
    handled = anyio.Event()

    class Flaky(MemoryEvents):
        stream = source.stream

        async def head(self) -> str:
            if failures:
                raise failures.pop()
            return await source.head()

    async def handle(event: Event) -> None:
        assert event.id == "4"
        handled.set()

    async def consume() -> None:
        spec = Spec(Flaky(), store, Consumer("c", handle), start="head")
        await run_forever(spec, backoff=Backoff(0.001, 0.001))

    async with anyio.create_task_group() as group:
        group.start_soon(consume)
        await await_cursor(store, "c", 3)
        await source.insert("row", 1)
        await handled.wait()
        group.cancel_scope.cancel()


async def test_each_shard_starts_at_the_head() -> None:
    source, store, handling = await some(3), MemoryCursorStore(), Handling()
    specs = [
        Spec(source, store, Consumer(shard.name, handling.one, filter=shard), start="head", to_head=True)
        for shard in shards("c", 2, key=by_event_id)
    ]
    for spec in specs:
        await run(spec)
    assert await store.all() == {"c_1_of_2": "3", "c_2_of_2": "3"}
    for number in range(6):
        await source.insert(number, 1)
    for spec in specs:
        await run(spec)
    assert sorted(handling.finished) == [4, 5, 6, 7, 8, 9]


async def test_start_is_stored_under_the_lease() -> None:
    source, store, leases = await some(3), MemoryCursorStore(), MemoryLeaseStore()
    lease = await leases.acquire("c", "me", ttl=60)
    assert lease is not None
    spec = spec_of(source, store, Handling(), start="head").fenced(lease)
    await leases.release(lease)
    with pytest.raises(LeaseLost):
        await run(spec)
    assert await store.all() == {}


async def test_runner_starts_its_consumers_at_the_head() -> None:
    source, store, leases = await some(3), MemoryCursorStore(), MemoryLeaseStore()
    handled = anyio.Event()

    async def handle(event: Event) -> None:
        assert event.id == "4"
        handled.set()

    runner = Runner([Spec(source, store, Consumer("c", handle), start="head")], leases=leases)
    async with anyio.create_task_group() as group:
        group.start_soon(runner.run)
        await await_cursor(store, "c", 3)
        await source.insert("row", 1)
        await handled.wait()
        await runner.drain()
    assert await store.get("c") == "4"


async def test_events_that_are_not_acknowledged_after_the_start_come_again() -> None:
    source, store, handling = await some(3), MemoryCursorStore(), Handling()

    async def see(event: Any) -> None:
        handling.finished.append(int(event.event.id))

    spec = Spec(source, store, AckConsumer("c", see), start="2", to_head=True)
    for _ in range(2):
        await run(spec)
    assert handling.finished == [3, 3]
    assert await store.get("c") == "2"


# An event id.


async def test_consumer_starts_after_the_event_that_is_named() -> None:
    source, store, handling = await some(4), MemoryCursorStore(), Handling()
    await run(spec_of(source, store, handling, start="2"))
    assert handling.finished == [3, 4]


# Another store.


async def test_cursor_is_taken_over_from_another_store_and_stored() -> None:
    store, old = MemoryCursorStore(), MemoryCursorStore({"c": 2, "other": 9})
    source, handling = await some(4), Handling()
    await run(spec_of(source, store, handling, start=old))
    assert handling.finished == [3, 4]
    assert await store.all() == {"c": "4"}
    assert await old.all() == {"c": "2", "other": "9"}


async def test_other_store_is_read_and_nothing_else() -> None:
    log: list[str] = []
    old = RecordingStore(log, {"c": 2})
    await run(spec_of(await some(4), MemoryCursorStore(), Handling(), start=old))
    assert log == ["get"]


async def test_consumer_that_has_no_cursor_anywhere_starts_at_the_beginning() -> None:
    handling, log = Handling(), list[str]()
    await run(spec_of(await some(2), RecordingStore(log), handling, start=MemoryCursorStore()))
    assert handling.finished == [1, 2]
    assert log[:3] == ["enter", "get", "set 1"]


# What is refused.


@pytest.mark.parametrize("start", ["head", "7", MemoryCursorStore()])
async def test_start_is_not_for_runs_that_all_start_at_the_head(start: Any) -> None:
    with pytest.raises(ValueError, match=r"start .* with from_head=True, .*: accepted is one of them"):
        spec_of(MemoryEvents(), MemoryCursorStore(), Handling(), start=start, from_head=True)


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (7, TypeError, "start 7 is a int: accepted is 'beginning', 'head', an event id as a str, or another"),
        (None, TypeError, "start None is a NoneType: accepted is 'beginning'"),
        (MemoryEvents(), TypeError, "accepted is 'beginning'"),
        ("", ValueError, "start '' is not accepted"),
        ("a\0", ValueError, "start 'a.x00' is not accepted"),
    ],
)
async def test_start_that_is_none_is_refused(start: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        spec_of(MemoryEvents(), MemoryCursorStore(), Handling(), start=start)


async def test_spec_does_not_take_over_cursors_from_its_own_store() -> None:
    store = MemoryCursorStore()
    with pytest.raises(ValueError, match=r"start is the spec's own store .*: accepted is another one"):
        spec_of(MemoryEvents(), store, Handling(), start=store)


async def test_start_at_what_is_no_event_id_of_the_source_is_refused() -> None:
    with pytest.raises(InvalidCursor, match="three"):
        Spec(await some(3), MemoryCursorStore(), Consumer("c", Handling().one), start="three")
