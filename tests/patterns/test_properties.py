"""What holds whatever comes: on trio, whose clock jumps."""

from collections import defaultdict
from collections.abc import Callable

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from reflex_aio import Event, Lease, Spec, run
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import ConcurrentConsumer, by_event_id, by_event_type, by_foreign_id, shards
from tests.patterns.test_batch import running_with


@settings(deadline=None)
@given(
    delays=st.lists(st.integers(0, 40).map(lambda tenths: tenths / 8), max_size=25),
    size=st.none() | st.integers(1, 5),
    age=st.none() | st.integers(1, 24).map(lambda tenths: tenths / 8),
    takes=st.sampled_from([0.0, 1.0]),
)
def test_batches_hold_each_event_once_and_keep_their_limits(
    delays: list[float], size: int | None, age: float | None, takes: float
) -> None:
    if size is None and age is None:
        age = 1.0

    async def main() -> list[tuple[float, list[int]]]:
        return await running_with(delays, size=size, age=age, takes=takes)

    told = anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
    batches = [batch for _, batch in told]
    inserted = [sum(delays[: number + 1]) for number in range(len(delays))]
    handed_over = [number for batch in batches for number in batch]
    assert handed_over == list(range(1, len(handed_over) + 1))
    free_at = 0.0
    for when, batch in told:
        assert batch
        full = len(batch) == size
        assert size is None or len(batch) <= size
        if age is not None and not full:
            # Read as soon as the handler is free, and handed over when it is of age.
            assert when == pytest.approx(max(free_at, inserted[batch[0] - 1]) + age)
        free_at = when + takes
    left = len(delays) - len(handed_over)
    assert left == 0 or (age is None and size is not None and left < size)


@settings(deadline=None)
@given(
    durations=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30),
    limit=st.integers(1, 6),
    ordered=st.booleans(),
    fails_at=st.none() | st.integers(1, 30),
    passed_over=st.sets(st.integers(1, 30)),
)
def test_cursor_is_always_after_a_finished_beginning(
    durations: list[tuple[int, int]], limit: int, ordered: bool, fails_at: int | None, passed_over: set[int]
) -> None:
    """And the limit is kept, and the order of each foreign id, whatever takes how long."""
    finished: set[int] = set()
    in_flight: set[int] = set()
    by_key: dict[str, list[int]] = defaultdict(list)

    class Checked(MemoryCursorStore):
        async def set(
            self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
        ) -> None:
            await anyio.lowlevel.checkpoint()
            await super().set(name, cursor)
            assert set(range(1, int(cursor) + 1)) <= finished | passed_over

    async def handle(event: Event) -> None:
        number = int(event.id)
        in_flight.add(number)
        assert len(in_flight) <= limit
        key = by_key[event.foreign_id]
        assert not ordered or not key or key[-1] in finished
        key.append(number)
        await anyio.sleep(durations[number - 1][0])
        in_flight.remove(number)
        if number == fails_at:
            raise ValueError("failed")
        finished.add(number)

    async def main() -> str:
        source, store = MemoryEvents(), Checked()
        for _, key in durations:
            await source.insert(f"row-{key}", 1)
        consumer = ConcurrentConsumer(
            "c",
            handle,
            limit=limit,
            ordered_by=by_foreign_id if ordered else None,
            filter=lambda event: int(event.id) not in passed_over,
        )
        try:
            await run(Spec(source, store, consumer, to_head=True))
        except ValueError:
            assert fails_at is not None
        return await store.get("c")

    cursor = anyio.run(main, backend="trio", backend_options={"clock": MockClock(autojump_threshold=0)})
    for numbers in by_key.values():
        assert not ordered or numbers == sorted(numbers)
    everything = range(1, len(durations) + 1)
    unfinished = [number for number in everything if number not in finished | passed_over]
    # Nothing finished is lost either: the cursor is right before the first unfinished one.
    expected = unfinished[0] - 1 if unfinished else len(durations)
    assert cursor == (str(expected) if expected else "")


@given(
    count=st.integers(1, 9),
    key=st.sampled_from(
        [by_event_id, by_event_type, by_foreign_id, lambda event: event.foreign_id.encode()[:1]]
    ),
    number=st.integers(1, 10**12),
    type=st.integers(-(2**31), 2**31 - 1),
    foreign_id=st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_each_event_is_in_exactly_one_shard(
    count: int, key: Callable[[Event], str], number: int, type: int, foreign_id: str
) -> None:
    event = Event(str(number), type, foreign_id, 0)
    assert sum(shard(event) for shard in shards("c", count, key=key)) == 1
