"""Connections of MySQL's pools: acquired clean, always released, and closed if a statement may be running."""

import asyncio
from typing import Any

import anyio
import pytest

from reflex_aio import ConnectionLost, DatabaseError
from reflex_aio.sql import open_pool
from reflex_aio.testing.contract import cancelled_at
from tests.fix_backends import MysqlBackend
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio


async def make_table(mysql: MysqlBackend) -> Any:
    connection = await mysql.connect()
    await mysql.fetch(connection, "CREATE TABLE numbers (n int PRIMARY KEY)")
    return connection


async def connections(mysql: MysqlBackend, watcher: Any) -> int:
    """How many there are in the test's database, beside ``watcher``."""
    counted: int = await mysql.value(
        watcher,
        "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()",
    )
    return counted


async def test_an_acquired_connection_sees_the_commits_of_others(mysql: MysqlBackend) -> None:
    writer = await make_table(mysql)
    async with mysql.pool(1, autocommit=False) as pool:
        # A connection is given back with a snapshot of the empty table open.
        async with pool.acquire() as connection:
            assert await mysql.value(connection, "SELECT count(*) FROM numbers") == 0
        await mysql.fetch(writer, "INSERT INTO numbers VALUES (1)")
        async with mysql.driver.acquire(pool) as connection:
            assert await mysql.value(connection, "SELECT count(*) FROM numbers") == 1
            await mysql.fetch(writer, "INSERT INTO numbers VALUES (2)")
            assert await mysql.value(connection, "SELECT count(*) FROM numbers") == 2


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_connection_goes_back_as_it_came(mysql: MysqlBackend, autocommit: bool) -> None:
    writer = await make_table(mysql)
    async with mysql.pool(1, autocommit=autocommit) as pool:
        async with pool.acquire() as connection:
            before = await mysql.value(connection, "SELECT CONNECTION_ID()")
            await connection.rollback()
        async with mysql.driver.acquire(pool) as connection, mysql.driver.transaction(connection):
            await mysql.fetch(connection, "INSERT INTO numbers VALUES (1)")
        async with pool.acquire() as connection:
            assert await mysql.value(connection, "SELECT CONNECTION_ID()") == before
            assert await mysql.value(connection, "SELECT @@autocommit") == autocommit
            assert connection.get_autocommit() is autocommit
            await connection.rollback()
    assert await mysql.value(writer, "SELECT count(*) FROM numbers") == 1


async def test_what_the_user_left_uncommitted_is_not_committed(mysql: MysqlBackend) -> None:
    watcher = await make_table(mysql)
    await mysql.fetch(
        watcher,
        "CREATE FUNCTION insert_one() RETURNS int DETERMINISTIC BEGIN INSERT INTO numbers VALUES (1); RETURN 1; END",
    )
    async with mysql.pool(1, autocommit=False) as pool:
        async with pool.acquire() as connection:
            # Neither library notices that a SELECT has begun a transaction, and the pool takes the connection back.
            await mysql.fetch(connection, "SELECT insert_one()")
        async with mysql.driver.acquire(pool):
            pass
    assert await mysql.value(watcher, "SELECT count(*) FROM numbers") == 0


async def test_after_an_error_the_connection_is_closed_and_those_who_wait_get_another(
    mysql: MysqlBackend,
) -> None:
    waiting = asyncio.Event()
    ids: list[int] = []

    async def wait_for_it(pool: Any) -> None:
        waiting.set()
        async with mysql.driver.acquire(pool) as connection:
            ids.append(await mysql.value(connection, "SELECT CONNECTION_ID()"))

    async def fail(pool: Any, others: asyncio.TaskGroup) -> None:
        async with mysql.driver.acquire(pool) as connection:
            ids.append(await mysql.value(connection, "SELECT CONNECTION_ID()"))
            for _ in range(3):
                others.create_task(wait_for_it(pool))
            await waiting.wait()
            await asyncio.sleep(0)
            raise LookupError

    async with mysql.pool(1) as pool, asyncio.timeout(deadline(10)), asyncio.TaskGroup() as others:
        with pytest.raises(LookupError):
            await fail(pool, others)
    assert ids[0] not in ids[1:]
    assert len(ids) == 4


