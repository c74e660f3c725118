"""The drivers of MySQL's client libraries: statements, transactions and errors, whatever the session is set to."""

from pathlib import Path
from typing import Any

import pytest

from reflex_aio import ConnectionLost, DatabaseError
from reflex_aio.errors import SchemaError, TableNotFound
from reflex_aio.sql.drivers import driver_of_connection, driver_of_pool
from reflex_aio.testing.contract import cancelled_at
from tests.fix_backends import MysqlBackend
from tests.sql.mysql.malicious_server import malicious_server

pytestmark = pytest.mark.asyncio

TEXTS = [
    "plain",
    "",
    "it's",
    'say "so"',
    "back\\slash",
    "a\nb\0c\x1a",
    "%s %d %%",
    "é",
    "\U0001f600",
    "NULL",
    "-- #",
]
BYTES = [b"", b"plain", b"'\\\"\0\n\xff%s", bytes(range(256))]
SQL_MODES = [
    "",
    "NO_BACKSLASH_ESCAPES",
    "ANSI_QUOTES,PIPES_AS_CONCAT,IGNORE_SPACE",
    "ANSI",
    "STRICT_ALL_TABLES",
]
CHARSETS = ["utf8mb4", "utf8", "latin1", "ascii", "cp932"]


async def table_of_numbers(mysql: MysqlBackend) -> Any:
    connection = await mysql.connect()
    await mysql.fetch(connection, "CREATE TABLE numbers (n int PRIMARY KEY)")
    return connection


async def numbers(mysql: MysqlBackend) -> list[int]:
    """What is committed."""
    rows = await mysql.fetch(await mysql.connect(), "SELECT n FROM numbers ORDER BY n")
    return [row[0] for row in rows]


# Statements.


@pytest.mark.parametrize("sql_mode", SQL_MODES)
@pytest.mark.parametrize("charset", CHARSETS)
async def test_values_arrive_as_they_are_in_every_session(
    mysql: MysqlBackend, sql_mode: str, charset: str
) -> None:
    connection = await mysql.connect(charset=charset, init_command=f"SET sql_mode = '{sql_mode}'")
    fetch = mysql.driver.fetch
    await fetch(connection, "CREATE TABLE given (n int, t text CHARACTER SET utf8mb4, b longblob)")
    for n, value in enumerate([*TEXTS, *BYTES]):
        column = "t" if isinstance(value, str) else "b"
        await fetch(connection, f"INSERT INTO given (n, {column}) VALUES (%s, %s)", n, value)
    rows = await fetch(connection, "SELECT CAST(t AS BINARY), b FROM given ORDER BY n")
    assert [row[0].decode() for row in rows if row[0] is not None] == TEXTS
    assert [row[1] for row in rows if row[1] is not None] == BYTES
    for n, text in enumerate(TEXTS):
        assert await fetch(connection, "SELECT n FROM given WHERE BINARY t = %s", text) == ((n,),)


async def test_numbers_and_null_arrive_as_they_are(mysql: MysqlBackend) -> None:
    given = (None, True, False, 0, -1, 2**63 - 1, -(2**63), 0.1, -1e-300, 1e22)
    markers = ", ".join(["%s"] * len(given))
    rows = await mysql.driver.fetch(await mysql.connect(), f"SELECT {markers}", *given)
    assert tuple(map(float, rows[0][1:])) == tuple(map(float, given[1:]))
    assert rows[0][0] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", object(), (1, 2)])
