"""Shards share a stream as those of the original do."""

from typing import Any

import pytest

from reflex_aio import Consumer, Event, Spec, run
from reflex_aio.errors import FilterError
from reflex_aio.filters import all_of
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.patterns import (
    AckConsumer,
    AckEvent,
    by_event_id,
    by_event_type,
    by_foreign_id,
    shards,
)
from reflex_aio.patterns.parallel import shard_of
from tests.core.sources import event
from tests.patterns.making import Handling, some


@pytest.mark.parametrize(("key", "value"), [(b"", 0x811C9DC5), (b"a", 0x050C5D7E), (b"foobar", 0x31F0B262)])
def test_hash_is_that_of_go(key: bytes, value: int) -> None:
    assert shard_of(key, 2**32) == value


def test_names_and_assignment_are_the_originals() -> None:
    made = shards("base", 4)
    assert [shard.name for shard in made] == ["base_1_of_4", "base_2_of_4", "base_3_of_4", "base_4_of_4"]
    assigned = [{number for number in range(1, 13) if shard(event(number))} for shard in made]
    assert assigned == [{3, 7, 12}, {2, 6}, {1, 5, 9, 10}, {4, 8, 11}]


def test_names_may_be_made_in_another_way() -> None:
    made = shards("c", 2, format_name=lambda name, number, count: f"{name}/{number}/{count}")
    assert [shard.name for shard in made] == ["c/1/2", "c/2/2"]


def test_keys_are_what_they_are_called() -> None:
    one = Event("12", 7, "row-3", 0)
    assert (by_event_id(one), by_event_type(one), by_foreign_id(one)) == ("12", "7", "row-3")


def test_strings_and_their_bytes_are_the_same_key() -> None:
    for number in range(50):
        text, raw = (shards("c", 3, key=key)[0] for key in (by_foreign_id, lambda e: e.foreign_id.encode()))
        assert text(event(number)) == raw(event(number))


def test_key_that_is_neither_is_a_filter_error() -> None:
    key: Any = len
    shard = shards("c", 2, key=lambda event: key("x"))[0]
    with pytest.raises(FilterError) as caught:
        Consumer("c", Handling().one, filter=shard).wants(event(1))
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.anyio
async def test_consumers_of_shards_consume_everything_once() -> None:
    source, store, handling = await some(12), MemoryCursorStore(), Handling()
    for shard in shards("base", 4):
        await run(Spec(source, store, Consumer(shard.name, handling.one, filter=shard), to_head=True))
    assert handling.finished == [3, 7, 12, 2, 6, 1, 5, 9, 10, 4, 8, 11]
    assert await store.all() == {f"base_{number}_of_4": "12" for number in range(1, 5)}


@pytest.mark.anyio
async def test_shards_are_of_any_kind_and_have_options_and_filters_of_their_own() -> None:
    source, store, acked = await some(12), MemoryCursorStore(), []

    async def ack(event: AckEvent) -> None:
        acked.append(int(event.event.id))
        await event.ack()

    consumers = [
        AckConsumer(
            shard.name,
            ack,
            filter=all_of(shard, lambda event: int(event.id) > 5),
            lag_alert=60.0 * (shard.index + 1),
        )
        for shard in shards("base", 4)
    ]
    for consumer in consumers:
        await run(Spec(source, store, consumer, to_head=True))
    assert acked == [7, 12, 6, 9, 10, 8, 11]
    assert [consumer.lag_alert for consumer in consumers] == [60.0, 120.0, 180.0, 240.0]
