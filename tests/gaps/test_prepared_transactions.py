"""Two-phase commit: a prepared transaction holds its gap until it is committed or rolled back."""

import asyncpg
import pytest

from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.gaps.crashes import CRASHES
from tests.gaps.interleaving import Points, begin, insert, reading, watched_pool
from tests.waiting import eventually

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
        # According to the scans, it may be any of the earlier holders.
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


@pytest.mark.parametrize("crash", [*CRASHES])
async def test_a_transaction_left_prepared_over_a_restart_is_waited_for(
    crash: str, own_server: EmbeddedPostgres, reconnect: Connect
) -> None:
    events = EventsTable("events", wakeups=None, poll_period=0.05)
    first = await reconnect()
    await events.create(first)
    async with watched_pool(own_server.dsn) as (pool, points), reading(events.stream(pool)) as reader:
        await insert(first)
        await reader.reached(1)
        await points.more("scan", 1)
        holder = await reconnect()
        await holder.execute("BEGIN")
        await insert(holder)
        await holder.execute("PREPARE TRANSACTION 'p'")
        await insert(first)
        await points.more("scan")
        await CRASHES[crash](own_server, first)
        await eventually(first.is_closed, "the connections cut")

        # Begun after the crash, some of them bear the name that the prepared one had.
        writers = [await reconnect() for _ in range(10)]
        for writer in writers:
            await writer.execute("BEGIN")
            await insert(writer)
        await insert(await reconnect())
        await points.more("scan")
        for writer in writers:
            await writer.execute("COMMIT")
        await points.more("scan")
        assert reader.ids == [1]

        await writers[0].execute("COMMIT PREPARED 'p'")
        await reader.delivers_all(writers[0])
        assert len(reader.ids) == 14
