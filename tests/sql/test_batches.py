"""Reading a table's events as columns, on every database."""

from typing import Any

import pytest

from reflex_aio import Event, EventBatch, EventStream
from reflex_aio.sql import EventsTable
from tests.fix_backends import Backend

pytestmark = pytest.mark.asyncio

events = EventsTable("batch_events", metadata=True, trace=True, page_size=10)


async def batches(stream: EventStream) -> list[Event]:
    """All events of a stream, to its end, read batch by batch."""
    found: list[Event] = []
    async with stream:
        while batch := await stream.read_batch():
            assert isinstance(batch, EventBatch)
            assert stream.cursor == batch.ids[-1] == list(batch)[-1].id
            found += batch
    return found


async def single(stream: EventStream) -> list[Event]:
    async with stream:
        return [event async for event in stream]


@pytest.mark.parametrize("include_noops", [False, True])
@pytest.mark.parametrize("with_bytes", [False, True])
async def test_batches_contain_the_events_that_are_delivered_one_by_one(
    backend: Backend, backend_pool: Any, include_noops: bool, with_bytes: bool
) -> None:
    table = events.replace(include_noops=include_noops)
    connection = await backend.connect()
    await table.create(connection)
    for start in range(0, 36, 12):
        await table.insert_many(
            connection,
            [(i, i % 3 + 1, b"m" if with_bytes and i % 2 else None, None) for i in range(start, start + 12)],
        )
        # What fills a gap.
        quoted = {name: backend.quoted(name) for name in ("type", "foreign_id", "timestamp")}
        await backend.fetch(
            connection,
            f"INSERT INTO batch_events ({', '.join(quoted.values())}) VALUES (0, '0', now())",
        )
    source = table.source(backend_pool)
    one_by_one = await single(source.stream(to_head=True))
    assert len(one_by_one) == 36 + 3 * include_noops
    assert await batches(source.stream(to_head=True)) == one_by_one
    assert await batches(source.stream(one_by_one[4].id, to_head=True)) == one_by_one[5:]


async def test_batches_come_from_the_tail_too(backend: Backend, backend_pool: Any) -> None:
    connection = await backend.connect()
    await events.create(connection)
    async with events.stream(backend_pool, from_head=True) as stream:
        for number in range(3):
            event_id = await events.insert(connection, number, 1, metadata=b"m")
            await events.wake(connection)
            batch = await stream.read_batch()
            assert (list(batch.ids), list(batch.foreign_ids)) == ([event_id], [str(number)])
            assert list(batch.metadata or ()) == [b"m"]
            assert list(batch.traces or [None]) == [None]
        await events.insert(connection, 3, 1)
        await events.wake(connection)
        # After batches, events may be read one by one.
        assert (await anext(stream)).foreign_id == "3"


async def test_the_users_loader_is_called_for_batches_too(backend: Backend, backend_pool: Any) -> None:
    async def load(connection: Any, loaded: Any) -> Any:
        return [event for event in loaded if event.type == 2]

    connection = await backend.connect()
    await events.create(connection)
    await events.insert_many(connection, [(i, i % 2 + 1) for i in range(25)])
    found = await batches(events.replace(loader=load).source(backend_pool).stream(to_head=True))
    assert [event.foreign_id for event in found] == [str(i) for i in range(1, 25, 2)]
