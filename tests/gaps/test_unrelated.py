"""What other transactions do is no reason to wait: they stay open until the stream has passed a gap."""

import asyncpg
import pytest

from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect, Database
from tests.gaps.interleaving import Points, begin, burn, insert, reading, watched_pool

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

UNRELATED = {
    "a writer": ["CREATE TABLE others (id int)", "INSERT INTO others VALUES (1)"],
    "a reader": ["SELECT count(*) FROM events"],
    "a repeatable reader": ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM events"],
    "a deletion of events": ["DELETE FROM events WHERE id < 3"],
    "an update of events": ["UPDATE events SET type = 2 WHERE id < 3"],
    "a lock on events": ["LOCK TABLE events IN ROW EXCLUSIVE MODE"],
    "a reader of the sequence": ["SELECT last_value FROM events_id_seq"],
    "a writer of another events table": [
        "CREATE TABLE more_events (LIKE events INCLUDING ALL)",
        "INSERT INTO more_events (foreign_id, type) VALUES ('1', 1)",
    ],
}


@pytest.mark.parametrize("who", UNRELATED)
async def test_an_unrelated_transaction_stalls_nothing(
    who: str, events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    for _ in range(3):
        await insert(writer)
    unrelated = await begin(connect)
    for statement in UNRELATED[who]:
        await unrelated.execute(statement)
    await burn(writer)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await reader.delivers_all(writer)
        # And one that opens a gap while it goes on, under a stream that has resolved gaps before.
        await burn(writer)
        await insert(writer)
        await reader.delivers_all(writer)
    assert unrelated.is_in_transaction()
    await unrelated.execute("ROLLBACK")


async def test_a_writer_of_the_same_sequence_in_a_copy_of_the_database_stalls_nothing(
    events: EventsTable, writer: asyncpg.Connection, database: Database, connect: Connect
) -> None:
    # Oids are copied too: the two sequences differ in nothing but their database.
    copied = f"{database.name[:60]}_2"
    await writer.close()
    admin = await connect(dsn=database.server.dsn)
    await admin.execute(f'CREATE DATABASE "{copied}" TEMPLATE "{database.name}"')
    try:
        other, writer = await begin(connect, dsn=database.server.dsn_for(copied)), await connect()
        await insert(other)
        async with watched_pool(database.dsn) as (pool, _), reading(events.stream(pool)) as reader:
            await burn(writer)
            await insert(writer)
            await reader.delivers_all(writer)
        assert other.is_in_transaction()
    finally:
        await admin.execute(f'DROP DATABASE "{copied}" WITH (FORCE)')


async def test_a_gap_from_before_a_writer_began_is_passed_while_that_writer_goes_on(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    await insert(writer)
    await burn(writer)
    above = await insert(writer)
    async with reading(events.stream(readers)) as first:
        await first.reached(above)
        await points.more("scan", 1)
        long = await begin(connect)
        await insert(long)
        async with reading(events.stream(readers)) as second:
            await second.reached(above)
        await long.execute("COMMIT")
        await first.delivers_all(writer)
