"""A table whose ids begin anew, under a stream or before it is opened: an error, never silence."""

import re
from typing import Any

import pytest

from reflex_aio import CursorAhead, TableReplaced
from reflex_aio.sql import EventsTable
from tests.fix_backends import MYSQL
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import Writer, delivers_all

pytestmark = pytest.mark.asyncio

ANEW = {
    "truncate": ["TRUNCATE TABLE events"],
    "delete": ["DELETE FROM events", "ALTER TABLE events AUTO_INCREMENT = 1"],
    "replace": ["CREATE OR REPLACE TABLE events LIKE spare"],
}


@pytest.mark.parametrize("library", [*MYSQL], indirect=True)
@pytest.mark.parametrize("anew", [*ANEW])
async def test_a_table_that_begins_anew_under_a_stream_ends_it(
    anew: str, events: EventsTable, readers: Any, writer: Writer
) -> None:
    await writer.run("CREATE TABLE spare LIKE events")
    for _ in range(50):
        await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await delivers_all(reader, writer)
        for statement in ANEW[anew]:
            await writer.run(statement)
        await writer.insert()
        error = await reader.failure()
        assert isinstance(error, TableReplaced)
        # It is looked before the event is there, or after.
        assert re.search("its AUTO_INCREMENT has gone back to [12], below event 50", str(error))
    # Those who come later find the table as it is now.
    with pytest.raises(CursorAhead, match="cursor 50 is ahead of the table, whose last id is 1"):
        await events.stream(readers, "50").__aenter__()
    async with reading(events.stream(readers)) as reader:
        await delivers_all(reader, writer)


async def test_a_table_that_begins_anew_behind_a_gap_is_not_filled_to_where_it_was(
    events: EventsTable, readers: Any, writer: Writer, new_writer: Any, points: Any
) -> None:
    for _ in range(50):
        await writer.insert()
    holder = await new_writer(begin=True)
    await holder.insert()
    last = await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await points.more("peek")
        await holder.run("ROLLBACK")
        await writer.run("TRUNCATE TABLE events")
        error = await reader.failure()
        assert isinstance(error, TableReplaced)
    assert await writer.insert() < last


async def test_the_newest_rows_may_be_deleted(events: EventsTable, readers: Any, writer: Writer) -> None:
    for _ in range(10):
        await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await delivers_all(reader, writer)
        await writer.run("DELETE FROM events")
        async with events.stream(readers, "10") as other:
            await writer.insert()
            assert [event.id for event in await other.read_page()] == ["11"]
        await reader.reached(11)


async def test_a_table_dropped_under_a_stream_ends_it(
    events: EventsTable, readers: Any, writer: Writer
) -> None:
    await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await delivers_all(reader, writer)
        await writer.run("DROP TABLE events")
        assert "does not exist" in str(await reader.failure())


async def test_a_cursor_beyond_the_table_is_refused(
    events: EventsTable, readers: Any, writer: Writer
) -> None:
    await writer.insert()
    await writer.burn()
    # Drawn, though not there.
    async with events.stream(readers, "2"):
        pass
    with pytest.raises(CursorAhead, match="cursor 3 is ahead of the table, whose last id is 2"):
        await events.stream(readers, "3").__aenter__()
