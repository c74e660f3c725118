"""Ids that never become visible: the stream passes them, with no write of its own and nothing to wait for."""

import asyncio

import asyncpg
import pytest

from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.gaps.interleaving import INSERT, Points, begin, burn, insert, reading, waits
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

BURNING = {
    "rollback": "BEGIN; {insert}; ROLLBACK",
    "savepoint": "BEGIN; SAVEPOINT s; {insert}; ROLLBACK TO s; {insert}; COMMIT",
    "exception block": "DO $$ BEGIN {insert}; RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END $$",
    "conflict": "{insert}; INSERT INTO events (foreign_id, type) VALUES ('once', 9) ON CONFLICT DO NOTHING",
}


@pytest.mark.parametrize("way", BURNING)
async def test_burnt_ids_are_passed(
    way: str, events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute("CREATE UNIQUE INDEX ON events (foreign_id) WHERE type = 9")
    await writer.execute("INSERT INTO events (foreign_id, type) VALUES ('once', 9)")
    burning = BURNING[way].replace("{insert}", "INSERT INTO events (foreign_id, type) VALUES ('1', 1)")
    async with reading(events.stream(readers)) as reader:
        for _ in range(3):
            await insert(writer)
            await writer.execute(burning)
        await insert(writer)
        await reader.delivers_all(writer)
    assert await writer.fetchval("SELECT max(id) > count(*) FROM events")


async def test_a_failing_deferred_trigger_leaves_a_gap_that_is_passed(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE check_violation; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.type = 13) EXECUTE FUNCTION refuse()
        """
    )
    async with reading(events.stream(readers)) as reader:
        await insert(writer)
        with pytest.raises(asyncpg.CheckViolationError):
            await writer.execute("INSERT INTO events (foreign_id, type) VALUES ('1', 13)")
        await insert(writer)
        await reader.delivers_all(writer)


async def test_the_gap_of_a_terminated_backend_is_passed(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        assert reader.ids == []
        await writer.execute("SELECT pg_terminate_backend($1)", holder.get_server_pid())
        await reader.delivers_all(writer)


async def test_the_gap_of_a_client_that_vanished_is_passed(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        assert reader.ids == []
        holder.terminate()
        await reader.delivers_all(writer)


async def test_a_dead_gap_is_passed_behind_writers_that_always_hold_some_lock(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    async with reading(events.stream(readers)) as reader:
        await insert(writer)
        await burn(writer)
        above = await insert(writer)
        relay = [await begin(connect), await begin(connect)]
        await insert(relay[0])
        # From here on there is always a transaction that holds the lock, and never the same one for long.
        while not reader.ids or reader.ids[-1] < above:
            await insert(relay[1])
            await points.more("scan", 1)
            await relay[0].execute("COMMIT")
            await relay[0].execute("BEGIN")
            relay.reverse()
            assert len(reader.ids) < 1000
        for connection in relay:
            await connection.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_a_dead_gap_is_passed_though_a_later_transaction_stays_open(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    async with reading(events.stream(readers)) as reader:
        await insert(writer)
        await reader.reached(1)
        await burn(writer)
        above = await insert(writer)
        await reader.reached(above)
        holder = await begin(connect)
        await insert(holder)
        await burn(writer)
        await insert(writer)
        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_a_pruned_beginning_is_passed(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    for _ in range(20):
        await insert(writer)
    await writer.execute("DELETE FROM events WHERE id <= 15 OR id = 17")
    async with reading(events.stream(readers)) as reader:
        await reader.delivers_all(writer)
        assert reader.ids == [16, 18, 19, 20]


async def test_a_stream_keeps_up_with_rollbacks_and_writes_nothing(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    burner = await connect()
    done = asyncio.Event()

    async def roll_back() -> int:
        count = 0
        while not done.is_set():
            # A hundred rollbacks in one round trip: a thousand a second is more than one client has trips for.
            await burner.execute(
                "BEGIN; INSERT INTO events (foreign_id, type) VALUES ('x', 1); ROLLBACK;" * 100
            )
            count += 100
        return count

    async with reading(events.stream(readers)) as reader:
        burning = asyncio.create_task(roll_back())
        for _ in range(100):
            await reader.reached(await insert(writer))
        done.set()
        assert await burning > 1000
        await reader.delivers_all(writer)
    assert await writer.fetchval("SELECT count(*) FROM events") == 100


async def test_many_gaps_cost_few_scans(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection
) -> None:
    for _ in range(300):
        await burn(writer)
        await insert(writer)
    async with reading(events.replace(page_size=20).stream(readers)) as reader:
        await reader.delivers_all(writer)
        # By page or by gap it would be 15 or 300; in a slow run some are made for the sake of later gaps.
        assert points.done["scan"] < 10


async def test_a_waiting_writer_is_no_reason_to_wait(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    """A writer that has not drawn an id yet holds nothing up."""
    await writer.execute("CREATE TABLE users (id int PRIMARY KEY)")
    await writer.execute("INSERT INTO users VALUES (1)")
    locker, waiter = await begin(connect), await begin(connect)
    await locker.execute("SELECT FROM users WHERE id = 1 FOR UPDATE")
    waiting = asyncio.create_task(waiter.execute("SELECT FROM users WHERE id = 1 FOR UPDATE"))
    await waits(writer, waiter)
    async with reading(events.stream(readers)) as reader:
        await burn(writer)
        await insert(writer)
        await reader.delivers_all(writer)
    await locker.execute("COMMIT")
    await waiting
    assert await waiter.fetchval(INSERT, "1")
    await waiter.execute("COMMIT")
    await eventually(lambda: not waiter.is_in_transaction())
