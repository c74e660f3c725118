"""What happens at the worst moment: while a scan or a read is under way, or when one is given up."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from reflex_aio import Event, TableReplaced
from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.gaps.interleaving import Points, begin, burn, faults, insert, reading
from tests.waiting import deadline

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]


async def test_a_head_that_is_seen_while_a_scan_is_under_way_is_not_resolved_by_it(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    async with reading(events.stream(readers)) as reader:
        before = await insert(writer)
        async with points.held_after("scan") as scan:
            await scan.reached()
            holder = await begin(connect)
            await insert(holder)
            await insert(writer)
            async with events.stream(readers, from_head=True):
                pass
        await points.more("scan")
        assert reader.ids == [before]

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_a_page_that_was_read_before_a_writer_ended_is_not_resolved_by_a_scan_after_it(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    first, second = await begin(connect), await begin(connect)
    await insert(first)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        await insert(second)
        await insert(writer)
        await points.more("scan")
        async with points.held_after("checked page") as page:
            await first.execute("COMMIT")
            await page.reached()
            # The page holds 1, 2 and 4; to the next scan nothing is in flight.
            await second.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_rows_of_a_table_that_began_anew_are_not_resolved_by_a_scan_of_the_old_one(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    await insert(writer)
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await reader.reached(1)
        async with points.held_after("scan") as before:
            await before.reached()
            await holder.execute("ROLLBACK")
            async with points.held_after("scan") as scan:
                before.let_go()
                await scan.reached()
                # The scan has resolved the ids up to 3, of which 2 is now drawn again.
                await writer.execute("TRUNCATE events RESTART IDENTITY")
                await insert(writer)
                await holder.execute("BEGIN")
                await insert(holder)
                await insert(writer)
        assert isinstance(await reader.failure(), TableReplaced)
        assert reader.ids == [1]
        await holder.execute("COMMIT")


async def test_a_stream_that_is_closed_while_it_loads_makes_no_other_wait(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    for _ in range(3):
        await insert(writer)
    await burn(writer)
    last = await insert(writer)
    async with reading(events.stream(readers)) as first:
        await first.reached(last)
        # Known since its beginning, this writer can't own the ids of before.
        await points.more("scan", 1)
        holder = await begin(connect)
        await insert(holder)
        await insert(writer)
        await points.more("scan", 2)

        async with points.held_after("checked page") as page:
            async with events.stream(readers) as given_up:
                read = asyncio.create_task(given_up.read_page())
                await page.reached()
            await asyncio.wait([read])
        async with reading(events.stream(readers)) as second:
            await second.reached(last)
            assert second.ids == [1, 2, 3, last]
        await holder.execute("COMMIT")
        await first.delivers_all(writer)


async def test_a_scan_goes_on_for_others_when_the_stream_that_started_it_is_closed(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as stays:
        for _ in range(10):
            async with reading(events.stream(readers)) as leaves, points.held_after("scan") as scan:
                await scan.reached()
                leaves.task.cancel()
        await points.more("scan")
        assert stays.ids == []
        await holder.execute("COMMIT")
        await stays.delivers_all(writer)


@pytest.mark.parametrize("options", [{}, {"lag": 0.001}], ids=["tail", "own pages"])
async def test_reads_that_are_cancelled_again_and_again_lose_nothing(
    options: dict[str, Any], events: EventsTable, readers: asyncpg.Pool, connect: Connect
) -> None:
    chance = random.Random(7)
    writers = [await connect() for _ in range(3)]
    received: list[int] = []

    async def write(connection: asyncpg.Connection) -> None:
        for _ in range(40):
            await connection.execute("BEGIN")
            await insert(connection)
            await asyncio.sleep(chance.random() * 0.01)
            await connection.execute(chance.choice(["COMMIT", "COMMIT", "ROLLBACK"]))

    async with events.replace(page_size=5).stream(readers, **options) as stream, asyncio.TaskGroup() as tasks:
        writing = [tasks.create_task(write(connection)) for connection in writers]

        async def read() -> None:
            last = None
            while last is None or received[-1:] != [last]:
                try:
                    async with asyncio.timeout(chance.random() * 0.005):
                        received.append(int((await anext(stream)).id))
                except TimeoutError:
                    pass
                if all(task.done() for task in writing):
                    last = await writers[0].fetchval("SELECT max(id) FROM events")

        async with asyncio.timeout(deadline(30.0)):
            await read()
    rows = await writers[0].fetch("SELECT id FROM events")
    assert not faults(received, [row[0] for row in rows])


async def test_a_loader_that_fails_on_one_page_loses_nothing(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    failures = 5

    async def load(connection: Any, page: Sequence[Event]) -> Sequence[Event]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ConnectionError
        return page

    await insert(writer)
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.replace(loader=load).stream(readers)) as reader:
        await reader.reached(1)
        await points.more("scan")
        assert reader.ids == [1]
        await holder.execute("COMMIT")
        await reader.delivers_all(writer)
    assert failures < 0
