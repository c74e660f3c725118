"""A partitioned events table: inserts through the root and straight into a leaf draw from one sequence."""

import asyncpg
import pytest

from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.gaps.interleaving import Points, begin, insert, reading

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

PARTITIONED = """
CREATE TABLE events (
    id bigserial PRIMARY KEY, type integer NOT NULL, timestamp timestamptz NOT NULL DEFAULT now(),
    foreign_id text NOT NULL
) PARTITION BY RANGE (id);
CREATE TABLE events_0 PARTITION OF events FOR VALUES FROM (MINVALUE) TO (5);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (5) TO (MAXVALUE);
"""
INTO_LEAF = "INSERT INTO events_0 (foreign_id, type) VALUES ($1, 1) RETURNING id"


@pytest.fixture
def table() -> EventsTable:
    return EventsTable("events", wakeups=None, poll_period=0.05)


async def test_events_of_all_partitions_are_delivered_in_order(
    table: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute(PARTITIONED)
    async with reading(table.stream(readers)) as reader:
        for _ in range(10):
            await insert(writer)
        await reader.delivers_all(writer)


@pytest.mark.parametrize("into", ["root", "leaf"])
async def test_an_id_in_flight_in_a_partition_is_waited_for(
    into: str,
    table: EventsTable,
    readers: asyncpg.Pool,
    points: Points,
    writer: asyncpg.Connection,
    connect: Connect,
) -> None:
    await writer.execute(PARTITIONED)
    await insert(writer)
    holder = await begin(connect)
    if into == "leaf":
        await holder.fetchval(INTO_LEAF, "1")
    else:
        await insert(holder)
    for _ in range(6):
        await insert(writer)
    async with reading(table.stream(readers)) as reader:
        await points.more("scan")
        assert reader.ids == [1]

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_a_partition_attached_under_a_stream_is_read(
    table: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute(PARTITIONED.replace("TO (MAXVALUE)", "TO (8)"))
    async with reading(table.stream(readers)) as reader:
        for _ in range(7):
            await insert(writer)
        await reader.delivers_all(writer)
        await writer.execute("CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (8) TO (MAXVALUE)")
        for _ in range(3):
            await insert(writer)
        await reader.delivers_all(writer)


async def test_inheritance_children_are_waited_for(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    await writer.execute("CREATE TABLE child () INHERITS (events)")
    await writer.execute("ALTER TABLE child ALTER id SET DEFAULT nextval('events_id_seq')")
    holder = await begin(connect)
    await holder.execute("INSERT INTO child (foreign_id, type) VALUES ('1', 1)")
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        assert reader.ids == []

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)
