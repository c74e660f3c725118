"""The noops that fill gaps: hidden, none where they aren't needed, and none too many."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from reflex_aio import TableRefused
from reflex_aio.sql import EventsTable
from tests.fix_backends import MYSQL
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import MysqlPoints, Writer, delivers_all
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def filling(pool: Any, events: EventsTable, after: str = "") -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(events.fill_gaps(pool, after))
    yield task
    if task.done():
        task.result()
    task.cancel()
    await asyncio.wait([task])


async def filled(writer: Writer) -> None:
    """Wait until no id is missing between the first and the last."""

    async def none_missing() -> object:
        return await writer.value("SELECT MAX(id) - MIN(id) + 1 = COUNT(*) FROM events")

    await eventually(none_missing, "all gaps filled")


@pytest.mark.parametrize("library", [*MYSQL], indirect=True)
async def test_noops_are_hidden_from_streams_unless_requested(
    events: EventsTable, readers: Any, writer: Writer
) -> None:
    first = await writer.insert()
    await writer.burn()
    last = await writer.insert()
    shown = events.replace(include_noops=True)
    async with reading(events.stream(readers)) as without, reading(shown.stream(readers)) as with_noops:
        assert await without.reached(last) == [first, last]
        assert await with_noops.reached(last) == [first, first + 1, last]
        assert [event.is_noop for event in with_noops.events] == [False, True, False]


async def test_gaps_are_filled_without_a_reader(events: EventsTable, readers: Any, writer: Writer) -> None:
    async with filling(readers, events):
        for _ in range(10):
            await writer.insert()
            await writer.burn(3)
        await writer.insert()
        await filled(writer)
    assert await writer.value("SELECT COUNT(*) FROM events WHERE type = 0 AND foreign_id = '0'") == 30


async def test_an_id_in_flight_is_not_filled(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    holder = await new_writer(begin=True)
    held = await holder.insert()
    await writer.insert()
    async with filling(readers, events):
        await points.more("peek", 5)
        await holder.run("COMMIT")
        await filled(writer)
    assert await writer.value(f"SELECT type FROM events WHERE id = {held}") == 1


async def test_an_id_drawn_a_moment_ago_is_left_to_its_writer_for_a_while(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer
) -> None:
    first = await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await reader.reached(first)
        await writer.burn()
        await writer.insert()
        await points.more("look", 2)
        assert points.done["noops"] == 0
        await delivers_all(reader, writer)


async def test_pages_without_a_gap_cost_one_query_each(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer
) -> None:
    await writer.run("INSERT INTO events (foreign_id, type) SELECT '1', 1 FROM seq_1_to_100")
    last = await writer.value("SELECT MAX(id) FROM events")
    # The blocks of a bulk insert may contain unused ids.
    async with filling(readers, events):
        await filled(writer)
    async with events.replace(page_size=10).stream(readers, to_head=True) as stream:
        await stream.read_page()
        before = points.done.copy()
        events_read = 10
        while page := await stream.read_page():
            events_read += len(page)
        assert events_read == 100
        assert last >= 100
        assert set(points.done - before) == {"page"}


async def test_of_a_pruned_beginning_the_last_thousand_ids_are_filled_once(
    events: EventsTable, readers: Any, writer: Writer
) -> None:
    await writer.run("ALTER TABLE events AUTO_INCREMENT = 5000")
    first = await writer.insert()
    await writer.insert()
    for _ in range(2):
        # A reader from the beginning, and another one later, who finds the noops of the first.
        async with reading(events.stream(readers)) as reader:
            await delivers_all(reader, writer)
        assert await writer.value("SELECT MIN(id) FROM events") == first - 1000
        assert await writer.value("SELECT COUNT(*) FROM events") == 1002


async def test_a_cursor_in_what_was_pruned_goes_on_behind_it(
    events: EventsTable, readers: Any, writer: Writer
) -> None:
    cursor = await writer.insert()
    await writer.run("ALTER TABLE events AUTO_INCREMENT = 5000")
    await writer.insert()
    await writer.run(f"DELETE FROM events WHERE id <= {cursor}")
    async with reading(events.stream(readers, str(cursor))) as reader:
        await delivers_all(reader, writer)


async def test_more_than_a_million_missing_ids_are_not_filled(
    events: EventsTable, readers: Any, writer: Writer
) -> None:
    first = await writer.insert()
    await writer.run("ALTER TABLE events AUTO_INCREMENT = 2000000")
    await writer.insert()
    async with reading(events.stream(readers)) as reader:
        error = await reader.failure()
        assert reader.ids == [first]
    assert isinstance(error, TableRefused)
    assert "1999998 of the ids from 2 to 2000000 are missing" in str(error)
    assert await writer.value("SELECT COUNT(*) FROM events") == 2
