"""Whatever isolation level a pool's connections have, streams read what is committed, and leave the level as it is."""

from typing import Any

import pytest

from reflex_aio.sql import EventsTable
from tests.fix_backends import MYSQL, MysqlBackend
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import MysqlPoints, Writer, delivers_all

pytestmark = pytest.mark.asyncio

LEVELS = ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@pytest.mark.parametrize("library", [*MYSQL], indirect=True)
@pytest.mark.parametrize(("size", "autocommit"), [(1, True), (5, False)])
@pytest.mark.parametrize("level", LEVELS)
async def test_a_pool_of_any_level_reads_what_is_committed(
    level: str,
    autocommit: bool,
    size: int,
    events: EventsTable,
    mariadb: MysqlBackend,
    points: MysqlPoints,
    writer: Writer,
    new_writer: Any,
) -> None:
    session = f"SET SESSION TRANSACTION ISOLATION LEVEL {level}"
    async with mariadb.pool(size, init_command=session, autocommit=autocommit) as pool:
        before = await writer.insert()
        holder = await new_writer(begin=True)
        async with reading(events.stream(pool)) as reader:
            await reader.reached(before)
            # At the head, with nothing above it: this is where a dirty read would deliver it.
            await holder.insert()
            await points.more("page")
            assert reader.ids == [before]
            await holder.run("ROLLBACK")
            await writer.insert()
            await holder.run("BEGIN")
            await holder.insert()
            await writer.insert()
            await points.more("peek")
            await holder.run("COMMIT")
            await delivers_all(reader, writer)
        async with pool.acquire() as connection:
            assert await mariadb.value(connection, "SELECT @@tx_isolation") == level.replace(" ", "-")
            assert connection.get_autocommit() is autocommit
            await connection.rollback()


async def test_a_dirty_read_does_not_affect_the_next_statement(
    events: EventsTable, mariadb: MysqlBackend, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    holder = await new_writer(begin=True)
    await holder.insert()
    await writer.insert()
    async with mariadb.pool(1) as pool:
        async with reading(events.stream(pool)):
            for _ in range(5):
                await points.more("peek", 1)
                async with pool.acquire() as connection:
                    assert await mariadb.value(connection, "SELECT COUNT(*) FROM events") == 1
        async with pool.acquire() as connection:
            assert await mariadb.value(connection, "SELECT COUNT(*) FROM events") == 1


async def test_a_level_that_somebody_has_set_for_the_next_transaction_is_not_used(
    events: EventsTable, mariadb: MysqlBackend, writer: Writer, new_writer: Any
) -> None:
    before = await writer.insert()
    holder = await new_writer(begin=True)
    await holder.insert()
    async with mariadb.pool(1) as pool, events.stream(pool) as stream:
        # Between two uses that the stream makes of the only connection: the page is the next transaction.
        async with pool.acquire() as connection:
            await mariadb.fetch(connection, "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
        assert [int(event.id) for event in await stream.read_page()] == [before]
    await holder.run("ROLLBACK")


async def test_a_released_connection_has_its_own_level_in_the_next_transaction(
    events: EventsTable, mariadb: MysqlBackend, writer: Writer
) -> None:
    count = "SELECT COUNT(*) FROM events"
    async with mariadb.pool(1, autocommit=True) as pool:
        async with mariadb.driver.acquire(pool):
            pass
        async with pool.acquire() as connection:
            await connection.begin()
            assert await mariadb.value(connection, count) == 0
            await writer.insert()
            # It is REPEATABLE READ.
            assert await mariadb.value(connection, count) == 0
            await connection.rollback()
