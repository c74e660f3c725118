"""Cursors on MySQL and MariaDB: the differences from PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from reflex_aio import CursorConflict, CursorStore, DatabaseError
from reflex_aio.sql import CursorColumns, CursorsTable
from reflex_aio.sql.schema.names import CursorType
from reflex_aio.testing import check_cursor_store, rules_of
from tests.fix_backends import MysqlBackend

pytestmark = pytest.mark.asyncio

CURSORS = CursorsTable("cursors")
# As in the examples of the Go library: without fractions of seconds.
OTHERS = """
CREATE TABLE cursors (id varchar(255) PRIMARY KEY, last_event_id bigint NOT NULL, updated_at datetime NOT NULL)
"""
FOUND_ROWS = 2

_numbers = count(1)


@pytest.mark.parametrize("flush_every", [None, 0.01])
@pytest.mark.parametrize("kind", ["int", "str"])
async def test_cursors_keep_the_rules(
    mysql: MysqlBackend, backend_pool: Any, kind: CursorType, flush_every: float | None
) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[CursorStore]:
        table = CursorsTable(f"cursors_{next(_numbers)}", cursor_type=kind)
        async with backend_pool.acquire() as connection:
            await table.create(connection)
        yield table.store(backend_pool, flush_every=flush_every)

    async with asyncio.TaskGroup() as group:
        for rule in rules_of(check_cursor_store):
            group.create_task(check_cursor_store(make, rules=[rule]))


@pytest.mark.parametrize("flags", [0, FOUND_ROWS], ids=["changed-rows", "found-rows"])
@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_table_of_the_go_library_works(mysql: MysqlBackend, flags: int, autocommit: bool) -> None:
    connection = await mysql.connect(client_flag=flags, autocommit=autocommit)
    await mysql.fetch(connection, OTHERS)
    await CURSORS.validate(connection)
    for cursor in ("9", "9", "10"):
        await CURSORS.set(connection, "a", cursor)
    await CURSORS.set(connection, "a", "10", expected="10")
    with pytest.raises(CursorConflict):
        await CURSORS.set(connection, "a", "9")
    for expected in ("", "9", "11"):
        with pytest.raises(CursorConflict):
            await CURSORS.set(connection, "a", "12", expected=expected)
    await CURSORS.set(connection, "b", "1", expected="")
    conflicts = await CURSORS.set_many(connection, {"a": "3", "b": "2", "c": "7"})
    assert list(conflicts) == ["a"]
    assert await CURSORS.all(connection) == {"a": "10", "b": "2", "c": "7"}


async def test_large_cursors_are_not_compared_as_doubles(mysql: MysqlBackend) -> None:
    connection = await mysql.connect(autocommit=True)
    await CURSORS.create(connection)
    # As doubles, the two are equal.
    low, high = str(2**63 - 2), str(2**63 - 1)
    await CURSORS.set(connection, "a", high)
    with pytest.raises(CursorConflict):
        await CURSORS.set(connection, "a", low)
    with pytest.raises(CursorConflict):
        await CURSORS.set(connection, "a", high, expected=low)
    assert await CURSORS.get(connection, "a") == high


async def test_opaque_cursors_differ_by_case(mysql: MysqlBackend) -> None:
    table = CURSORS.replace(cursor_type="str", columns=CursorColumns(id="name"))
    connection = await mysql.connect(autocommit=True)
    await table.create(connection)
    await table.set(connection, "a", "Page-1")
    with pytest.raises(CursorConflict):
        await table.set(connection, "a", "next", expected="page-1")
    await table.set(connection, "a", "next", expected="Page-1")
    assert await table.all(connection) == {"a": "next"}


async def test_the_lock_timeout_of_the_session_stays(mysql: MysqlBackend) -> None:
    connection = await mysql.connect(autocommit=True)
    await CURSORS.create(connection)
    before = await mysql.value(connection, "SELECT @@innodb_lock_wait_timeout")
    await CURSORS.set_many(connection, {"a": "1"}, lock_timeout=before + 7.0)
    assert await mysql.value(connection, "SELECT @@innodb_lock_wait_timeout") == before


async def test_states_have_the_time_at_which_a_cursor_was_set(mysql: MysqlBackend) -> None:
    east, west = await mysql.connect(autocommit=True), await mysql.connect(autocommit=True)
    await mysql.fetch(east, mysql.set_time_zone.format(9))
    await mysql.fetch(west, mysql.set_time_zone.format(-5))
    await CURSORS.create(east)
    await CURSORS.set(east, "a", "1")
    ours, theirs = await CURSORS.states(east), await CURSORS.states(west)
    now = await mysql.value(west, "SELECT UNIX_TIMESTAMP()")
    assert ours == theirs
    assert ours[0].updated_at is not None
    assert abs(ours[0].updated_at.timestamp() - now) < 60


async def test_a_conflict_reports_the_latest_cursor_rather_than_that_of_the_transactions_snapshot(
    mysql: MysqlBackend,
) -> None:
    connection, rival = await mysql.connect(), await mysql.connect()
    await CURSORS.create(connection)
    await CURSORS.set(connection, "a", "1")
    await connection.begin()
    assert await CURSORS.get(connection, "a") == "1"
    await CURSORS.set(rival, "a", "9")
    with pytest.raises(CursorConflict, match="9"):
        await CURSORS.set(connection, "a", "5")
    with pytest.raises(CursorConflict, match="9"):
        await CURSORS.set(connection, "a", "10", expected="1")
    await connection.rollback()


async def test_a_newline_makes_a_cursor_opaque(mysql: MysqlBackend) -> None:
    connection, cursors = await mysql.connect(), CursorsTable("opaque", cursor_type="str")
    await cursors.create(connection)
    for cursor in "9\n", "8\n", "7":
        await cursors.set(connection, "a", cursor)
        assert await cursors.get(connection, "a") == cursor


# Locks of other transactions.


async def test_after_a_lock_timeout_the_session_has_its_own_timeout_again(
    mysql: MysqlBackend,
) -> None:
    holder, waiter = await mysql.connect(), await mysql.connect()
    await CURSORS.create(holder)
    await CURSORS.set(holder, "a", "1")
    before = await mysql.value(waiter, "SELECT @@innodb_lock_wait_timeout")
    await mysql.fetch(holder, "BEGIN")
    await CURSORS.set(holder, "a", "2")
    with pytest.raises(mysql.library_error, match="Lock wait timeout"):
        await CURSORS.set_many(waiter, {"a": "3"}, lock_timeout=1.0)
    assert await mysql.value(waiter, "SELECT @@innodb_lock_wait_timeout") == before != 1
    await mysql.fetch(holder, "ROLLBACK")


async def deadlocked(
    mysql: MysqlBackend, moving: Callable[[], Coroutine[Any, Any, None]]
) -> asyncio.Task[None]:
    """Let ``moving`` set the cursor of "a" in a deadlock with another transaction, which survives and sets it to 5."""
    connection = await mysql.connect()
    await CURSORS.create(connection)
    await CURSORS.set(connection, "a", "1")
    await mysql.fetch(connection, "CREATE TABLE others (id int PRIMARY KEY)")
    await mysql.fetch(connection, "INSERT INTO others VALUES (1)")
    await mysql.fetch(
        connection,
        "CREATE TRIGGER others_too BEFORE UPDATE ON cursors FOR EACH ROW"
        " SET @locked = (SELECT id FROM others WHERE id = 1 FOR UPDATE)",
    )
    await mysql.fetch(connection, "BEGIN")
    # The server rolls back the transaction that has written less.
    values = ", ".join(f"({number})" for number in range(2, 100))
    await mysql.fetch(connection, f"INSERT INTO others VALUES {values}")
    await mysql.fetch(connection, "UPDATE others SET id = 0 WHERE id = 1")
    task = asyncio.create_task(moving())
    await mysql.waiting_for_locks(1)
    await CURSORS.set(connection, "a", "5")
    await mysql.fetch(connection, "COMMIT")
    return task


async def test_a_store_retries_after_a_deadlock(mysql: MysqlBackend, backend_pool: Any) -> None:
    store = CURSORS.store(backend_pool)
    await (await deadlocked(mysql, lambda: store.set("a", "7")))
    assert await store.get("a") == "7"


async def test_a_deadlock_in_the_callers_transaction_is_raised(
    mysql: MysqlBackend, backend_pool: Any
) -> None:
    async def move() -> None:
        async with CURSORS.store(backend_pool).transaction("a", "7", expected="1"):
            raise AssertionError

    with pytest.raises(DatabaseError, match=r"cursors: Deadlock found .*\(error 1213\)") as raised:
        await (await deadlocked(mysql, move))
    assert raised.value.lock_conflict


@pytest.mark.one_library
async def test_a_lock_timeout_is_raised_after_the_last_retry(mysql: MysqlBackend) -> None:
    holder = await mysql.connect()
    await CURSORS.create(holder)
    await CURSORS.set(holder, "a", "1")
    await mysql.fetch(holder, "BEGIN")
    await CURSORS.set(holder, "a", "2")
    async with mysql.pool(init_command="SET SESSION innodb_lock_wait_timeout = 1") as pool:
        with pytest.raises(DatabaseError, match=r"cursors: Lock wait timeout .*\(error 1205\)"):
            await CURSORS.store(pool).set("a", "3")
    await mysql.fetch(holder, "ROLLBACK")
