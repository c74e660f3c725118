"""Locks on the ids that are missing: they hold up what is behind them, for as long as they last."""

from typing import Any

import pytest

from reflex_aio.sql import EventsTable
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import MysqlPoints, Writer, delivers_all

pytestmark = pytest.mark.asyncio


async def test_gap_locks_of_an_unrelated_read_hold_up_a_gap_until_they_are_released(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    await writer.insert()
    await writer.burn(3)
    above = await writer.insert()
    reader_of_ranges = await new_writer(begin=True)
    await reader_of_ranges.run(f"SELECT * FROM events WHERE id BETWEEN 1 AND {above} FOR UPDATE")
    async with reading(events.stream(readers)) as reader:
        # The noops wait for the lock, and for no longer than a second at a time.
        await points.more("look", 4)
        assert reader.ids == [1]
        await reader_of_ranges.run("COMMIT")
        await delivers_all(reader, writer)


async def test_a_locked_id_does_not_hold_back_those_below_it(
    events: EventsTable, readers: Any, writer: Writer, new_writer: Any
) -> None:
    await writer.insert()
    await writer.burn(4)
    await writer.insert()
    await writer.burn(4)
    above = await writer.insert()
    locker = await new_writer(begin=True)
    await locker.run(f"SELECT * FROM events WHERE id BETWEEN {above - 2} AND {above} FOR UPDATE")
    async with reading(events.stream(readers)) as reader:
        await reader.reached(6)
        assert reader.ids == [1, 6]
        await locker.run("COMMIT")
        await delivers_all(reader, writer)


async def test_a_table_locked_against_writing_holds_up_its_gaps_alone(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    await writer.insert()
    await writer.burn()
    await writer.insert()
    locker = await new_writer()
    await locker.run("LOCK TABLES events READ")
    async with reading(events.stream(readers)) as reader:
        await points.more("look", 3)
        assert reader.ids == [1]
        await locker.run("UNLOCK TABLES")
        await delivers_all(reader, writer)


async def test_locks_time_out_as_before_on_the_connections_that_filled_gaps(
    events: EventsTable, mariadb: Any, writer: Writer
) -> None:
    await writer.burn()
    last = await writer.insert()
    query = "SELECT CONNECTION_ID(), @@innodb_lock_wait_timeout, @@lock_wait_timeout"
    async with mariadb.pool(1) as pool:
        async with pool.acquire() as connection:
            await mariadb.fetch(
                connection, "SET SESSION innodb_lock_wait_timeout = 77, SESSION lock_wait_timeout = 88"
            )
            before = (await mariadb.fetch(connection, query))[0]
        # To its end: a statement under way when a stream is closed would cost the connection.
        async with events.stream(pool, to_head=True) as stream:
            assert [event.id async for event in stream][-1] == str(last)
        async with pool.acquire() as connection:
            assert (await mariadb.fetch(connection, query))[0] == before
            assert before[1:] == (77, 88)
