"""Tables with a codec: inserts encode and check values, consumers decode them, also from a remote source."""

from typing import Any

import msgspec
import pytest

from reflex_aio import Event, Spec, run
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.metadata import JsonCodec, MessagePackCodec, MetadataCodec
from reflex_aio.patterns import DeadLetterConsumer
from reflex_aio.sql import ErrorsTable, EventsTable
from tests.fix_backends import Backend

pytestmark = [pytest.mark.asyncio, pytest.mark.one_library]


class Order(msgspec.Struct):
    number: int


CODECS = [JsonCodec(Order), MessagePackCodec(Order)]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
async def test_inserted_values_are_decoded_by_the_consumer(
    backend: Backend, backend_pool: Any, codec: MetadataCodec[Order]
) -> None:
    orders = EventsTable("orders", metadata=codec)
    connection = await backend.connect()
    await orders.create(connection)
    await orders.insert(connection, 1, 1, metadata=Order(1))
    await orders.insert_many(connection, [(2, 1, Order(2)), (3, 1, None), (4, 1), (5, 1, Order(5), None)])
    async with orders.stream(backend_pool, to_head=True) as stream:
        events = [event async for event in stream]
    assert [event.metadata and codec.decode(event).number for event in events] == [1, 2, None, None, 5]
    # What another object of the table reads are bytes.
    assert orders.replace(metadata=True).has_metadata
    assert events[0].metadata == codec.encode(Order(1))


async def test_a_value_of_another_type_is_refused_and_nothing_is_inserted(backend: Backend) -> None:
    orders = EventsTable("orders", metadata=JsonCodec(Order))
    connection = await backend.connect()
    await orders.create(connection)
    for value in (b'{"number": 1}', {"number": "1"}, 7):
        with pytest.raises(TypeError, match=r"would not decode again|not supported"):
            await orders.insert(connection, 1, 1, metadata=value)
    with pytest.raises(TypeError) as raised:
        await orders.insert_many(connection, [(1, 1, Order(1)), (2, 1, 7)])
    assert "event 1 of the argument" in raised.value.__notes__[0]
    assert (await orders.extent(connection)).newest == ""


async def test_metadata_that_cannot_be_decoded_becomes_a_dead_letter(
    backend: Backend, backend_pool: Any
) -> None:
    codec, errors = JsonCodec(Order), ErrorsTable("errors")
    orders = EventsTable("orders", metadata=codec)
    connection = await backend.connect()
    await orders.create(connection)
    await errors.create(connection)
    await orders.insert(connection, 1, 1, metadata=Order(1))
    await orders.replace(metadata=True).insert(connection, 2, 1, metadata=b"{}")
    await orders.insert(connection, 3, 1, metadata=Order(3))
    numbers: list[int] = []

    async def handle(event: Event) -> None:
        numbers.append(codec.decode(event).number)

    consumer = DeadLetterConsumer("orders", handle, errors.recorder(backend_pool), retries=0)
    await run(Spec(orders.source(backend_pool), MemoryCursorStore(), consumer, to_head=True))
    assert numbers == [1, 3]
    [error] = await errors.find(connection)
    assert "metadata of event 2 could not be decoded" in error.message
