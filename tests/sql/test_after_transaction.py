"""The detection of the end of a transaction with asyncpg."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import uvloop

from reflex_aio.sql.drivers.asyncpg import AsyncpgDriver
from tests.fix_databases import Connect, Database
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

driver = AsyncpgDriver()


class Calls:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_outside_a_transaction_it_is_called_at_once(connect: Connect) -> None:
    called = Calls()
    assert driver.after_transaction(await connect(), "key", called)
    assert called.count == 1


@pytest.mark.parametrize(
    "end",
    ["COMMIT", "END", "SELECT 1; COMMIT", "COMMIT AND NO CHAIN", "ROLLBACK", "PREPARE TRANSACTION 'after'"],
)
@pytest.mark.suite_server
async def test_it_is_called_once_when_the_transaction_has_ended_however_it_ends(
    connect: Connect, end: str
) -> None:
    connection, called = await connect(), Calls()
    await connection.execute("CREATE TABLE t (id int)")
    await connection.execute("BEGIN")
    await connection.execute("INSERT INTO t VALUES (1)")
    driver.after_transaction(connection, "key", called)
    await connection.execute("INSERT INTO t VALUES (2)")
    await _turn()
    assert called.count == 0
    await connection.execute(end)
    await eventually(lambda: called.count == 1, "called")
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES (3)")
    await _turn()
    assert called.count == 1
    if end.startswith("PREPARE"):
        await connection.execute("ROLLBACK PREPARED 'after'")


async def test_when_it_is_called_the_commit_is_visible_to_others(connect: Connect) -> None:
    writer, reader = await connect(), await connect()
    await writer.execute("CREATE TABLE t (id int)")
    reads: list[asyncio.Task[Any]] = []

    def read() -> None:
        reads.append(asyncio.create_task(reader.fetchval("SELECT count(*) FROM t")))

    for expected in range(1, 20):
        async with writer.transaction():
            await writer.execute("INSERT INTO t VALUES (1)")
            driver.after_transaction(writer, "key", read)
        await eventually(lambda count=expected: len(reads) == count, "called")  # type: ignore[misc]
        assert await reads[-1] == expected


async def test_under_uvloop_each_commit_is_detected_before_the_next_transaction_continues(
    database: Database,
) -> None:
    """There, a logger may run when the next transaction has begun already."""

    async def write() -> None:
        connection, called = await asyncpg.connect(database.dsn), Calls()
        for count in range(1, 1000):
            async with connection.transaction():
                driver.after_transaction(connection, "key", called)
            async with connection.transaction():
                assert called.count == count
        await connection.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(write())

    await asyncio.to_thread(run)


async def test_the_end_of_a_savepoint_is_not_the_end_of_the_transaction(connect: Connect) -> None:
    connection, called = await connect(), Calls()
    async with connection.transaction():
        async with connection.transaction():
            await connection.execute("SELECT 1")
            driver.after_transaction(connection, "key", called)
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with connection.transaction():
                await connection.execute("SELECT 1/0")
        await connection.execute("SELECT 1")
        await _turn()
        assert called.count == 0
    await eventually(lambda: called.count == 1, "called")


async def test_an_error_inside_the_transaction_is_not_its_end(connect: Connect) -> None:
    connection, called = await connect(), Calls()
    await connection.execute("BEGIN")
    driver.after_transaction(connection, "key", called)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.execute("SELECT 1/0")
    await _turn()
    assert called.count == 0
    # Which rolls back.
    await connection.execute("COMMIT")
    await eventually(lambda: called.count == 1, "called")


async def test_a_commit_that_fails_ends_the_transaction(connect: Connect) -> None:
    connection, called = await connect(), Calls()
    await connection.execute("CREATE TABLE t (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    await connection.execute("BEGIN")
    await connection.execute("INSERT INTO t VALUES (1), (1)")
    driver.after_transaction(connection, "key", called)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("COMMIT")
    await eventually(lambda: called.count == 1, "called")


async def test_calls_under_one_key_count_as_one(connect: Connect) -> None:
    connection, first, second = await connect(), Calls(), Calls()
    async with connection.transaction():
        for _ in range(10):
            driver.after_transaction(connection, "first", first)
        driver.after_transaction(connection, "second", second)
    await eventually(lambda: first.count == second.count == 1, "each called once")


async def test_it_is_called_after_the_pool_has_the_connection_back(database: Database) -> None:
    called = Calls()
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            commit = await connection.prepare("COMMIT")
            await connection.execute("BEGIN")
            driver.after_transaction(connection, "key", called)
            # Not logged, as asyncpg's explicitly prepared statements aren't: the pool's reset query is.
            await commit.fetch()
            await _turn()
            assert called.count == 0
        await eventually(lambda: called.count == 1, "called")


async def test_each_connection_has_one_logger_while_it_has_calls_and_none_else(connect: Connect) -> None:
    connection: Any = await connect(connection_class=_Counting)
    for _ in range(3):
        async with connection.transaction():
            for key in range(10):
                driver.after_transaction(connection, key, Calls())
            assert connection.loggers == 1
        await eventually(lambda: connection.loggers == 0, "the logger removed")


class _Counting(asyncpg.Connection):  # type: ignore[misc,type-arg,unused-ignore]
    loggers = 0

    def add_query_logger(self, callback: Any) -> None:
        super().add_query_logger(callback)
        self.loggers += 1

    def remove_query_logger(self, callback: Any) -> None:
        super().remove_query_logger(callback)
        self.loggers -= 1


async def _close(connection: asyncpg.Connection, admin: asyncpg.Connection) -> None:
    await connection.close()


async def _terminate(connection: asyncpg.Connection, admin: asyncpg.Connection) -> None:
    connection.terminate()


async def _kill(connection: asyncpg.Connection, admin: asyncpg.Connection) -> None:
    await admin.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    await eventually(connection.is_closed, "the connection gone")


@pytest.mark.parametrize("end", [_close, _terminate, _kill])
async def test_a_connection_that_ends_inside_its_transaction_is_forgotten(
    database: Database, connect: Connect, end: Callable[..., Awaitable[None]]
) -> None:
    connection: asyncpg.Connection | None = await asyncpg.connect(database.dsn)
    called = Calls()
    assert connection is not None
    await connection.execute("BEGIN")
    driver.after_transaction(connection, "key", called)
    await end(connection, await connect())
    gone, held = weakref.ref(connection), weakref.ref(called)
    connection = None
    del called

    def collected() -> bool:
        gc.collect()
        return gone() is None and held() is None

    await eventually(collected, "the connection and what was to be called collected")


async def _turn() -> None:
    """Let the callbacks run that are scheduled already."""
    for _ in range(3):
        await asyncio.sleep(0)
