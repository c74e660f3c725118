"""Ids that never become visible: the stream passes them, with no write of its own and nothing to wait for."""

import asyncio
import time

import asyncpg
import pytest

from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.gaps.interleaving import Points, Reader, begin, burn, insert, reading, waits
from tests.waiting import deadline, eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

INSERT = "INSERT INTO events (foreign_id, type) VALUES ('1', 1)"
BURNING = {
    "rollback": f"BEGIN; {INSERT}; ROLLBACK",
    "savepoint": f"BEGIN; {INSERT}; SAVEPOINT s; {INSERT}; ROLLBACK TO s; {INSERT}; COMMIT",
    "exception block": f"DO $$ BEGIN {INSERT}; RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END $$",
    "conflict": "INSERT INTO events (foreign_id, type) VALUES ('once', 9) ON CONFLICT DO NOTHING",
}


@pytest.mark.parametrize("way", BURNING)
async def test_burnt_ids_are_passed(
    way: str, events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute("CREATE UNIQUE INDEX ON events (foreign_id) WHERE type = 9")
    await writer.execute("INSERT INTO events (foreign_id, type) VALUES ('once', 9)")
    async with reading(events.stream(readers)) as reader:
        for _ in range(3):
            await insert(writer)
            await writer.execute(BURNING[way])
        await insert(writer)
        await reader.delivers_all(writer)
    assert await writer.fetchval("SELECT max(id) > count(*) FROM events")


async def test_the_ids_of_a_transaction_refused_at_commit_are_passed(
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
        last = await insert(writer)
        await reader.delivers_all(writer)
        assert reader.ids == [1, last]


async def test_ids_of_a_savepoint_that_was_rolled_back_stay_behind_those_in_flight_of_the_same_transaction(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await holder.execute("SAVEPOINT s")
    await insert(holder)
    await holder.execute("ROLLBACK TO s")
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        # Only the holder knows whether it has rolled back its id.
        assert reader.ids == []
        await insert(holder)
        await insert(writer)
        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_a_pruned_beginning_is_passed(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    for _ in range(20):
        await insert(writer)
    await writer.execute("DELETE FROM events WHERE id <= 15 OR id = 17")
    for after in ("", "0", "7"):
        async with reading(events.stream(readers, after)) as reader:
            await reader.delivers_all(writer)
            assert reader.ids == [16, 18, 19, 20]


async def test_a_stream_to_the_head_ends_though_its_newest_events_are_deleted_meanwhile(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection
) -> None:
    for _ in range(5):
        await insert(writer)
    stream = events.stream(readers, to_head=True)
    async with points.held_after("head") as head:
        opening = asyncio.create_task(stream.__aenter__())
        await head.reached()
        await writer.execute("DELETE FROM events WHERE id > 3")
    await opening
    async with reading(stream) as reader:
        async with asyncio.timeout(deadline(10.0)):
            await asyncio.wait([reader.task])
        assert reader.ids == [1, 2, 3]


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


async def test_a_stream_keeps_up_with_a_thousand_rollbacks_a_second(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    burner = await connect()
    done = asyncio.Event()

    async def roll_back() -> float:
        burnt, began = 0, time.perf_counter()
        while not done.is_set():
            # Many in one round trip: one client alone would not get to a thousand a second.
            await burner.execute(f"{BURNING['rollback']};" * 100)
            burnt += 100
        return burnt / (time.perf_counter() - began)

    async with reading(events.stream(readers)) as reader:
        burning = asyncio.create_task(roll_back())
        for _ in range(40):
            await reader.reached(await insert(writer))
        done.set()
        assert await burning > 1000
        await reader.delivers_all(writer)
    assert await writer.fetchval("SELECT count(*) FROM events") == 40


async def test_a_dead_gap_is_passed_behind_writers_that_always_hold_some_lock(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    relay = [await begin(connect), await begin(connect)]
    await insert(relay[0])
    await burn(writer)
    above = await insert(writer)
    async with reading(events.stream(readers)) as reader:
        # From here on there is always a transaction that holds the lock, and never the same one for long.
        for _ in range(5):
            await scanned_or_read(above, points, reader)
            await insert(relay[1])
            await relay[0].execute("COMMIT; BEGIN")
            relay.reverse()
        await reader.reached(above)
        assert relay[0].is_in_transaction()
        await relay[0].execute("COMMIT")
        await reader.delivers_all(writer)


async def scanned_or_read(event_id: int, points: Points, reader: Reader) -> None:
    enough = points.done["scan"] + 2
    await eventually(lambda: reader.ids[-1:] >= [event_id] or points.done["scan"] >= enough)


async def test_a_writer_that_has_drawn_no_id_yet_stalls_nothing(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
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
