"""psycopg: connections and pools however they are set up, the ends of transactions, and notifications."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import psycopg
import psycopg_pool
import pytest
import pytest_asyncio
from psycopg import rows
from psycopg.adapt import Dumper, Loader

from reflex_aio.sql import EventsTable
from reflex_aio.sql.drivers.psycopg import PsycopgDriver
from tests.fix_databases import Database
from tests.reading import reading
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

Connection = psycopg.AsyncConnection[Any]
Connect = Callable[..., Awaitable[Connection]]

driver = PsycopgDriver()
events = EventsTable("events")


@pytest_asyncio.fixture
async def connect(database: Database) -> AsyncIterator[Connect]:
    """Open psycopg connections to the test's database."""
    opened: list[Connection] = []

    async def connect(**arguments: Any) -> Connection:
        opened.append(await psycopg.AsyncConnection.connect(database.dsn, **arguments))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


@pytest_asyncio.fixture
async def table(pool: asyncpg.Pool) -> EventsTable:
    """The table ``events``, made."""
    async with pool.acquire() as connection:
        await events.create(connection)
    return events


class Calls:
    """A function that counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


async def _commit(connection: Connection) -> None:
    await connection.commit()


async def _roll_back(connection: Connection) -> None:
    await connection.rollback()


async def _commit_as_text(connection: Connection) -> None:
    await connection.execute("COMMIT")


async def _commit_after_another(connection: Connection) -> None:
    await connection.execute("SELECT 1; COMMIT")


@pytest.mark.parametrize("end", [_commit, _roll_back, _commit_as_text, _commit_after_another])
async def test_it_is_called_once_when_the_transaction_has_ended_however_it_ends(
    connect: Connect, end: Callable[[Connection], Awaitable[None]]
) -> None:
    connection, called = await connect(), Calls()
    await connection.execute("SELECT 1")
    driver.after_transaction(connection, "key", called)
    driver.after_transaction(connection, "key", called)
    async with connection.transaction():
        await connection.execute("SELECT 1")
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with connection.transaction():
            await connection.execute("SELECT 1/0")
    assert called.count == 0
    await end(connection)
    assert called.count == 1
    assert "wait" not in vars(connection)


@pytest.mark.parametrize("autocommit", [True, False])
async def test_in_a_pipeline_it_is_called_after_the_commit_at_the_latest_when_the_pipeline_ends(
    connect: Connect, table: EventsTable, autocommit: bool
) -> None:
    connection, other, called = await connect(autocommit=autocommit), await connect(autocommit=True), Calls()
    seen: list[int] = []
    async with connection.pipeline(), connection.transaction():
        await table.insert(connection, 1, 1)
        await table.insert_many(connection, [(2, 1), (3, 1)])
        assert driver.after_transaction(connection, "key", called)
        seen += (await driver.fetch(other, "SELECT count(*) FROM events"))[0]
    assert called.count >= 1
    seen += (await driver.fetch(other, "SELECT count(*) FROM events"))[0]
    assert seen == [0, 3]
    await connection.execute("SELECT 1")
    await connection.commit()
    assert "wait" not in vars(connection)


async def test_an_insert_is_in_the_transaction_that_psycopg_begins(
    connect: Connect, table: EventsTable
) -> None:
    connection, other = await connect(), await connect(autocommit=True)
    await table.insert(connection, 1, 1)
    await connection.rollback()
    kept = await table.insert(connection, 2, 1)
    await connection.commit()
    assert [str(row[0]) for row in await driver.fetch(other, "SELECT id FROM events")] == [kept]


class _Shouting(Dumper):
    oid = 25

    def dump(self, obj: Any) -> bytes:
        return b"dumped by the program"


class _Refusing(Loader):
    def load(self, data: Any) -> Any:
        raise AssertionError("loaded by the program")


async def test_the_connections_row_factory_and_adapters_do_not_matter(
    connect: Connect, table: EventsTable
) -> None:
    connection = await connect(row_factory=rows.dict_row, autocommit=True)
    for kind in (int, str, list, bytes):
        connection.adapters.register_dumper(kind, _Shouting)
    for name in ("text", "int8", "bool", "oid"):
        connection.adapters.register_loader(name, _Refusing)
    await connection.execute(
        "SET bytea_output = 'escape'; SET DateStyle = 'German'; SET TIME ZONE 'Asia/Tokyo'"
    )
    await table.validate(connection)
    assert await table.insert(connection, "a", 1) == "1"
    assert await table.insert_many(connection, [("b", 1), ("c", 2)]) == ["2", "3"]


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_pool_of_any_mode_serves_streams_and_has_its_connections_back_as_they_were(
    database: Database, table: EventsTable, autocommit: bool
) -> None:
    async with psycopg_pool.AsyncConnectionPool(
        database.dsn, min_size=1, max_size=1, open=False, kwargs={"autocommit": autocommit}
    ) as pool:
        async with pool.connection() as connection:
            await table.insert(connection, 1, 1)
        async with reading(table.stream(pool)) as stream:
            await stream.reached(1)
            async with pool.connection() as connection:
                assert connection.autocommit is autocommit
                assert "wait" not in vars(connection)
                await table.insert(connection, 2, 1)
            await stream.reached(2)


async def test_a_connection_that_was_lost_while_it_was_idle_is_not_acquired(
    database: Database, connect: Connect
) -> None:
    admin = await connect(autocommit=True)
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with psycopg_pool.AsyncConnectionPool(database.dsn, min_size=3, open=False) as pool:
        await pool.wait()
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

        async def gone() -> bool:
            return int((await driver.fetch(admin, others))[0][0]) == 0

        await eventually(gone, "the backends are gone")
        for _ in range(3):
            async with driver.acquire(pool) as connection:
                assert (await driver.fetch(connection, "SELECT 1"))[0][0] == 1


async def test_a_cancelled_statement_is_cancelled_in_the_server(database: Database, connect: Connect) -> None:
    watcher = await connect(autocommit=True)
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    )

    async def count() -> int:
        return int((await driver.fetch(watcher, sleeping))[0][0])

    async def one() -> bool:
        return await count() == 1

    async def none() -> bool:
        return await count() == 0

    async with psycopg_pool.AsyncConnectionPool(database.dsn, min_size=1, open=False) as pool:

        async def sleep() -> None:
            async with driver.acquire(pool) as connection:
                await driver.fetch(connection, "SELECT pg_sleep(60)")

        task = asyncio.create_task(sleep())
        await eventually(one, "the statement runs")
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await eventually(none, "the statement was cancelled")


async def test_the_clients_libraries_wake_each_others_streams(
    database: Database, pool: asyncpg.Pool, connect: Connect
) -> None:
    slow = EventsTable("events", poll_period=60.0)
    writer = await connect()
    await slow.create(writer)
    await writer.commit()
    async with (
        psycopg_pool.AsyncConnectionPool(database.dsn, min_size=1, open=False) as ours,
        reading(slow.stream(pool)) as over_asyncpg,
        reading(slow.stream(ours)) as over_psycopg,
    ):
        for number in range(1, 4):
            async with pool.acquire() as connection:
                await slow.insert(connection, number, 1)
            await over_asyncpg.reached(2 * number - 1)
            await over_psycopg.reached(2 * number - 1)
            await slow.insert(writer, number, 1)
            await writer.commit()
            await over_asyncpg.reached(2 * number)
            await over_psycopg.reached(2 * number)
