"""Unusable connections, servers and DSNs are errors, and nothing is stored."""

import asyncio
from typing import Any

import pytest

from reflex_aio import ConnectionLost, DatabaseError
from reflex_aio.sql import EventsTable, open_pool
from reflex_aio.testing.contract import cancelled_at
from tests.fix_backends import MYSQL, MysqlBackend
from tests.fix_mariadb import MysqlDatabase, make_mariadb

pytestmark = pytest.mark.asyncio

users = EventsTable("user_events")


async def stored(mysql: MysqlBackend) -> list[str]:
    rows = await mysql.fetch(await mysql.connect(), "SELECT foreign_id FROM user_events ORDER BY id")
    return [row[0] for row in rows]


# Connections and pools.


async def test_a_pool_for_a_connection_and_the_reverse_are_refused_with_a_remedy(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await users.create(connection)
    async with mysql.pool() as pool:
        for call in users.insert(pool, 1, 1), users.create(pool), users.validate(pool):
            with pytest.raises(TypeError, match=r"is a pool: pass a connection: async with pool\.acquire"):
                await call
        with pytest.raises(TypeError, match=rf"is a connection: pass a pool.*{mysql.library}\.create_pool"):
            users.source(connection)
    assert await stored(mysql) == []


async def test_an_acquire_that_was_not_awaited_is_refused(mysql: MysqlBackend) -> None:
    async with mysql.pool() as pool:
        acquiring = pool.acquire()
        with pytest.raises(TypeError, match="was not awaited: use await, or async with"):
            await users.insert(acquiring, 1, 1)
        pool.release(await acquiring)


async def test_a_cursor_is_no_connection(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    async with connection.cursor() as cursor:
        with pytest.raises(TypeError):
            await users.insert(cursor, 1, 1)


async def test_an_insert_on_a_closed_or_killed_connection_is_the_client_librarys_own_exception(
    mysql: MysqlBackend,
) -> None:
    killer, closed, killed = await mysql.connect(), await mysql.connect(), await mysql.connect()
    await users.create(killer)
    closed.close()
    with pytest.raises(mysql.library_error):
        await users.insert(closed, 1, 1)
    await killed.begin()
    await users.insert(killed, 1, 1)
    await mysql.fetch(killer, f"KILL {await mysql.value(killed, 'SELECT CONNECTION_ID()')}")
    with pytest.raises(mysql.library_error):
        await users.insert(killed, 2, 1)
    assert await stored(mysql) == []


async def test_an_insert_that_is_cancelled_anywhere_is_rolled_back_with_its_transaction(
    mysql: MysqlBackend,
) -> None:
    await users.create(await mysql.connect())
    inserted: list[str] = []
    step = 1

    async def insert(connection: Any) -> None:
        # A new table object each time, as its name is queried once.
        inserted.append(await EventsTable("user_events").insert(connection, step, 1))

    while True:
        connection = await mysql.connect()
        await connection.begin()
        if not await cancelled_at(step, insert(connection)):
            await connection.commit()
            break
        if inserted:
            # On uvloop the answer may come before the cancellation.
            inserted.clear()
            await connection.rollback()
        else:
            # Neither library can go on with a connection under which a statement was cancelled.
            assert mysql.driver.is_closed(connection)
        step += 1
    assert step > 2
    assert await stored(mysql) == [str(step)]


async def test_a_deadlock_is_the_client_librarys_own_exception(mysql: MysqlBackend) -> None:
    one, other = await mysql.connect(), await mysql.connect()
    await users.create(one)
    await mysql.fetch(one, "CREATE UNIQUE INDEX once ON user_events (foreign_id)")
    await one.begin()
    await other.begin()
    await users.insert(one, 1, 1)
    await users.insert(other, 2, 1)

    async def insert_both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(users.insert(one, 2, 1))
            group.create_task(users.insert(other, 1, 1))

    with pytest.raises(ExceptionGroup) as raised:
        await insert_both()
    assert raised.group_contains(mysql.library_error, match="Deadlock")


# Servers.


async def test_a_read_only_server_is_an_error() -> None:
    async with make_mariadb() as server:
        for backend in MYSQL.values():
            mysql = backend(MysqlDatabase(server, "app"))
            admin = await mysql.connect(db=None)
            for statement in (
                "CREATE OR REPLACE DATABASE app",
                "SET GLOBAL read_only = OFF",
                "CREATE OR REPLACE USER app",
                "GRANT ALL ON app.* TO app",
            ):
                await mysql.fetch(admin, statement)
            await users.create(await mysql.connect())
            await mysql.fetch(admin, "SET GLOBAL read_only = ON")
            connection = await mysql.connect(user="app")
            with pytest.raises(mysql.library_error, match="read-only"):
                await users.insert(connection, 1, 1)
            raises = pytest.raises(DatabaseError, match=r"user_events: .*read-only.*\(error 1290\)")
            with raises, mysql.driver.errors("user_events"):
                await mysql.fetch(connection, "INSERT INTO user_events (type, foreign_id) VALUES (1, 'x')")
            assert await stored(mysql) == []
            mysql.close()


# DSNs.


async def message_of(dsn: str, error: type[Exception]) -> str:
    with pytest.raises(error) as raised:
        async with open_pool(dsn):
            pass
    return str(raised.value)


@pytest.mark.parametrize("library", [*MYSQL])
@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (
            "me:s3cret@localhost/app?charset=latin1",
            "parameter 'charset' is not known: accepted is unix_socket",
        ),
        ("me:s3cret@local:port/app", "the DSN's port or its parameters can't be read"),
        ("me:s3cret@localhost/app?ssl", "the DSN's port or its parameters can't be read"),
        ("me:s3cret@localhost/app?ssl=perhaps", "ssl='perhaps' is not accepted: 'true' or 'false' is"),
        ("me:s3cret@localhost/app?ssl_ca=/nowhere", "ssl_ca='/nowhere' can't be read"),
        ("me:s3cret@[::1/app", "the DSN can't be read"),
    ],
)
async def test_a_wrong_dsn_is_reported_without_its_password(library: str, rest: str, reason: str) -> None:
    message = await message_of(f"mysql+{library}://{rest}", ValueError)
    assert reason in message
    assert "s3cret" not in message


async def test_a_server_that_refuses_and_one_that_is_not_there_are_two_things(mysql: MysqlBackend) -> None:
    scheme = f"mysql+{mysql.library}"
    message = await message_of(f"{scheme}://me:s3cret@127.0.0.1:1/app", ConnectionLost)
    assert "127.0.0.1:1/app: the database can't be reached" in message
    assert "s3cret" not in message
    there = mysql.dsn.partition("?")[2]
    for refused in f"nobody:s3cret@localhost/app?{there}", f"root@localhost/no_such_database?{there}":
        message = await message_of(f"{scheme}://{refused}", DatabaseError)
        assert "s3cret" not in message


@pytest.mark.parametrize("missing", [["asyncmy"], ["asyncmy", "aiomysql"]])
async def test_of_the_client_libraries_the_one_installed_is_taken(
    mysql: MysqlBackend, missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> Any:
        return None if name in missing else object()

    monkeypatch.setattr("reflex_aio.sql.drivers.dsn.find_spec", find_spec)
    if len(missing) == 1:
        async with open_pool(mysql.dsn) as pool:
            assert type(pool).__module__.startswith("aiomysql")
    else:
        message = await message_of(mysql.dsn, ModuleNotFoundError)
        assert message == r"mysql:// needs asyncmy or aiomysql: pip install 'reflex-aio[mysql]'"
