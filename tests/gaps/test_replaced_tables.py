"""Tables that are truncated, restarted or made anew under a stream, and cursors that lie beyond a table."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import CursorAhead, TableRefused, TableReplaced
from reflex_aio.errors import TableNotFound
from reflex_aio.sql.events.table import EventsTable
from tests.fix_databases import Connect, Database
from tests.gaps.interleaving import waits
from tests.reading import SCAN, Reading, ran, reading
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

events = EventsTable("events", poll_period=0.05)

REPLACED = {
    "truncated": "TRUNCATE {table} RESTART IDENTITY",
    "restarted": "ALTER TABLE {table} ALTER id RESTART",
    "made anew": "DROP TABLE {table}; CREATE TABLE {table} (LIKE model INCLUDING ALL)",
    "another in its place": "ALTER TABLE {table} RENAME TO old; CREATE TABLE {table} (LIKE model INCLUDING ALL)",
}
each_replacement = pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """A connection that writes, to a database with the events table and ten events in it."""
    connection = await connect()
    await events.create(connection)
    await events.replace(name="model").create(connection)
    await events.insert_many(connection, [(1, 1)] * 10)
    return connection


async def insert(connection: asyncpg.Connection) -> int:
    return int(await events.insert(connection, 1, 1))


@asynccontextmanager
async def at_the_head(pool: asyncpg.Pool, table: EventsTable = events) -> AsyncIterator[list[Reading]]:
    """Read, in the background, a stream at the tail and one that reads for itself, which have read all there is."""
    async with reading(table.stream(pool)) as tail, reading(table.stream(pool, lag=0.01)) as own_pages:
        streams = [tail, own_pages]
        for stream in streams:
            await stream.reached(10)
        yield streams


async def all_replaced(streams: list[Reading]) -> None:
    """Wait until each stream has ended with the error."""
    for stream in streams:
        error = await stream.failure()
        assert isinstance(error, TableReplaced), error


async def test_a_table_replaced_under_an_idle_stream_is_an_error(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with AsyncExitStack() as stack:
        streams = {}
        for number, replace in enumerate(REPLACED.values()):
            table = events.replace(name=f"events_{number}")
            await table.create(writer)
            await table.insert_many(writer, [(1, 1)] * 10)
            streams[replace.format(table=table.name)] = await stack.enter_async_context(
                at_the_head(pool, table)
            )
        await writer.execute("; ".join(streams))
        for of_one in streams.values():
            await all_replaced(of_one)


@each_replacement
async def test_a_table_replaced_while_events_flow_is_an_error(
    replace: str, pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with at_the_head(pool) as streams:
        for _ in range(20):
            await insert(writer)
        await writer.execute(replace.format(table="events"))
        while not all(stream.task.done() for stream in streams):
            # Restarted without being truncated, it takes a while to come to ids that are free.
            with suppress(asyncpg.UniqueViolationError):
                await insert(writer)
            await asyncio.sleep(0)
        await all_replaced(streams)


@each_replacement
async def test_a_table_replaced_and_grown_past_the_cursor_is_an_error(
    replace: str, pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with at_the_head(pool) as streams:
        grow = "INSERT INTO events (foreign_id, type) SELECT i, 1 FROM generate_series(1, 50) i"
        replace = replace.format(table="events")
        await writer.execute(f"BEGIN; {replace}; DELETE FROM events; {grow}; COMMIT")
        await all_replaced(streams)


@each_replacement
async def test_a_table_replaced_under_a_stream_that_waits_at_a_gap_is_an_error(
    replace: str, pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder, watcher = await connect(), await connect()
    async with at_the_head(pool) as streams:
        await holder.execute("BEGIN")
        await insert(holder)
        await insert(writer)
        await ran(watcher, SCAN)
        replacing = asyncio.create_task(writer.execute(replace.format(table="events")))
        await waits(watcher, writer)
        await holder.execute("ROLLBACK")
        await replacing
        await all_replaced(streams)


async def test_a_stream_of_a_replaced_table_fails_again_and_a_new_one_reads_the_new_table(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with events.stream(pool) as old, events.stream(pool) as other:
        for stream in (old, other):
            assert len(await stream.read_page()) == 10
        await writer.execute("TRUNCATE events RESTART IDENTITY")
        await insert(writer)
        for stream in (old, other, old, other):
            with pytest.raises(TableReplaced):
                await stream.read_page()
            # From now on there are ids that would follow on what it has read.
            await events.insert_many(writer, [(1, 1)] * 10)
        # While the old ones are still open.
        async with reading(events.stream(pool)) as new:
            last = await insert(writer)
            assert await new.reached(last) == list(range(1, last + 1))


async def test_a_table_dropped_under_a_stream_is_an_error(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with at_the_head(pool) as streams:
        await writer.execute("DROP TABLE events")
        for stream in streams:
            assert isinstance(await stream.failure(), (TableNotFound, TableReplaced))


async def test_a_truncated_table_that_goes_on_with_its_ids_is_no_error(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with at_the_head(pool) as streams:
        await writer.execute("TRUNCATE events")
        await ran(writer, SCAN, times=1)
        last = await insert(writer)
        for stream in streams:
            await stream.reached(last)


# Filled by another writer.


@pytest.mark.suite_server
async def test_a_table_that_logical_replication_fills_is_refused(
    pool: asyncpg.Pool, writer: asyncpg.Connection, database: Database, connect: Connect
) -> None:
    name = database.name
    source = f"{name[:50]}_source"
    await writer.execute(f'CREATE DATABASE "{source}"')
    publisher = await connect(dsn=database.server.dsn_for(source))
    await publisher.execute(events.ddl())
    await publisher.execute("CREATE PUBLICATION events FOR TABLE events")
    await publisher.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    host = await writer.fetchval("SHOW unix_socket_directories")
    port = await writer.fetchval("SHOW port")
    try:
        await writer.execute(
            f"CREATE SUBSCRIPTION \"{name}\" CONNECTION 'host={host} port={port} user=postgres dbname={source}'"
            f" PUBLICATION events WITH (create_slot = false, slot_name = '{name}', copy_data = false)"
        )
        with pytest.raises(TableRefused, match="logical replication"):
            async with events.stream(pool):
                pass
    finally:
        await writer.execute(f'DROP SUBSCRIPTION IF EXISTS "{name}"')
        await publisher.close()
        await writer.execute(f'DROP DATABASE "{source}" WITH (FORCE)')


# The newest rows deleted.


async def test_deleting_the_newest_rows_is_no_error(
    pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    async with at_the_head(pool) as streams:
        await writer.execute("DELETE FROM events WHERE id > 5")
        # Looked at, and found to be in order, more than once.
        await ran(await connect(), "SELECT last_value", times=0)
        last = await insert(writer)
        for stream in streams:
            assert (await stream.reached(last))[-2:] == [10, last]


async def test_a_cursor_at_a_deleted_row_is_no_error(pool: asyncpg.Pool, writer: asyncpg.Connection) -> None:
    await writer.execute("DELETE FROM events")
    async with reading(events.stream(pool, "10")) as stream:
        last = await insert(writer)
        assert await stream.reached(last) == [last]


async def test_a_stream_to_a_head_that_is_deleted_ends(
    pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await connect()
    await holder.execute("BEGIN")
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(pool, to_head=True)) as stream:
        await stream.reached(10)
        await ran(await connect(), SCAN)
        await writer.execute("DELETE FROM events WHERE id > 10")
        await ran(await connect(), SCAN)
        assert not stream.task.done()
        await holder.execute("COMMIT")
        await eventually(stream.task.done, "the stream ended")
        assert stream.ids == list(range(1, 12))
    for after in ("", "8"):
        async with events.stream(pool, after, to_head=True) as stream_to_head:
            await writer.execute("DELETE FROM events")
            assert [event async for event in stream_to_head] == []


# Cursors that the table has never reached.


@pytest.mark.parametrize("options", [{}, {"to_head": True}, {"lag": 1.0}])
async def test_a_cursor_beyond_all_ids_ever_given_out_is_refused(
    options: dict[str, Any], pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with events.stream(pool, "10", **options):
        pass
    with pytest.raises(CursorAhead) as caught:
        async with events.stream(pool, "11", **options):
            pass
    assert (caught.value.cursor, caught.value.last) == ("11", "10")
    await writer.execute("TRUNCATE events RESTART IDENTITY")
    with pytest.raises(CursorAhead) as caught:
        async with events.stream(pool, "1", **options):
            pass
    assert caught.value.last == ""
    # Whatever the cursor, it isn't used.
    async with events.stream(pool, "11", from_head=True):
        pass


async def test_without_the_privilege_to_read_the_sequence_a_cursor_ahead_is_accepted(
    pool: asyncpg.Pool, writer: asyncpg.Connection, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    reader = f"reader_{database.name}"
    await writer.execute(f"CREATE ROLE {reader} LOGIN; GRANT SELECT ON events TO {reader}")
    try:
        async with asyncpg.create_pool(database.dsn, user=reader, min_size=0, max_size=5) as readers:
            with caplog.at_level(logging.WARNING, "reflex_aio"):
                async with reading(events.stream(readers, "11")) as stream:
                    await insert(writer)
                    last = await insert(writer)
                    assert await stream.reached(last) == [last]
            assert "can't check whether a cursor is ahead" in caplog.text
            await writer.execute(f"GRANT SELECT ON SEQUENCE events_id_seq TO {reader}")
            with pytest.raises(CursorAhead):
                async with events.stream(readers, "13"):
                    pass
    finally:
        await writer.execute(f"DROP OWNED BY {reader}; DROP ROLE {reader}")
