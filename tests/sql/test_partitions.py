"""Partitions by ranges of ids: made in time, dropped when everybody has consumed them, unnoticed by streams."""

import asyncio
import logging
from typing import Any

import asyncpg
import pytest

from reflex_aio import TableRefused
from reflex_aio.errors import TableNotFound
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.sql import EventsTable, Retention
from reflex_aio.sql.retention.prune import Pruned
from tests.fix_backends import MysqlBackend
from tests.fix_databases import Connect
from tests.reading import reading

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

events = EventsTable("events", poll_period=0.05)
partitions = events.partitions(10)


async def made(connection: Any, pool: asyncpg.Pool, *, ahead: int = 3) -> None:
    """Make the table with its first partitions."""
    await connection.execute(partitions.ddl())
    await partitions.extend(pool, ahead=ahead)


async def names(connection: Any) -> list[str]:
    rows = await connection.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass AND NOT inhdetachpending"
    )
    return sorted((row[0] for row in rows), key=lambda name: int(name.rpartition("_")[2]))


async def tables(connection: Any) -> set[str]:
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relname LIKE 'events_from_%' AND relkind = 'r'"
    )
    return {row[0] for row in rows}


def consumed(cursor: str) -> Retention:
    return Retention(older_than=0, cursors=MemoryCursorStore({"mail": cursor}))


# The table.


async def test_the_table_is_what_is_expected_and_is_streamed(pool: asyncpg.Pool, connect: Connect) -> None:
    connection = await connect()
    await made(connection, pool)
    await events.validate(connection)
    async with reading(events.stream(pool)) as reader:
        await events.insert_many(connection, [(1, 1)] * 25)
        assert await reader.reached(25) == list(range(1, 26))
    assert await connection.fetchval("SELECT count(*) FROM events_from_10") == 10


async def test_partitions_are_made_ahead_of_the_ids(pool: asyncpg.Pool, connect: Connect) -> None:
    connection = await connect()
    await made(connection, pool)
    assert await names(connection) == ["events_from_0", "events_from_10", "events_from_20", "events_from_30"]
    assert await partitions.room(pool) == 39
    assert await partitions.extend(pool, ahead=3) == []
    await events.insert_many(connection, [(1, 1)] * 15)
    assert await partitions.extend(pool, ahead=3) == ['public."events_from_40"']
    assert await partitions.room(pool) == 34


async def test_the_first_partition_takes_the_ids_of_before(pool: asyncpg.Pool, connect: Connect) -> None:
    connection = await connect()
    await connection.execute(partitions.ddl())
    await connection.execute("SELECT setval('events_id_seq', 1003)")
    await partitions.extend(pool, ahead=1)
    assert await names(connection) == ["events_from_0", "events_from_1010"]
    assert await events.insert(connection, 1, 1) == "1004"


async def test_several_services_may_extend_at_once(pool: asyncpg.Pool, connect: Connect) -> None:
    connection = await connect()
    await connection.execute(partitions.ddl())
    made = await asyncio.gather(*(partitions.extend(pool) for _ in range(5)))
    assert sorted(len(each) for each in made) == [0, 0, 0, 0, 3]