async def test_a_connection_that_is_lost_takes_no_other_one_with_it(mysql: MysqlBackend) -> None:
    """Waking the waiting tasks must not touch connections that are free by then, and may be lost too."""
    fail, give_back = asyncio.Event(), asyncio.Event()
    kept: list[Any] = []

    async def fail_with(pool: Any) -> None:
        async with mysql.driver.acquire(pool):
            await fail.wait()
            raise LookupError

    async def lose(pool: Any) -> None:
        with pytest.raises(LookupError):
            await fail_with(pool)

    async def use(pool: Any) -> None:
        async with mysql.driver.acquire(pool) as connection:
            kept.append(connection)
            await give_back.wait()

    async def in_use(pool: Any, count: int) -> None:
        await eventually(lambda: pool.size - pool.freesize == count, f"{count} are in use")

    async with mysql.pool(2, minsize=2) as pool, asyncio.timeout(deadline(10)), asyncio.TaskGroup() as tasks:
        using = [tasks.create_task(lose(pool)), tasks.create_task(use(pool))]
        await in_use(pool, 2)
        # As a task that connects holds it.
        async with pool._cond:
            fail.set()
            await in_use(pool, 1)
            give_back.set()
            await in_use(pool, 0)
        await asyncio.wait(using)
        assert pool.freesize
        assert not mysql.driver.is_closed(kept[0])


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_loan_cancelled_at_any_await_leaves_nothing_behind(
    mysql: MysqlBackend, autocommit: bool
) -> None:
    watcher = await make_table(mysql)

    async def work(pool: Any) -> None:
        async with mysql.driver.acquire(pool) as connection, mysql.driver.transaction(connection):
            await mysql.fetch(connection, "INSERT INTO numbers VALUES (1)")

    async def nothing_left() -> bool:
        return await connections(mysql, watcher) == 0

    steps = 0
    cancelled = True
    while cancelled:
        steps += 1
        # A pool that has to connect first.
        async with mysql.pool(1, minsize=0, autocommit=autocommit) as pool:
            cancelled = await cancelled_at(steps, work(pool))
            with anyio.fail_after(deadline(5)):
                async with mysql.driver.acquire(pool) as connection:
                    await mysql.fetch(connection, "DELETE FROM numbers")
            assert pool.size == pool.freesize
        await eventually(nothing_left, "connections are closed")
    assert steps > 5


async def test_a_loan_cancelled_while_it_waits_for_a_connection_leaves_the_pool_whole(
    mysql: MysqlBackend,
) -> None:
    async with mysql.pool(1) as pool:
        async with mysql.driver.acquire(pool):
            with anyio.move_on_after(0.05) as scope:
                async with mysql.driver.acquire(pool):
                    pass
            assert scope.cancelled_caught
        with anyio.fail_after(deadline(5)):
            async with mysql.driver.acquire(pool) as connection:
                assert await mysql.value(connection, "SELECT 1") == 1


async def test_a_connection_may_be_kept_only_while_there_are_others(mysql: MysqlBackend) -> None:
    async with mysql.pool(2) as pool:
        async with mysql.driver.acquire(pool):
            assert mysql.driver.has_spare(pool)
            async with mysql.driver.acquire(pool):
                assert not mysql.driver.has_spare(pool)
        assert mysql.driver.has_spare(pool)
        pool.close()
        assert not mysql.driver.has_spare(pool)


async def test_a_closed_pool_is_an_error(mysql: MysqlBackend) -> None:
    async with mysql.pool() as pool:
        pass
    with pytest.raises(DatabaseError, match="the pool is closed"), mysql.driver.errors("numbers"):
        async with mysql.driver.acquire(pool):
            pass


async def test_a_connection_that_was_killed_while_in_use_is_replaced(mysql: MysqlBackend) -> None:
    killer = await mysql.connect()

    async def kill(connection: Any) -> None:
        await mysql.fetch(killer, f"KILL {await mysql.value(connection, 'SELECT CONNECTION_ID()')}")

    async def use_killed(pool: Any) -> None:
        async with mysql.driver.acquire(pool) as connection:
            await kill(connection)
            await mysql.value(connection, "SELECT 1")

    async with mysql.pool(1) as pool:
        with pytest.raises(ConnectionLost), mysql.driver.errors("numbers"):
            await use_killed(pool)
        async with mysql.driver.acquire(pool) as connection:
            assert await mysql.value(connection, "SELECT 1") == 1
            await kill(connection)
        # Killed, and given back by one who didn't notice.
        async with mysql.driver.acquire(pool) as connection:
            assert await mysql.value(connection, "SELECT 1") == 1


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "MySQL"])
async def test_a_dsn_opens_a_pool_by_the_library_that_it_names(mysql: MysqlBackend, scheme: str) -> None:
    rest = mysql.dsn.partition("://")[2]
    async with open_pool(f"{scheme}+{mysql.library}://{rest}", size=2) as pool:
        assert mysql.driver.is_pool(pool)
        assert pool.maxsize == 2
        async with pool.acquire() as connection:
            assert await mysql.value(connection, "SELECT DATABASE()") == mysql.arguments["db"]
            assert await mysql.value(connection, "SELECT @@character_set_client") == "utf8mb4"


async def test_a_pool_of_a_dsn_is_closed_though_a_connection_is_in_use(mysql: MysqlBackend) -> None:
    watcher = await mysql.connect()
    async with open_pool(mysql.dsn.replace("mysql:", f"mysql+{mysql.library}:")) as pool:
        await pool.acquire()
        assert await connections(mysql, watcher) == 1

    async def none_left() -> bool:
        return await connections(mysql, watcher) == 0

    await eventually(none_left, "connections are closed")
