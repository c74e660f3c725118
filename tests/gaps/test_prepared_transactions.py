"""Two-phase commit: a prepared transaction holds its gap until it is committed or rolled back."""

import asyncpg
import pytest

from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.gaps.interleaving import Points, begin, insert, reading

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres, pytest.mark.suite_server]


@pytest.mark.parametrize("ending", ["COMMIT PREPARED 'p'", "ROLLBACK PREPARED 'p'"])
async def test_a_prepared_transaction_is_waited_for(
    ending: str,
    events: EventsTable,
    readers: asyncpg.Pool,
    points: Points,
    writer: asyncpg.Connection,
    connect: Connect,
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await holder.execute("PREPARE TRANSACTION 'p'")
    above = await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        assert reader.ids == []

        await writer.execute(ending)
        await reader.reached(above)
        await reader.delivers_all(writer)


async def test_a_holder_that_is_prepared_between_scans_stays_one(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        await holder.execute("PREPARE TRANSACTION 'p'")
        await insert(writer)
        await points.more("scan")
        assert reader.ids == []

        await writer.execute("COMMIT PREPARED 'p'")
        await reader.delivers_all(writer)


async def test_a_transaction_that_draws_and_is_prepared_within_a_scan_is_waited_for(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        async with points.held_after("scan") as scan:
            await scan.reached()
            other = await begin(connect)
            await insert(other)
            await other.execute("PREPARE TRANSACTION 'p'")
            await insert(writer)
            await holder.execute("COMMIT")
        await points.more("scan")
        # It may be any of the holders of before, as far as the scans can tell.
        assert reader.ids in ([], [1, 2])

        await writer.execute("COMMIT PREPARED 'p'")
        await reader.delivers_all(writer)


async def test_many_prepared_transactions_end_in_any_order(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    names = [f"p{i}" for i in range(6)]
    for name in names:
        holder = await begin(connect)
        await insert(holder)
        await holder.execute(f"PREPARE TRANSACTION '{name}'")
        await insert(writer)
    async with reading(events.stream(readers)) as reader:
        for name, how in zip(reversed(names), ["COMMIT", "ROLLBACK"] * 3, strict=True):
            await points.more("scan", 1)
            assert reader.ids == []
            await writer.execute(f"{how} PREPARED '{name}'")
        await reader.delivers_all(writer)
