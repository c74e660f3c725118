"""Ids that statements burn, reserve in bulk, or insert one by one: none of the events is missed, nothing stalls."""

import asyncio
from typing import Any

import pytest

from reflex_aio.sql import EventsTable
from tests.fix_backends import MYSQL, MysqlBackend
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import MysqlPoints, Writer, delivers_all, finished, holding

pytestmark = pytest.mark.asyncio

BURNING = {
    "insert ignore": "INSERT IGNORE INTO events (foreign_id, type) VALUES ('taken', 1), ('{n}', 1)",
    "insert ignore nothing": "INSERT IGNORE INTO events (foreign_id, type) VALUES ('taken', 1)",
    "on duplicate key": "INSERT INTO events (foreign_id, type) VALUES ('taken', 1), ('{n}', 1), ('taken', 2)"
    " ON DUPLICATE KEY UPDATE type = type",
    "insert select": "INSERT IGNORE INTO events (foreign_id, type)"
    " SELECT IF(MOD(seq, 3) = 0, 'taken', CONCAT('{n}', '-', seq)), 1 FROM seq_1_to_10",
    "replace": "REPLACE INTO events (foreign_id, type) VALUES ('replaced', 1)",
}

LATE = "INSERT INTO events (id, foreign_id, type) VALUES (2, 'held', 1)"


@pytest.mark.parametrize("library", [*MYSQL], indirect=True)
@pytest.mark.parametrize("burning", [*BURNING])
async def test_ids_that_a_statement_burns_are_passed(
    burning: str, library: str, mariadb: MysqlBackend, writer: Writer, readers: Any
) -> None:
    events = EventsTable("events", wakeups=None, poll_period=0.05)
    await events.create(writer.connection)
    async with reading(events.stream(readers)) as reader:
        await writer.insert("0")
        # Not unique for all: a noop's foreign id is there as often as there are noops.
        await writer.run(
            "ALTER TABLE events ADD COLUMN once varchar(255) AS (NULLIF(foreign_id, '0')) STORED UNIQUE"
        )
        await writer.insert("taken")
        for n in range(1, 20):
            await writer.run(BURNING[burning].format(n=n))
        last = await writer.insert("last")
        # Those that REPLACE has deleted in time may have been delivered, or not.
        await reader.reached(last)
        rows = await writer.run("SELECT id FROM events WHERE type <> 0 ORDER BY id")
        assert {row[0] for row in rows} <= set(reader.ids)
        assert reader.ids == sorted(set(reader.ids))


async def test_savepoints_rolled_back_are_passed(
    events: EventsTable, readers: Any, writer: Writer, new_writer: Any
) -> None:
    holder = await new_writer(begin=True)
    async with reading(events.stream(readers)) as reader:
        for _ in range(5):
            await holder.run("SAVEPOINT s")
            await holder.insert()
            await holder.run("ROLLBACK TO s")
            await holder.insert()
            await writer.insert()
        await holder.run("COMMIT")
        await delivers_all(reader, writer)


async def test_a_writer_who_takes_long_to_insert_its_id_is_refused_rather_than_missed(
    events: EventsTable, readers: Any, mariadb: MysqlBackend, writer: Writer, new_writer: Any
) -> None:
    # An id drawn earlier is to the server what one is that was drawn a moment ago, and not inserted yet.
    await writer.insert()
    await writer.burn()
    late = await new_writer()
    async with holding(mariadb) as hold, reading(events.stream(readers)) as reader:
        inserting = asyncio.create_task(late.run(LATE))
        await hold.reached()
        above = await writer.insert()
        # There is no row: it is unknown.
        await reader.reached(above)
        await hold.let_go()
        error = await finished(inserting)
        assert error is not None
        assert "Duplicate entry" in str(error)
        await late.insert("once more")
        await delivers_all(reader, writer)


async def test_rows_of_one_insert_that_come_one_by_one_are_waited_for(
    events: EventsTable,
    readers: Any,
    points: MysqlPoints,
    mariadb: MysqlBackend,
    writer: Writer,
    new_writer: Any,
) -> None:
    slow = await new_writer()
    async with holding(mariadb) as hold, reading(events.stream(readers)) as reader:
        await writer.insert()
        statement = "INSERT INTO events (foreign_id, type) VALUES ('1', 1), ('1', 1), ('held', 1), ('1', 1)"
        inserting = asyncio.create_task(slow.run(statement))
        await hold.reached()
        await writer.insert()
        # Two rows are to be peeked at, and two not.
        await points.more("peek", 5)
        assert reader.ids == [1]
        await hold.let_go()
        assert await finished(inserting) is None
        await delivers_all(reader, writer)


async def test_an_insert_that_reserves_ids_in_bulk_is_never_overtaken(
    events: EventsTable,
    readers: Any,
    points: MysqlPoints,
    mariadb: MysqlBackend,
    writer: Writer,
    new_writer: Any,
    lock_mode: int,
) -> None:
    bulk = await new_writer()
    async with holding(mariadb) as hold, reading(events.stream(readers)) as reader:
        await writer.insert()
        statement = (
            "INSERT INTO events (foreign_id, type) SELECT IF(seq = 5, 'held', '1'), 1 FROM seq_1_to_20"
        )
        inserting = asyncio.create_task(bulk.run(statement))
        await hold.reached()
        # Where ids of one INSERT ... SELECT are kept together, this one has to wait for it.
        other = asyncio.create_task((await new_writer()).insert())
        if lock_mode == 2:
            assert await finished(other) is None
        await points.more("peek" if lock_mode == 2 else "page")
        assert reader.ids == [1]
        await hold.let_go()
        assert await finished(inserting) is None
        assert await finished(other) is None
        await writer.insert()
        await delivers_all(reader, writer)


async def test_a_row_committed_between_the_two_reads_of_a_round_is_not_taken_for_missing(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    await writer.insert()
    await writer.burn()
    last = await new_writer(begin=True)
    await last.insert()
    await writer.insert()
    async with points.held_after("ids") as peeked, reading(events.stream(readers)) as reader:
        await peeked.reached()
        # The peek has seen it in flight; the next read sees it committed.
        await last.run("COMMIT")
        peeked.let_go()
        await delivers_all(reader, writer)


async def test_a_row_inserted_after_the_peek_is_waited_for(
    events: EventsTable,
    readers: Any,
    points: MysqlPoints,
    mariadb: MysqlBackend,
    writer: Writer,
    new_writer: Any,
) -> None:
    await writer.insert()
    await writer.burn()
    late = await new_writer(begin=True)
    async with holding(mariadb) as hold, points.held_after("ids") as peeked:
        inserting = asyncio.create_task(late.run(LATE))
        await hold.reached()
        await writer.insert()
        async with reading(events.stream(readers)) as reader:
            await peeked.reached()
            # It was not inserted at the time of the dirty read; now it is in flight, and the noop has to wait.
            await hold.let_go()
            assert await finished(inserting) is None
            peeked.let_go()
            await points.more("look", 2)
            assert reader.ids == [1]
            await late.run("COMMIT")
            await delivers_all(reader, writer)
            assert reader.ids == [1, 2, 3]
