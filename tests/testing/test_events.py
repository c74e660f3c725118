"""Which events a block inserts."""

import asyncpg
import pytest

from reflex_aio.memory import MemoryEvents
from reflex_aio.sql import EventsTable
from reflex_aio.testing import assert_events, inserted_events, read_events
from tests.core.sources import ids


@pytest.mark.anyio
async def test_the_events_of_a_block_are_those_inserted_in_it() -> None:
    events = MemoryEvents()
    await events.insert(1, 1)
    async with inserted_events(events) as inserted:
        await events.insert(2, 1)
        await events.insert("x", 2)
    await events.insert(4, 1)
    assert ids(inserted) == [2, 3]
    assert_events(inserted, (2, 1), ("x", 2))
    async with inserted_events(events) as none:
        pass
    assert_events(none)


@pytest.mark.anyio
async def test_what_a_block_raises_passes_through() -> None:
    with pytest.raises(RuntimeError, match="mine"):
        async with inserted_events(MemoryEvents()):
            raise RuntimeError("mine")


@pytest.mark.asyncio
async def test_events_of_a_table_that_were_rolled_back_are_not_among_them(pool: asyncpg.Pool) -> None:
    table = EventsTable("user_events")
    source = table.source(pool)
    async with pool.acquire() as connection:
        await table.create(connection)
        async with inserted_events(source) as inserted:
            await table.insert(connection, 1, 1)
            transaction = connection.transaction()
            await transaction.start()
            await table.insert(connection, 2, 1)
            await transaction.rollback()
            await table.insert(connection, 3, 1)
    assert_events(inserted, (1, 1), (3, 1))
    assert ids(await read_events(source, "1")) == [3]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ([(1, 1), (2, 2)], r"event 2 .*: expected \('2', 2\), got \('2', 1\)"),
        ([(1, 1)], r"event 2 .*: expected None, got \('2', 1\)"),
        ([(1, 1), (2, 1), (3, 1)], r"event 3 .*: expected \('3', 1\), got None"),
    ],
)
async def test_events_that_differ_are_told(expected: list[tuple[int, int]], told: str) -> None:
    events = MemoryEvents()
    for number in (1, 2):
        await events.insert(number, 1)
    with pytest.raises(AssertionError, match=told):
        assert_events(await read_events(events), *expected)
