"""What other transactions do is no reason to wait: they stay open until the stream has passed a gap."""

import asyncio

import asyncpg
import pytest

from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect, Database
from tests.gaps.interleaving import begin, burn, insert, reading

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
        # And one that opens a gap while it goes on, under a stream that has settled gaps before.
        await burn(writer)
        await insert(writer)
        await reader.delivers_all(writer)
    assert unrelated.is_in_transaction()
    await unrelated.execute("ROLLBACK")


async def test_a_writer_in_another_database_stalls_nothing(
    events: EventsTable,
    readers: asyncpg.Pool,
    writer: asyncpg.Connection,
    database: Database,
    connect: Connect,
) -> None:
    # Even of a sequence with the same oid: locks are told apart by their database.
    other = await begin(connect, dsn=database.server.dsn)
    await other.execute("CREATE TEMPORARY TABLE others (id bigserial, x int)")
    await other.execute("INSERT INTO others (x) VALUES (1)")
    await burn(writer)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await reader.delivers_all(writer)
    await other.execute("ROLLBACK")


async def test_a_long_statement_that_writes_events_holds_up_only_what_it_may_own(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    """A gap from before a writer's first id is passed while that writer goes on."""
    async with reading(events.stream(readers)) as reader:
        await insert(writer)
        await burn(writer)
        above = await insert(writer)
        await reader.reached(above)
        long = await begin(connect)
        last = await insert(long)
        await asyncio.sleep(0)
        assert last > above
        assert reader.ids[-1] == above
        await long.execute("COMMIT")
        await reader.delivers_all(writer)
