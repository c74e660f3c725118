"""The filler of gaps, for those who stream from standbys."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import ConnectionLost
from reflex_aio.hooks import Hooks
from reflex_aio.sql.events.table import EventsTable
from tests.fix_databases import Connect, Database
from tests.fix_proxy import Proxy
from tests.reading import SCAN, ran, reading
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

events = EventsTable("events", poll_period=0.05)

MISSING = """
SELECT i FROM generate_series((SELECT min(id) FROM events), (SELECT max(id) FROM events)) AS i
WHERE NOT EXISTS (SELECT FROM events WHERE id = i)
"""


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """A connection that writes, to a database with the events table."""
    connection = await connect()
    await events.create(connection)
    return connection


@asynccontextmanager
async def filling(pool: asyncpg.Pool, table: EventsTable) -> AsyncIterator[asyncio.Task[None]]:
    """Fill the table's gaps in the background."""
    task = asyncio.create_task(table.fill_gaps(pool))
    yield task
    if task.done():
        task.result()
    task.cancel()
    await asyncio.wait([task])


async def insert(connection: asyncpg.Connection) -> int:
    return int(await events.insert(connection, 1, 1))


async def burn(connection: asyncpg.Connection) -> None:
    """Draw an id that is never there."""
    await connection.execute("BEGIN")
    await insert(connection)
    await connection.execute("ROLLBACK")


async def filled(connection: asyncpg.Connection, *, within: float = 10.0) -> None:
    """Wait until no id is missing between the first and the last."""

    async def none_missing() -> bool:
        return not await connection.fetch(MISSING)

    await eventually(none_missing, "all gaps filled", within=within)


async def test_noops_are_hidden_from_streams_unless_requested(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    first = await insert(writer)
    await burn(writer)
    last = await insert(writer)
    async with filling(pool, events):
        await filled(writer)
    # Also of the tail, which the two don't share.
    shown = events.replace(include_noops=True)
    async with (
        reading(events.stream(pool)) as without,
        reading(shown.stream(pool)) as with_noops,
    ):
        assert await without.reached(last) == [first, last]
        assert await with_noops.reached(last) == [first, first + 1, last]
        assert [event.is_noop for event in with_noops.events] == [False, True, False]


async def test_an_id_in_flight_is_not_filled(
    pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder, watcher = await connect(), await connect()
    async with filling(pool, events):
        await holder.execute("BEGIN")
        held = await insert(holder)
        await insert(writer)
        await ran(watcher, SCAN)
        await holder.execute("COMMIT")
        await filled(writer)
        assert await writer.fetchval("SELECT type FROM events WHERE id = $1", held) == 1


async def test_two_fillers_do_not_get_into_each_others_way(
    pool: asyncpg.Pool, writer: asyncpg.Connection, database: Database
) -> None:
    async with (
        asyncpg.create_pool(database.dsn, min_size=1, max_size=5) as other,
        filling(pool, events) as one,
        filling(other, events) as two,
    ):
        for _ in range(100):
            await burn(writer)
            await burn(writer)
            await insert(writer)
        await filled(writer)
        assert not one.done()
        assert not two.done()
    assert await writer.fetchval("SELECT count(*) FROM events WHERE type = 1") == 100
    assert await writer.fetchval("SELECT count(*) FROM events") == 300


async def test_a_thousand_rollbacks_a_second_are_kept_up_with(
    pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    taken = 0

    class Seen(Hooks):
        def gap_filled(self, table: str, noops: int) -> None:
            nonlocal taken
            taken += noops

    # One statement, as many transactions: ROLLBACK in a procedure begins a new one.
    await writer.execute(
        """
        CREATE PROCEDURE roll_back(times int) LANGUAGE plpgsql AS $$
        BEGIN
            FOR i IN 1..times LOOP
                INSERT INTO events (foreign_id, type) VALUES ('1', 1);
                ROLLBACK;
                IF i % 10 = 0 THEN
                    INSERT INTO events (foreign_id, type) VALUES ('1', 1);
                    COMMIT;
                END IF;
            END LOOP;
        END $$
        """
    )
    clock = asyncio.get_running_loop().time
    async with filling(pool, events.replace(hooks=Seen())):
        began = clock()
        await writer.execute("CALL roll_back(3000)")
        seconds = clock() - began
        # It has as long again, however fast that was; and at least as long as a thousand a second take.
        await filled(await connect(), within=max(seconds, 3.0))
    assert taken == 3000


async def test_a_filler_ends_with_an_error_when_the_server_is_lost_and_can_begin_again(
    pool: asyncpg.Pool, writer: asyncpg.Connection, proxy: Proxy
) -> None:
    async with asyncpg.create_pool(proxy.dsn, min_size=0, max_size=5) as through_proxy:
        first = await insert(writer)
        task = asyncio.create_task(events.fill_gaps(through_proxy, str(first)))
        await burn(writer)
        await insert(writer)
        await filled(writer)
        await proxy.stop()
        with pytest.raises(ConnectionLost):
            await task
        await proxy.start()
        await burn(writer)
        last = await insert(writer)
        async with filling(through_proxy, events):
            await filled(writer)
        async with reading(events.stream(pool)) as stream:
            assert await stream.reached(last) == [1, 3, 5]
