"""A standby without its primary at hand: gaps are passed when the primary's filler has filled them."""

import logging
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import StreamStopped, TableRefused
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql.events.table import EventsTable
from tests.fix_databases import Connect, Database
from tests.fix_standbys import Standby
from tests.gaps.test_fill_gaps import filling
from tests.reading import IN_RECOVERY, ran, reading

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres, pytest.mark.suite_server]

events = EventsTable("events", poll_period=0.05)


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """A connection that writes, to a database with the events table."""
    connection = await connect()
    await events.create(connection)
    return connection


@pytest_asyncio.fixture
async def standby_pool(
    writer: asyncpg.Connection, database: Database, replica: Standby
) -> AsyncIterator[asyncpg.Pool]:
    """A pool of the standby, which has replayed the making of the table."""
    await replica.catch_up()
    async with asyncpg.create_pool(replica.dsn_for(database.name), min_size=1, max_size=10) as pool:
        yield pool


async def insert(connection: asyncpg.Connection) -> int:
    return int(await events.insert(connection, 1, 1))


async def burn(connection: asyncpg.Connection) -> None:
    """Draw an id that is never there."""
    await connection.execute("BEGIN")
    await insert(connection)
    await connection.execute("ROLLBACK")


async def test_nothing_above_a_gap_is_delivered_until_the_primary_has_filled_it(
    pool: asyncpg.Pool,
    standby_pool: asyncpg.Pool,
    writer: asyncpg.Connection,
    connect: Connect,
    replica: Standby,
    database: Database,
) -> None:
    watcher = await connect(dsn=replica.dsn_for(database.name))
    async with reading(events.stream(standby_pool)) as stream:
        first = await insert(writer)
        await burn(writer)
        then = [await insert(writer) for _ in range(3)]
        await burn(writer)
        last = await insert(writer)
        assert await stream.reached(first) == [first]
        await replica.catch_up()
        await ran(watcher, IN_RECOVERY)
        assert stream.ids == [first]
        async with filling(pool, events):
            assert await stream.reached(last) == [first, *then, last]
            for _ in range(20):
                await burn(writer)
                last = await insert(writer)
            await stream.reached(last)
            assert len(stream.ids) == 25


async def test_an_event_in_flight_is_neither_filled_nor_overtaken(
    pool: asyncpg.Pool,
    standby_pool: asyncpg.Pool,
    writer: asyncpg.Connection,
    connect: Connect,
    replica: Standby,
    database: Database,
) -> None:
    holder, watcher = await connect(), await connect(dsn=replica.dsn_for(database.name))
    async with filling(pool, events), reading(events.stream(standby_pool)) as stream:
        await holder.execute("BEGIN")
        held = await insert(holder)
        last = await insert(writer)
        await replica.catch_up()
        await ran(watcher, IN_RECOVERY)
        assert stream.ids == []
        await holder.execute("COMMIT")
        assert await stream.reached(last) == [held, last]


async def test_opening_logs_that_gaps_are_not_resolved_on_a_standby(
    standby_pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "reflex_aio"):
        async with events.stream(standby_pool):
            pass
    assert "the stream will wait at each gap until fill_gaps(), running on the primary" in caplog.text


async def test_a_standby_takes_no_fence(standby_pool: asyncpg.Pool) -> None:
    with pytest.raises(TableRefused, match="a standby takes no noops"):
        async with events.stream(standby_pool, fill_gaps=True):
            pass
    with pytest.raises(TableRefused, match="a standby takes no noops"):
        await events.fill_gaps(standby_pool)


async def test_a_stream_that_waits_at_a_gap_is_stopped_when_its_standby_is_promoted(
    own_server: EmbeddedPostgres, standby: Standby
) -> None:
    writer = await asyncpg.connect(own_server.dsn)
    try:
        await events.create(writer)
        await burn(writer)
        last = await insert(writer)
        await standby.catch_up()
        async with (
            asyncpg.create_pool(standby.dsn, min_size=1, max_size=5) as pool,
            reading(events.stream(pool)) as stream,
        ):
            watcher = await asyncpg.connect(standby.dsn)
            await ran(watcher, IN_RECOVERY)
            await watcher.close()
            await standby.promote()
            error = await stream.failure()
            assert isinstance(error, StreamStopped)
            assert "promoted" in str(error)
            # As a primary it resolves its gaps, though the stopped stream is still open.
            async with reading(events.stream(pool)) as anew:
                assert await anew.reached(last) == [last]
    finally:
        await writer.close()
