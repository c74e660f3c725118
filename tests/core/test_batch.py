"""Batches: sequences of events that hold columns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_aio import Event, EventBatch
from reflex_aio.errors import StreamClosed
from reflex_aio.memory import MemoryEvents

_BYTES = st.none() | st.binary(max_size=2)
_EVENTS = st.lists(
    st.builds(
        Event, st.text(max_size=2), st.integers(-1, 2), st.sampled_from("0ab"), st.integers(), _BYTES, _BYTES
    ),
    max_size=5,
)


@given(_EVENTS)
def test_a_batch_is_the_sequence_of_its_events(events: list[Event]) -> None:
    batch = EventBatch.of(events)
    assert list(batch) == events
    assert len(batch) == len(events)
    assert bool(batch) == bool(events)
    assert [batch[i] for i in range(-len(events), len(events))] == events + events
    with pytest.raises(IndexError):
        batch[len(events)]


@given(_EVENTS, st.none() | st.integers(-6, 6), st.none() | st.integers(-6, 6))
def test_a_slice_of_a_batch_is_the_batch_of_the_slice(
    events: list[Event], start: int | None, stop: int | None
) -> None:
    part = EventBatch.of(events)[start:stop]
    assert isinstance(part, EventBatch)
    assert list(part) == events[start:stop]


@given(_EVENTS)
def test_a_batch_without_noops_has_the_others_in_order(events: list[Event]) -> None:
    kept = EventBatch.of(events).without_noops()
    assert list(kept) == [event for event in events if not event.is_noop]


def test_a_batch_of_a_batch_is_itself() -> None:
    batch = EventBatch.of([Event("1", 1, "7", 0)])
    assert EventBatch.of(batch) is batch
    assert batch.without_noops() is batch
    assert repr(batch) == "<1 events>"


@pytest.mark.anyio
async def test_batches_pages_and_single_events_of_a_stream_go_on_from_one_another() -> None:
    source = MemoryEvents()
    for number in range(1, 4):
        await source.insert(number, 1)
    async with source.stream(to_head=True) as stream:
        assert (await anext(stream)).id == "1"
        assert [event.id for event in await stream.read_batch()] == ["2", "3"]
        assert stream.cursor == "3"
        assert len(await stream.read_batch()) == 0
        assert await stream.read_page() == []
    with pytest.raises(StreamClosed):
        await stream.read_batch()