async def test_a_value_that_has_no_literal_is_refused(mysql: MysqlBackend, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        await mysql.driver.fetch(await mysql.connect(), "SELECT %s", value)


async def test_a_name_that_the_character_set_lacks_is_an_error(mysql: MysqlBackend) -> None:
    connection = await mysql.connect(charset="latin1")
    with pytest.raises(ValueError, match="has no '表': connect with charset='utf8mb4'"):
        await mysql.fetch(connection, "SELECT * FROM `表`")
    assert await mysql.value(connection, "SELECT 1") == 1


async def test_rows_are_tuples_whatever_cursors_the_connection_makes(mysql: MysqlBackend) -> None:
    for name in "DictCursor", "SSCursor", "SSDictCursor":
        connection = await mysql.connect(**{mysql.cursor_argument: getattr(mysql.cursors, name)})
        assert tuple(await mysql.driver.fetch(connection, "SELECT 1, %s", "a")) == ((1, "a"),)
        assert tuple(await mysql.fetch(connection, "SELECT 1 FROM dual WHERE false")) == ()


async def test_a_statement_without_rows_returns_its_effects(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await mysql.fetch(connection, "CREATE TABLE given (id bigint AUTO_INCREMENT PRIMARY KEY, n int)")
    inserted = await mysql.fetch(connection, "INSERT INTO given (n) VALUES (1), (2), (3)")
    assert inserted == ((3, 1, False),)
    assert await mysql.fetch(connection, "INSERT INTO given (n) VALUES (4)") == ((1, 4, False),)
    assert await mysql.fetch(connection, "UPDATE given SET n = 0 WHERE id > 2") == ((2, 0, False),)
    assert await mysql.fetch(connection, "DELETE FROM given WHERE id > 9") == ((0, 0, False),)


async def test_warnings_only_set_a_flag(mysql: MysqlBackend, caplog: pytest.LogCaptureFixture) -> None:
    connection = await mysql.connect(init_command="SET sql_mode = ''")
    await mysql.fetch(connection, "CREATE TABLE given (t varchar(1))")
    assert await mysql.fetch(connection, "INSERT INTO given VALUES ('long')") == ((1, 0, True),)
    # The flag is that statement's.
    assert await mysql.fetch(connection, "INSERT INTO given VALUES ('l')") == ((1, 0, False),)
    assert caplog.records == []


# Transactions.


async def undo(mysql: MysqlBackend, connection: Any, statement: str) -> None:
    """Run a statement in a transaction that fails."""
    with pytest.raises(LookupError):
        await fail_after(mysql, connection, statement)


async def fail_after(mysql: MysqlBackend, connection: Any, statement: str) -> None:
    async with mysql.driver.transaction(connection):
        await mysql.fetch(connection, statement)
        raise LookupError


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_transaction_commits_or_is_undone_and_leaves_autocommit(
    mysql: MysqlBackend, autocommit: bool
) -> None:
    await table_of_numbers(mysql)
    connection = await mysql.connect(autocommit=autocommit)
    async with mysql.driver.transaction(connection):
        await mysql.fetch(connection, "INSERT INTO numbers VALUES (1)")
    await undo(mysql, connection, "INSERT INTO numbers VALUES (2)")
    assert connection.get_autocommit() is autocommit
    # Without autocommit the end of the transaction is the caller's affair.
    assert await numbers(mysql) == ([1] if autocommit else [])
    await connection.commit()
    assert await numbers(mysql) == [1]


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_transaction_within_the_callers_is_a_savepoint(mysql: MysqlBackend, autocommit: bool) -> None:
    await table_of_numbers(mysql)
    connection = await mysql.connect(autocommit=autocommit)
    await connection.begin()
    await mysql.fetch(connection, "INSERT INTO numbers VALUES (1)")
    async with mysql.driver.transaction(connection):
        await mysql.fetch(connection, "INSERT INTO numbers VALUES (2)")
        await undo(mysql, connection, "INSERT INTO numbers VALUES (3)")
    assert await numbers(mysql) == []
    await connection.commit()
    assert await numbers(mysql) == [1, 2]


async def test_a_transaction_that_a_select_has_begun_is_not_committed(mysql: MysqlBackend) -> None:
    connection = await table_of_numbers(mysql)
    await connection.autocommit(False)
    await mysql.fetch(connection, "SELECT * FROM numbers")
    async with mysql.driver.transaction(connection):
        await mysql.fetch(connection, "INSERT INTO numbers VALUES (1)")
    await connection.rollback()
    assert await numbers(mysql) == []


async def test_what_went_wrong_is_raised_though_nothing_is_left_to_undo(mysql: MysqlBackend) -> None:
    connection = await table_of_numbers(mysql)
    await undo(mysql, connection, "ROLLBACK")
    async with mysql.driver.transaction(connection):
        await undo(mysql, connection, "ROLLBACK")


async def test_a_transaction_cancelled_at_any_await_is_undone_or_whole(mysql: MysqlBackend) -> None:
    await table_of_numbers(mysql)

    async def work(number: int) -> None:
        connection = await mysql.connect()
        async with mysql.driver.transaction(connection):
            await mysql.fetch(connection, f"INSERT INTO numbers VALUES ({number})")
            await mysql.fetch(connection, f"INSERT INTO numbers VALUES ({-number})")

    step = 1
    while await cancelled_at(step, work(step)):
        step += 1
    committed = await numbers(mysql)
    # The server may have received a COMMIT whose result was not waited for.
    assert committed == sorted(-number for number in committed)
    assert step in committed
    assert 1 not in committed
    assert step > 4


# Errors.


async def raised(mysql: MysqlBackend, connection: Any, statement: str, table: str = "numbers") -> Exception:
    with pytest.raises(Exception) as caught, mysql.driver.errors(table):  # noqa: PT011
        await mysql.fetch(connection, statement)
    return caught.value


async def test_errors_are_translated_by_their_numbers(mysql: MysqlBackend) -> None:
    connection = await table_of_numbers(mysql)
    error = await raised(mysql, connection, "SELECT 1 FROM nowhere", "nowhere")
    assert isinstance(error, TableNotFound)
    error = await raised(mysql, connection, "SELECT 1 FROM nowhere", "elsewhere")
    assert type(error) is DatabaseError
    error = await raised(mysql, connection, "SELECT 1 FROM no_db.nowhere", "no_db.nowhere")
    assert isinstance(error, TableNotFound)
    error = await raised(mysql, connection, "SELECT m FROM numbers")
    assert isinstance(error, SchemaError)
    error = await raised(mysql, connection, "INSERT INTO numbers VALUES ('x')")
    assert isinstance(error, SchemaError)
    error = await raised(mysql, connection, "SELEKT")
    assert type(error) is DatabaseError
    assert "(error 1064)" in str(error)


async def test_of_a_callers_statement_only_the_schemas_errors_are_ours(mysql: MysqlBackend) -> None:
    connection = await table_of_numbers(mysql)
    with pytest.raises(SchemaError), mysql.driver.errors("numbers", schema_only=True):
        await mysql.fetch(connection, "SELECT m FROM numbers")
    with pytest.raises(mysql.library_error), mysql.driver.errors("numbers", schema_only=True):
        await mysql.fetch(connection, "INSERT INTO numbers VALUES (1), (1)")


async def test_a_killed_connection_is_lost(mysql: MysqlBackend) -> None:
    killer, connection = await table_of_numbers(mysql), await mysql.connect()
    await mysql.fetch(killer, f"KILL {await mysql.value(connection, 'SELECT CONNECTION_ID()')}")
    # Before, at and after the moment when this side notices.
    for _ in range(3):
        assert isinstance(await raised(mysql, connection, "SELECT 1"), ConnectionLost)


async def test_a_server_that_is_not_there_is_lost(mysql: MysqlBackend) -> None:
    for arguments in {"unix_socket": "/nowhere"}, {"unix_socket": None, "host": "127.0.0.1", "port": 1}:
        with pytest.raises(ConnectionLost), mysql.driver.errors("numbers"):
            await mysql.connect(**arguments)


async def test_a_server_gets_no_file_of_the_client(mysql: MysqlBackend, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("password")
    async with malicious_server(secret, on=b"SELECT 1") as server:
        connection = await mysql.connect(unix_socket=None, host="127.0.0.1", port=server.port)
        with pytest.raises(RuntimeError, match="LOAD_LOCAL"):
            await mysql.fetch(connection, "SELECT 1")
        connection.close()
    assert server.received == []


# What is given.


async def test_an_object_that_was_not_awaited_is_refused(mysql: MysqlBackend) -> None:
    async with mysql.pool() as pool:
        acquiring = pool.acquire()
        with pytest.raises(TypeError, match="was not awaited"):
            driver_of_connection(acquiring)
        connection = await acquiring
        assert driver_of_connection(connection).name == mysql.library
        with pytest.raises(TypeError, match="is a connection: pass a pool"):
            driver_of_pool(connection)
        with pytest.raises(TypeError, match="is a pool: pass a connection"):
            driver_of_connection(pool)
        pool.release(connection)


async def test_connections_to_one_database_as_one_user_have_one_server(mysql: MysqlBackend) -> None:
    one, two, none = await mysql.connect(), await mysql.connect(), await mysql.connect(db=None)
    await mysql.fetch(none, "SET @before = 1")
    assert await mysql.driver.server(one) == await mysql.driver.server(two)
    assert await mysql.driver.server(one) != await mysql.driver.server(none)
    await mysql.fetch(none, f"USE `{mysql.arguments['db']}`")
    assert await mysql.driver.server(one) == await mysql.driver.server(none)
