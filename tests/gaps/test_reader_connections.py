"""Scan and read on whatever connections there are: poolers, search paths, isolation levels, and loss in between."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect, Database
from tests.gaps.interleaving import Points, begin, burn, insert, reading, watched_pool

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]


@pytest_asyncio.fixture
async def pooled(database: Database, pgbouncer: str) -> AsyncIterator[tuple[asyncpg.Pool, Points]]:
    async with watched_pool(pgbouncer, statement_cache_size=0) as watched:
        yield watched


@pytest.mark.suite_server
@pytest.mark.parametrize("pgbouncer", ["transaction"], indirect=True)
async def test_behind_a_transaction_pooler_gaps_are_waited_for_and_passed(
    pooled: tuple[asyncpg.Pool, Points], events: EventsTable, writer: asyncpg.Connection, connect: Connect
) -> None:
    readers, points = pooled
    async with reading(events.stream(readers)) as reader:
        before = await insert(writer)
        await reader.reached(before)
        holder = await begin(connect)
        await insert(holder)
        await burn(writer)
        above = await insert(writer)
        await points.more("scan")
        assert reader.ids == [before]

        await holder.execute("COMMIT")
        await reader.reached(above)
        await reader.delivers_all(writer)


async def test_connections_with_other_search_paths_read_the_table_that_was_found(
    events: EventsTable, database: Database, writer: asyncpg.Connection, connect: Connect
) -> None:
    await writer.execute("CREATE SCHEMA decoy")
    await writer.execute("CREATE TABLE decoy.events (LIKE public.events INCLUDING ALL)")
    await writer.execute("INSERT INTO decoy.events (foreign_id, type) VALUES ('decoy', 1)")
    turn = 0

    async def set_path(connection: Any) -> None:
        # Every connection but the first finds another table under the name.
        nonlocal turn
        turn += 1
        await connection.execute(f"SET search_path = {'public' if turn == 1 else 'decoy, public'}")

    async with (
        asyncpg.create_pool(database.dsn, min_size=1, max_size=5, setup=set_path) as pool,
        reading(events.stream(pool)) as reader,
    ):
        holder = await begin(connect)
        await insert(holder)
        await insert(writer)
        await writer.execute("INSERT INTO decoy.events (foreign_id, type) VALUES ('decoy', 1)")
        await holder.execute("COMMIT")
        await insert(writer)
        await reader.delivers_all(writer)
    assert turn > 1


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_pool_with_a_stricter_isolation_level_misses_none(
    level: str, events: EventsTable, database: Database, writer: asyncpg.Connection, connect: Connect
) -> None:
    settings = {"default_transaction_isolation": level}
    async with (
        watched_pool(database.dsn, server_settings=settings) as (readers, points),
        reading(events.stream(readers)) as reader,
    ):
        for _ in range(5):
            holder = await begin(connect)
            await insert(holder)
            await insert(writer)
            await points.more("scan", 2)
            await holder.execute("COMMIT")
            await reader.delivers_all(writer)


async def test_a_writer_that_commits_between_scan_and_read_is_not_missed(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        async with points.held_after("scan") as scan:
            await scan.reached()
            # The scan has seen this writer at work; what it commits now, it owned then.
            await holder.execute("COMMIT")
            other = await begin(connect)
            await insert(other)
            await insert(writer)
        await points.more("scan")
        assert reader.ids in ([], [1, 2])
        await other.execute("COMMIT")
        await reader.delivers_all(writer)


@pytest.mark.parametrize("kind", ["scan", "checked page", "page"])
async def test_a_connection_that_dies_between_scan_and_read_loses_none(
    kind: str,
    events: EventsTable,
    readers: asyncpg.Pool,
    points: Points,
    writer: asyncpg.Connection,
    connect: Connect,
) -> None:
    async with reading(events.stream(readers)) as reader:
        await insert(writer)
        await reader.reached(1)
        async with points.held_after(kind) as held:
            await burn(writer)
            await insert(writer)
            await held.reached()
            await writer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        holder = await begin(connect)
        await insert(holder)
        await insert(writer)
        await points.more("scan")
        assert reader.ids in ([1], [1, 3])
        await holder.execute("COMMIT")
        await reader.delivers_all(writer)