async def test_partitions_are_made_while_writers_are_in_transactions(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    connection, writer = await connect(), await connect()
    await made(connection, pool, ahead=1)
    async with writer.transaction():
        await events.insert(writer, 1, 1)
        assert len(await partitions.extend(pool, ahead=3)) == 2
        await events.insert(writer, 1, 1)
    assert await connection.fetchval("SELECT count(*) FROM events") == 2


async def test_little_room_is_logged(
    pool: asyncpg.Pool, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await connect()
    await made(connection, pool, ahead=1)
    assert not caplog.records
    await events.insert_many(connection, [(1, 1)] * 15)
    with caplog.at_level(logging.WARNING):
        await partitions.extend(pool)
    assert "events: there is room for 4 more events" in caplog.text


async def test_an_insert_without_a_partition_fails_and_streams_pass_its_id(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    connection = await connect()
    await made(connection, pool, ahead=1)
    await events.insert_many(connection, [(1, 1)] * 19)
    with pytest.raises(asyncpg.CheckViolationError, match="no partition"):
        await events.insert(connection, 1, 1)
    assert await partitions.room(pool) == 0
    async with reading(events.stream(pool, "18")) as reader:
        await reader.reached(19)
        await partitions.extend(pool)
        await events.insert(connection, 1, 1)
        assert await reader.reached(21) == [19, 21]


# Dropping.


async def test_partitions_go_that_everybody_has_consumed(pool: asyncpg.Pool, connect: Connect) -> None:
    connection = await connect()
    await made(connection, pool, ahead=6)
    await events.insert_many(connection, [(1, 1)] * 45)
    reported: list[Pruned] = []
    assert (await partitions.prune(pool, consumed("29"), dry_run=True)).partitions == (
        "public.events_from_0",
        "public.events_from_10",
    )
    assert len(await tables(connection)) == 7
    dropped = await partitions.prune(pool, consumed("29"), progress=reported.append)
    assert dropped.partitions == ("public.events_from_0", "public.events_from_10")
    assert (dropped.kept.end, dropped.kept.limit, dropped.kept.consumer) == ("29", "consumer", "mail")
    assert await connection.fetchval("SELECT min(id) FROM events") == 20
    assert await tables(connection) == {f"events_from_{first}" for first in (20, 30, 40, 50, 60)}
    assert reported
    dropped = await partitions.prune(pool, consumed("30"))
    assert dropped.partitions == ("public.events_from_20",)


async def test_the_partition_of_the_newest_event_stays(pool: asyncpg.Pool, connect: Connect) -> None:
    connection = await connect()
    await made(connection, pool)
    await events.insert_many(connection, [(1, 1)] * 19)
    dropped = await partitions.prune(pool, Retention(before="1000", force=True))
    assert dropped.partitions == ("public.events_from_0",)
    assert await events.insert(connection, 1, 1) == "20"


async def test_an_empty_table_keeps_its_partitions(pool: asyncpg.Pool, connect: Connect) -> None:
    connection = await connect()
    await made(connection, pool)
    assert (await partitions.prune(pool, Retention(before="1000", force=True))).partitions == ()


async def test_streams_and_writers_go_on_while_partitions_come_and_go(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    connection = await connect()
    await made(connection, pool)
    store = MemoryCursorStore({"mail": "0"})
    dropped = 0
    async with reading(events.stream(pool)) as reader:
        for _ in range(12):
            await partitions.extend(pool)
            async with connection.transaction():
                await events.insert_many(connection, [(1, 1)] * 5)
            with_gap = connection.transaction()
            await with_gap.start()
            await events.insert(connection, 1, 1)
            await with_gap.rollback()
            ids = await events.insert_many(connection, [(1, 1)] * 3)
            await reader.reached(int(ids[-1]))
            await store.set("mail", ids[-1])
            outcome = await partitions.prune(pool, Retention(older_than=0, cursors=store))
            dropped += len(outcome.partitions)
        rolled_back = set(range(6, 109, 9))
        assert reader.ids == sorted(set(range(1, 109)) - rolled_back)
        # One that was busy, with a stream's query say, goes the next time.
        while outcome.busy:
            outcome = await partitions.prune(pool, Retention(older_than=0, cursors=store))
            dropped += len(outcome.partitions)
    assert dropped == 10


async def test_a_partition_in_use_is_busy_and_goes_the_next_time(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    connection, reader = await connect(), await connect()
    await made(connection, pool)
    await events.insert_many(connection, [(1, 1)] * 35)
    async with reader.transaction():
        await reader.execute("SELECT FROM events")
        dropped = await partitions.prune(pool, consumed("35"))
        assert (dropped.partitions, dropped.busy) == ((), ("public.events_from_0",))
        # It is waited for, and blocks no other transaction.
        await events.insert(connection, 1, 1)
        assert await names(connection) == ["events_from_10", "events_from_20", "events_from_30"]
    dropped = await partitions.prune(pool, consumed("35"))
    assert dropped.partitions == ("public.events_from_0", "public.events_from_10", "public.events_from_20")
    assert await tables(connection) == {"events_from_30"}


async def test_what_was_detached_to_be_dropped_goes_the_next_time_and_nothing_else(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    connection = await connect()
    await made(connection, pool)
    await events.insert_many(connection, [(1, 1)] * 35)
    oid = await connection.fetchval("SELECT 'events'::regclass::oid::int8")
    await connection.execute(f"COMMENT ON TABLE events_from_0 IS 'reflex_aio: to be dropped {oid}'")
    for name in ("events_from_0", "events_from_10"):
        await connection.execute(f"ALTER TABLE events DETACH PARTITION {name} CONCURRENTLY")
    dropped = await partitions.prune(pool, consumed("20"))
    assert dropped.partitions == ("public.events_from_0",)
    # A partition that was detached by hand is kept.
    assert await tables(connection) == {"events_from_10", "events_from_20", "events_from_30"}


async def test_rows_of_a_partitioned_table_may_be_pruned_too(pool: asyncpg.Pool, connect: Connect) -> None:
    connection = await connect()
    await made(connection, pool)
    await events.insert_many(connection, [(1, 1)] * 35)
    assert (await events.prune(pool, consumed("25"))).events == 24
    assert await connection.fetchval("SELECT min(id) FROM events") == 25


# What is wrong.


async def test_a_table_that_is_not_partitioned_by_its_id_is_refused(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    connection = await connect()
    with pytest.raises(TableNotFound):
        await partitions.room(pool)
    await events.create(connection)
    for method in (partitions.extend(pool), partitions.prune(pool, consumed("1")), partitions.room(pool)):
        with pytest.raises(TableRefused, match="isn't partitioned by ranges of id"):
            await method


async def test_a_default_partition_is_refused(pool: asyncpg.Pool, connect: Connect) -> None:
    connection = await connect()
    await made(connection, pool)
    await connection.execute("CREATE TABLE other PARTITION OF events DEFAULT")
    with pytest.raises(TableRefused, match=r"public\.other is a default partition"):
        await partitions.extend(pool)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), ("10", TypeError), (True, TypeError)])
async def test_a_size_that_is_none_is_refused(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="size"):
        events.partitions(size)


async def test_no_partition_ahead_is_refused(pool: asyncpg.Pool) -> None:
    with pytest.raises(ValueError, match="ahead 0 is out of range"):
        await partitions.extend(pool, ahead=0)


async def test_on_another_database_it_is_refused(mysql: MysqlBackend, backend_pool: Any) -> None:
    with pytest.raises(TypeError, match="accepted is a pool that connects to PostgreSQL"):
        await partitions.extend(backend_pool)
