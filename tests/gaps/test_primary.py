"""A standby whose gaps are resolved on the primary."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias

import asyncpg
import pytest
import pytest_asyncio
from asyncpg.pool import PoolConnectionProxy

from reflex_aio import StreamStopped, TableRefused
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql.events.table import EventsTable
from tests.fix_databases import Connect, Database
from tests.fix_standbys import Standby
from tests.reading import PAGE, REPLAYED, SCAN, ran, reading
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres, pytest.mark.suite_server]

# Polled, as notifications write WAL of their own.
events = EventsTable("events", wakeups=None, poll_period=0.05)


@pytest_asyncio.fixture
async def primary(pool: asyncpg.Pool) -> asyncpg.Pool:
    """A pool of the primary, where the events table has been made."""
    async with pool.acquire() as connection:
        await events.create(connection)
    return pool


@pytest_asyncio.fixture
async def standby_pool(
    database: Database, primary: asyncpg.Pool, replica: Standby
) -> AsyncIterator[asyncpg.Pool]:
    """A pool of the standby, which has replayed the making of the table."""
    await replica.catch_up()
    async with asyncpg.create_pool(replica.dsn_for(database.name), min_size=1, max_size=10) as pool:
        yield pool


Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy


async def insert(connection: Connection) -> int:
    return int(await events.insert(connection, 1, 1))


async def begin(connection: Connection) -> int:
    """Insert an event in a transaction that is left open."""
    await connection.execute("BEGIN")
    return await insert(connection)


async def test_a_gap_is_passed_when_its_holder_has_committed(
    primary: asyncpg.Pool, standby_pool: asyncpg.Pool, connect: Connect
) -> None:
    holder, writer, watcher = await connect(), await connect(), await connect()
    async with reading(events.stream(standby_pool, primary=primary)) as stream:
        held, last = await begin(holder), await insert(writer)
        await ran(watcher, SCAN)
        assert stream.ids == []
        await holder.execute("COMMIT")
        assert await stream.reached(last) == [held, last]


async def test_a_rolled_back_id_is_passed_without_further_writes(
    primary: asyncpg.Pool, standby_pool: asyncpg.Pool, connect: Connect
) -> None:
    holder, writer, watcher = await connect(), await connect(), await connect()
    async with reading(events.stream(standby_pool, primary=primary)) as stream:
        await begin(holder)
        last = await insert(writer)
        await ran(watcher, SCAN)
        assert stream.ids == []
        await holder.execute("ROLLBACK")
        assert await stream.reached(last) == [last]
        assert await writer.fetchval("SELECT count(*) FROM events") == 1


async def test_a_commit_that_is_not_replayed_yet_is_waited_for(
    primary: asyncpg.Pool, standby_pool: asyncpg.Pool, replica: Standby, connect: Connect, database: Database
) -> None:
    holder, writer = await connect(), await connect()
    watcher = await connect(dsn=replica.dsn_for(database.name))
    async with reading(events.stream(standby_pool, primary=primary)) as stream:
        held, last = await begin(holder), await insert(writer)
        await replica.catch_up()
        await replica.pause_replay()
        # The lock is gone on the primary, and the row isn't there on the standby.
        await holder.execute("COMMIT")
        await ran(watcher, REPLAYED, times=20)
        assert stream.ids == []
        await replica.resume_replay()
        assert await stream.reached(last) == [held, last]


async def test_replay_may_pause_for_longer_than_a_query_may_take(
    primary: asyncpg.Pool, standby_pool: asyncpg.Pool, replica: Standby, connect: Connect, database: Database
) -> None:
    holder, writer = await connect(), await connect()
    watcher = await connect(dsn=replica.dsn_for(database.name))
    impatient = events.replace(query_timeout=0.6)
    async with reading(impatient.stream(standby_pool, primary=primary)) as stream:
        held, last = await begin(holder), await insert(writer)
        await replica.catch_up()
        await replica.pause_replay()
        await holder.execute("COMMIT")
        await ran(watcher, REPLAYED, times=200)
        assert not stream.task.done(), stream.task
        await replica.resume_replay()
        assert await stream.reached(last) == [held, last]


async def test_a_holder_is_waited_for_across_a_pause_of_replay(
    primary: asyncpg.Pool, standby_pool: asyncpg.Pool, replica: Standby, connect: Connect
) -> None:
    holder, writer, watcher = await connect(), await connect(), await connect()
    async with reading(events.stream(standby_pool, primary=primary)) as stream:
        held, first = await begin(holder), await insert(writer)
        await ran(watcher, SCAN)
        await replica.pause_replay()
        last = await insert(writer)
        await ran(watcher, SCAN)
        await replica.resume_replay()
        await replica.catch_up()
        await ran(watcher, SCAN)
        assert stream.ids == []
        await holder.execute("COMMIT")
        assert await stream.reached(last) == [held, first, last]


async def test_a_stream_keeps_up_while_replay_always_lags_behind_new_gaps(
    primary: asyncpg.Pool, standby_pool: asyncpg.Pool, replica: Standby, connect: Connect
) -> None:
    writer = await connect()
    last = 0

    async def write() -> None:
        nonlocal last
        while True:
            await begin(writer)
            await writer.execute("ROLLBACK")
            last = await insert(writer)

    async with reading(events.stream(standby_pool, primary=primary)) as stream:
        writing = asyncio.create_task(write())
        try:
            for _ in range(5):
                # What is resolved now lies always further on than what has been replayed.
                await replica.pause_replay()
                written = last
                await eventually(lambda written=written: last > written + 20, "written on")  # type: ignore[misc]
                await replica.resume_replay()
                await stream.reached(written)
        finally:
            writing.cancel()
            await asyncio.wait([writing])
        await writer.execute("ROLLBACK") if writer.is_in_transaction() else None
        rows = await primary.fetch("SELECT id FROM events ORDER BY id")
        assert await stream.reached(rows[-1][0]) == [row[0] for row in rows]


async def fill_wal_page(connection: asyncpg.Connection) -> bool:
    """Write until the end of a page of WAL; return whether the server wrote nothing of its own in between."""

    async def position() -> int:
        return int(await connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'"))

    async def write(size: int) -> int:
        before = await position()
        await connection.execute(f"SELECT pg_logical_emit_message(false, '', repeat('x', {size}))")
        return await position() - before

    # Two records, each in one page, show the overhead of a message.
    await write(8192 - await position() % 8192)
    beside = await write(400) - 400
    await write(-await position() % 8192 - beside)
    return await position() % 8192 == 24


async def switch_wal_segment(connection: asyncpg.Connection) -> bool:
    """Begin a new segment of WAL; return whether the server has written nothing of its own to it."""
    await connection.execute("SELECT pg_switch_wal()")
    position: int = await connection.fetchval("SELECT ((pg_current_wal_insert_lsn() - '0/0') % 8192)::int")
    return position == 40


@pytest.mark.parametrize("write", [fill_wal_page, switch_wal_segment])
async def test_a_gap_is_passed_when_the_wal_ends_with_a_page(
    write: Callable[[asyncpg.Connection], Awaitable[bool]],
    primary: asyncpg.Pool,
    standby_pool: asyncpg.Pool,
    connect: Connect,
) -> None:
    writer = await connect()
    await begin(writer)
    await writer.execute("ROLLBACK")
    last = await insert(writer)
    # Reading writes too, the first time: hint bits.
    await writer.execute("CHECKPOINT")
    async with reading(events.stream(primary)) as stream:
        await stream.reached(last)
    position = "SELECT pg_current_wal_insert_lsn()"
    for _ in range(10):
        if not await write(writer):
            continue
        before = await writer.fetchval(position)
        async with reading(events.stream(standby_pool, primary=primary)) as stream:
            assert await stream.reached(last, within=5.0) == [last]
        if await writer.fetchval(position) == before:
            return
    raise AssertionError("something was written each time, so that nothing is proved")


async def test_streams_at_many_positions_pass_the_same_gaps(
    primary: asyncpg.Pool, standby_pool: asyncpg.Pool, replica: Standby, connect: Connect
) -> None:
    holder, writer, watcher = await connect(), await connect(), await connect()
    first = [await insert(writer) for _ in range(5)]
    held = await begin(holder)
    then = [await insert(writer) for _ in range(5)]
    # What it has replayed decides on the head that a stream ends at.
    await replica.catch_up()
    source = events.source(standby_pool, primary=primary)
    async with (
        reading(source.stream()) as a,
        reading(source.stream(str(first[2]))) as b,
        reading(source.stream(str(first[-1]))) as c,
        reading(source.stream(to_head=True)) as d,
        reading(source.stream(lag=0.01)) as e,
    ):
        await ran(watcher, SCAN, times=10)
        assert (c.ids, d.task.done()) == ([], False)
        await holder.execute("COMMIT")
        every = [*first, held, *then]
        for stream, expected in ((a, every), (b, every[3:]), (c, every[5:]), (d, every), (e, every)):
            assert await stream.reached(every[-1]) == expected


async def test_a_notification_of_the_primary_is_not_forgotten_until_the_event_is_replayed(
    primary: asyncpg.Pool, standby_pool: asyncpg.Pool, replica: Standby, connect: Connect, database: Database
) -> None:
    seldom = events.replace(wakeups="commit", poll_period=60.0)
    writer, watcher = await connect(), await connect(dsn=replica.dsn_for(database.name))
    async with reading(seldom.stream(standby_pool, primary=primary)) as stream:
        await stream.reached(int(await seldom.insert(writer, 1, 1)))
        await replica.pause_replay()
        last = int(await seldom.insert(writer, 1, 1))
        await ran(watcher, PAGE, times=1)
        await replica.resume_replay()
        assert await stream.reached(last) == [1, last]


async def test_settling_on_a_standby_is_refused(primary: asyncpg.Pool, standby_pool: asyncpg.Pool) -> None:
    with pytest.raises(TableRefused, match="the server is a standby"):
        async with events.stream(standby_pool, primary=standby_pool):
            pass


async def test_settling_elsewhere_than_where_the_rows_are_is_for_standbys_alone(
    primary: asyncpg.Pool,
) -> None:
    with pytest.raises(TableRefused, match="does not connect to a standby"):
        async with events.stream(primary, primary=primary):
            pass


async def test_a_standby_promoted_under_a_stream_is_an_error(
    own_server: EmbeddedPostgres, standby: Standby
) -> None:
    async with (
        asyncpg.create_pool(own_server.dsn, min_size=1, max_size=5) as primary,
        asyncpg.create_pool(standby.dsn, min_size=1, max_size=5) as standby_pool,
        primary.acquire() as writer,
        primary.acquire() as holder,
        asyncpg.create_pool(own_server.dsn, min_size=1, max_size=1) as watchers,
        watchers.acquire() as watcher,
    ):
        await events.create(writer)
        await standby.catch_up()
        async with reading(events.stream(standby_pool, primary=primary)) as stream:
            held, last = await begin(holder), await insert(writer)
            await ran(watcher, SCAN)
            await standby.promote()
            await holder.execute("COMMIT")
            error = await stream.failure()
            assert isinstance(error, StreamStopped)
            assert "promoted" in str(error)
            assert stream.ids == []
            assert held < last
        with pytest.raises(TableRefused, match="does not connect to a standby"):
            async with events.stream(standby_pool, primary=primary):
                pass
