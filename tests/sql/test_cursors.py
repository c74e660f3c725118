"""The cursors table, on the caller's connection."""

import asyncio
import random
from typing import Any

import asyncpg
import pytest

from reflex_aio.errors import CursorConflict, DatabaseError, InvalidCursor, SchemaError, TableNotFound
from reflex_aio.hooks import Hooks, install
from reflex_aio.sql.cursors.table import CursorsTable
from reflex_aio.sql.schema.names import CursorColumns
from tests.fix_databases import Connect
from tests.fix_statements import Statements
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

cursors = CursorsTable("cursors")
opaque = CursorsTable("cursors", cursor_type="str")


async def made(connect: Connect, table: CursorsTable = cursors) -> asyncpg.Connection:
    """Return a connection to a database with the table."""
    connection = await connect()
    await table.create(connection)
    return connection


class Counted(Hooks):
    def __init__(self) -> None:
        self.sets: list[str] = []

    def cursor_set(self, table: str) -> None:
        self.sets.append(table)


# Reading and setting.


@pytest.mark.every_postgres
async def test_a_cursor_that_was_never_set_is_empty(connect: Connect) -> None:
    connection = await made(connect)
    assert await cursors.get(connection, "a") == ""
    assert await cursors.all(connection) == {}


@pytest.mark.every_postgres
async def test_each_consumer_has_its_cursor(connect: Connect) -> None:
    connection = await made(connect)
    await cursors.set(connection, "a", "1")
    await cursors.set(connection, "b", "7")
    await cursors.set(connection, "a", "3")
    assert await cursors.get(connection, "a") == "3"
    assert await cursors.all(connection) == {"a": "3", "b": "7"}


@pytest.mark.every_postgres
async def test_a_cursor_never_moves_backwards(connect: Connect) -> None:
    connection = await made(connect)
    await cursors.set(connection, "a", "10")
    with pytest.raises(CursorConflict) as raised:
        await cursors.set(connection, "a", "9")
    assert (raised.value.consumer, raised.value.stored, raised.value.given) == ("a", "10", "9")
    assert await cursors.get(connection, "a") == "10"


async def test_a_cursor_may_be_set_where_it_is(connect: Connect) -> None:
    connection = await made(connect)
    for cursor in ("10", "10", "0010"):
        await cursors.set(connection, "a", cursor)
    assert await cursors.get(connection, "a") == "10"


async def test_the_time_of_the_last_move_is_stored(connect: Connect) -> None:
    connection = await made(connect)
    times = []
    for cursor in ("1", "2"):
        await cursors.set(connection, "a", cursor)
        times.append(await connection.fetchval("SELECT updated_at FROM cursors"))
    assert times[0] < times[1]


async def test_a_set_is_part_of_the_callers_transaction(connect: Connect) -> None:
    connection = await made(connect)
    await cursors.set(connection, "a", "1")
    transaction = connection.transaction()
    await transaction.start()
    await cursors.set(connection, "a", "2")
    await transaction.rollback()
    assert await cursors.get(connection, "a") == "1"


async def test_a_conflict_leaves_the_callers_transaction_usable(connect: Connect) -> None:
    connection = await made(connect)
    async with connection.transaction():
        await cursors.set(connection, "a", "5")
        with pytest.raises(CursorConflict):
            await cursors.set(connection, "a", "4")
        with pytest.raises(CursorConflict):
            await cursors.set(connection, "a", "6", expected="4")
        await cursors.set(connection, "a", "6")
    assert await cursors.get(connection, "a") == "6"


async def test_exceptions_of_the_client_library_reach_the_caller(connect: Connect) -> None:
    connection, other = await made(connect), await connect()
    await cursors.set(connection, "a", "1")
    async with connection.transaction(isolation="repeatable_read"):
        await cursors.get(connection, "a")
        await cursors.set(other, "a", "2")
        with pytest.raises(asyncpg.SerializationError):
            async with connection.transaction():
                await cursors.set(connection, "a", "3")


@pytest.mark.parametrize(
    "cursor", ["x", "", "-1", "1.5", " 1", "1 ", "1_000", "٣", "1e3", str(2**63), "9" * 5000]
)
async def test_an_integer_cursor_has_digits_only_and_64_bits(connect: Connect, cursor: str) -> None:
    connection = await made(connect)
    with pytest.raises(InvalidCursor, match="accepted is a string of digits, up to 9223372036854775807"):
        await cursors.set(connection, "a", cursor)
    assert await cursors.all(connection) == {}


async def test_the_greatest_cursor_is_accepted(connect: Connect) -> None:
    connection = await made(connect)
    await cursors.set(connection, "a", str(2**63 - 1))
    assert await cursors.get(connection, "a") == str(2**63 - 1)


@pytest.mark.parametrize("cursor", [7, None, b"7"])
async def test_a_cursor_is_a_string(connect: Connect, cursor: Any) -> None:
    connection = await made(connect)
    for table in (cursors, opaque):
        with pytest.raises(TypeError, match="accepted is a str"):
            await table.set(connection, "a", cursor)


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("a\0", ValueError), (None, TypeError)])
async def test_a_consumer_has_a_name(connect: Connect, name: Any, error: type[Exception]) -> None:
    connection = await made(connect)
    for call in (
        cursors.set(connection, name, "1"),
        cursors.set(connection, name, "1", expected=""),
        cursors.get(connection, name),
        cursors.rewind(connection, name, "1"),
    ):
        with pytest.raises(error, match="consumer name"):
            await call


# With an expected cursor.


@pytest.mark.every_postgres
async def test_an_expected_cursor_is_where_it_moves_from(connect: Connect) -> None:
    connection = await made(connect)
    await cursors.set(connection, "a", "1", expected="")
    await cursors.set(connection, "a", "5", expected="1")
    await cursors.set(connection, "a", "5", expected="005")
    assert await cursors.get(connection, "a") == "5"


@pytest.mark.every_postgres
@pytest.mark.parametrize(("stored", "expected"), [("5", "4"), ("5", "6"), ("5", ""), ("", "5")])
async def test_a_cursor_that_is_not_where_it_is_expected_stays(
    connect: Connect, stored: str, expected: str
) -> None:
    connection = await made(connect)
    await cursors.rewind(connection, "a", stored)
    with pytest.raises(CursorConflict) as raised:
        await cursors.set(connection, "a", "7", expected=expected)
    error = raised.value
    assert (error.consumer, error.stored, error.given, error.expected) == ("a", stored, "7", expected)
    assert await cursors.get(connection, "a") == stored


async def test_an_expected_cursor_does_not_move_backwards_either(connect: Connect) -> None:
    connection = await made(connect)
    await cursors.set(connection, "a", "5")
    with pytest.raises(CursorConflict) as raised:
        await cursors.set(connection, "a", "4", expected="5")
    assert (raised.value.stored, raised.value.given, raised.value.expected) == ("5", "4", None)


async def test_of_two_sets_that_expect_the_same_cursor_one_moves_it(connect: Connect) -> None:
    connections = [await made(connect), await connect()]
    results = await asyncio.gather(
        *(cursors.set(c, "a", str(i), expected="") for i, c in enumerate(connections, 1)),
        return_exceptions=True,
    )
    (conflict,) = (result for result in results if result is not None)
    assert isinstance(conflict, CursorConflict)
    assert conflict.stored == await cursors.get(connections[0], "a") != ""


# Strings.


@pytest.mark.every_postgres
async def test_opaque_cursors_have_no_order(connect: Connect) -> None:
    connection = await made(connect, opaque)
    for cursor in ("b", "a", "page/2?x='1'", "10", "a9", "5"):
        await opaque.set(connection, "a", cursor)
        assert await opaque.get(connection, "a") == cursor


@pytest.mark.every_postgres
async def test_strings_of_digits_do_not_move_backwards(connect: Connect) -> None:
    connection = await made(connect, opaque)
    great = "1" + "0" * 5000
    for cursor in ("9", "10", "010", great):
        await opaque.set(connection, "a", cursor)
    with pytest.raises(CursorConflict) as raised:
        await opaque.set(connection, "a", "99")
    assert (raised.value.stored, raised.value.given) == (great, "99")


async def test_an_expected_cursor_guards_opaque_cursors(connect: Connect) -> None:
    connection = await made(connect, opaque)
    await opaque.set(connection, "a", "x", expected="")
    await opaque.set(connection, "a", "b", expected="x")
    with pytest.raises(CursorConflict, match="the stored cursor is 'b', not 'x'"):
        await opaque.set(connection, "a", "c", expected="x")


@pytest.mark.parametrize("cursor", ["", "a\0b", "\udc80"])
async def test_strings_that_a_database_cannot_store_are_refused(connect: Connect, cursor: str) -> None:
    connection = await made(connect, opaque)
    with pytest.raises(InvalidCursor):
        await opaque.set(connection, "a", cursor)


# Several at once.


@pytest.mark.suite_server
async def test_many_cursors_are_set_by_one_statement(connect: Connect, statements: Statements) -> None:
    connection = await made(connect)
    statements.taken()
    wanted = {f"consumer {i}": str(i) for i in range(100)}
    assert await cursors.set_many(connection, wanted) == {}
    assert len(statements.taken()) == 1
    assert await cursors.all(connection) == wanted


async def test_a_conflict_among_many_holds_back_none_of_the_others(connect: Connect) -> None:
    connection = await made(connect)
    await cursors.set(connection, "b", "10")
    conflicts = await cursors.set_many(connection, {"a": "1", "b": "2", "c": "3"})
    assert {name: (conflict.stored, conflict.given) for name, conflict in conflicts.items()} == {
        "b": ("10", "2")
    }
    assert await cursors.all(connection) == {"a": "1", "b": "10", "c": "3"}


async def test_statements_that_set_the_same_cursors_do_not_deadlock(connect: Connect) -> None:
    connections = [await made(connect), *[await connect() for _ in range(3)]]
    names = [f"consumer {i}" for i in range(200)]

    async def move(connection: asyncpg.Connection, seed: int) -> None:
        for cursor in range(20):
            shuffled = random.Random(seed + cursor).sample(names, len(names))
            await cursors.set_many(connection, {name: str(cursor) for name in shuffled})

    async with asyncio.TaskGroup() as group:
        for i, connection in enumerate(connections):
            group.create_task(move(connection, 100 * i))
    assert set((await cursors.all(connections[0])).values()) == {"19"}


# Concurrency.


@pytest.mark.every_postgres
async def test_50_sets_at_once_end_at_the_greatest_and_never_move_back(
    connect: Connect, pool: asyncpg.Pool, seed: int
) -> None:
    connection = await made(connect)
    # The cursor after every statement, in the order of their locks.
    await connection.execute(
        "CREATE TABLE history (at serial, cursor bigint);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO history (cursor) VALUES (new.last_event_id); RETURN new; END';"
        "CREATE TRIGGER note AFTER INSERT OR UPDATE ON cursors FOR EACH ROW EXECUTE FUNCTION note()"
    )

    async def move(cursor: int) -> CursorConflict | None:
        async with pool.acquire() as own:
            try:
                await cursors.set(own, "a", str(cursor))
            except CursorConflict as exc:
                return exc
        return None

    conflicts = await asyncio.gather(*(move(i) for i in random.Random(seed).sample(range(1, 51), 50)))
    assert await cursors.get(connection, "a") == "50"
    history = [row["cursor"] for row in await connection.fetch("SELECT cursor FROM history ORDER BY at")]
    assert history == sorted(history)
    for conflict in filter(None, conflicts):
        assert int(conflict.given) < int(conflict.stored)
        assert int(conflict.stored) in history


async def test_a_conflict_reports_the_cursor_that_another_transaction_has_stored(connect: Connect) -> None:
    connection, other = await made(connect), await connect()
    await cursors.set(connection, "a", "10")
    async with asyncio.TaskGroup() as group, other.transaction():
        await cursors.set(other, "a", "50")
        late = group.create_task(catch(cursors.set(connection, "a", "40")))
        await until_waiting(other, connection)
    conflict = await late
    assert (conflict.stored, conflict.given) == ("50", "40")


async def test_a_conflict_with_an_expected_cursor_reports_the_cursor_that_another_transaction_has_stored(
    connect: Connect,
) -> None:
    connection, other = await made(connect), await connect()
    await cursors.set(connection, "a", "10")
    async with asyncio.TaskGroup() as group, other.transaction():
        await cursors.set(other, "a", "30")
        late = group.create_task(catch(cursors.set(connection, "a", "40", expected="10")))
        await until_waiting(other, connection)
    conflict = await late
    assert (conflict.stored, conflict.given, conflict.expected) == ("30", "40", "10")


async def catch(call: Any) -> CursorConflict:
    with pytest.raises(CursorConflict) as raised:
        await call
    return raised.value


async def until_waiting(observer: asyncpg.Connection, connection: asyncpg.Connection) -> None:
    """Return when ``connection`` waits for a lock of ``observer``."""

    async def waits() -> bool:
        blocking: list[int] = await observer.fetchval(
            "SELECT pg_blocking_pids($1)", connection.get_server_pid()
        )
        return bool(blocking)

    await eventually(waits, "a statement that waits for a lock")


class Interrupted(asyncpg.Connection):
    """Calls ``between`` after the first statement that has found nothing to do."""

    between: Any = None

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        rows = await super().fetch(*args, **kwargs)
        if not rows and self.between is not None:
            between, self.between = self.between, None
            await between
        return rows


async def interrupted_by(connect: Connect, between: Any) -> asyncpg.Connection:
    connection = await connect(connection_class=Interrupted)
    assert isinstance(connection, Interrupted)
    connection.between = between
    return connection


@pytest.mark.parametrize("cursor", ["10", ""])
async def test_a_refused_set_is_retried_if_the_cursor_was_rewound_since(
    connect: Connect, cursor: str
) -> None:
    other = await made(connect)
    await cursors.set(other, "a", "50")
    connection = await interrupted_by(connect, cursors.rewind(other, "a", cursor))
    await cursors.set(connection, "a", "40")
    assert await cursors.get(other, "a") == "40"


async def test_a_set_with_an_expected_cursor_is_retried_if_the_cursor_came_there_since(
    connect: Connect,
) -> None:
    other = await made(connect)
    await cursors.set(other, "a", "10")
    connection = await interrupted_by(connect, cursors.set(other, "a", "30"))
    await cursors.set(connection, "a", "40", expected="30")
    assert await cursors.get(other, "a") == "40"


async def test_a_trigger_that_keeps_a_cursor_from_moving_is_an_error(connect: Connect) -> None:
    connection = await made(connect)
    await connection.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER no BEFORE INSERT OR UPDATE ON cursors FOR EACH ROW EXECUTE FUNCTION no()"
    )
    for expected in (None, ""):
        with pytest.raises(DatabaseError, match="is there a trigger or a policy on the table"):
            await cursors.set(connection, "a", "1", expected=expected)


# Rewinding.


@pytest.mark.every_postgres
@pytest.mark.parametrize("table", [cursors, opaque], ids=["int", "str"])
async def test_a_rewind_sets_a_cursor_anywhere(connect: Connect, table: CursorsTable) -> None:
    connection = await made(connect, table)
    await table.set(connection, "a", "10")
    for cursor in ("3", "30", "0"):
        await table.rewind(connection, "a", cursor)
        assert await table.get(connection, "a") == cursor
    await table.rewind(connection, "new", "8")
    assert await table.all(connection) == {"a": "0", "new": "8"}


@pytest.mark.every_postgres
async def test_a_rewind_to_the_beginning_removes_the_cursor(connect: Connect) -> None:
    connection = await made(connect)
    await cursors.set(connection, "a", "10")
    for _ in range(2):
        await cursors.rewind(connection, "a", "")
        assert await cursors.all(connection) == {}
    await cursors.set(connection, "a", "1", expected="")


async def test_a_rewind_accepts_cursors_only(connect: Connect) -> None:
    connection = await made(connect)
    with pytest.raises(InvalidCursor):
        await cursors.rewind(connection, "a", "x")


# The table.


@pytest.mark.every_postgres
@pytest.mark.parametrize("cursor_type", ["int", "str"])
async def test_a_table_may_have_names_of_its_own(connect: Connect, cursor_type: Any) -> None:
    connection = await connect()
    await connection.execute("CREATE SCHEMA app")
    columns = CursorColumns(id="Consumer", last_event_id="cursor", updated_at="at-last")
    table = CursorsTable("app.User-Cursors", columns=columns, cursor_type=cursor_type)
    await table.create(connection)
    await table.validate(connection)
    await table.set(connection, "a", "1")
    await table.set(connection, "a", "2", expected="1")
    await table.rewind(connection, "b", "1")
    assert await table.all(connection) == {"a": "2", "b": "1"}
    assert (
        await connection.fetchval('SELECT "cursor"::text FROM app."User-Cursors" WHERE "Consumer" = \'a\'')
        == "2"
    )


async def test_the_ddl_makes_the_table_that_create_makes(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(cursors.ddl())
    await cursors.create(connection)
    await cursors.validate(connection)


async def test_tables_with_narrower_columns_can_be_used(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(
        "CREATE TABLE cursors (id varchar(20) PRIMARY KEY, last_event_id int NOT NULL, updated_at timestamp)"
    )
    await cursors.validate(connection)
    await cursors.set(connection, "a", "1")
    await cursors.set(connection, "a", "2", expected="1")
    await cursors.rewind(connection, "a", "1")
    with pytest.raises(asyncpg.NumericValueOutOfRangeError):
        await cursors.set(connection, "a", str(2**31))
    with pytest.raises(asyncpg.StringDataRightTruncationError):
        await cursors.set(connection, "a" * 21, "1")


async def test_validate_reports_every_difference(connect: Connect) -> None:
    connection = await connect()
    await connection.execute("CREATE TABLE cursors (id text, last_event_id text NOT NULL)")
    with pytest.raises(SchemaError) as raised:
        await cursors.validate(connection)
    assert raised.value.table == "cursors"
    assert len(raised.value.differences) == 4, raised.value.differences


async def test_a_missing_table_is_named(connect: Connect) -> None:
    connection = await connect()
    table = CursorsTable("app.nowhere")
    for call in (
        table.get(connection, "a"),
        table.all(connection),
        table.set(connection, "a", "1"),
        table.set(connection, "a", "1", expected=""),
        table.set_many(connection, {"a": "1"}),
        table.rewind(connection, "a", "1"),
        table.validate(connection),
    ):
        with pytest.raises(TableNotFound, match=r"app\.nowhere: the table does not exist"):
            await call


async def test_a_missing_column_is_named(connect: Connect) -> None:
    connection = await made(connect)
    table = cursors.replace(columns=CursorColumns(last_event_id="cursor"))
    with pytest.raises(SchemaError, match=r'cursors: .*"cursor" does not exist'):
        await table.get(connection, "a")


@pytest.mark.parametrize("name", ['cur"sors', "cursors; DROP TABLE users", "cur sors", "", "a.b.c"])
async def test_a_name_that_is_not_plain_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="accepted"):
        CursorsTable(name)


async def test_an_unknown_cursor_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'int' or 'str'"):
        CursorsTable("cursors", cursor_type="bytes")  # type: ignore[arg-type]


async def test_an_object_that_is_not_a_connection_is_refused(connect: Connect, pool: asyncpg.Pool) -> None:
    for call in (
        cursors.get(pool, "a"),
        cursors.set(pool, "a", "1"),
        cursors.all(pool),
        cursors.create(pool),
    ):
        with pytest.raises(TypeError, match=r"is a pool: pass a connection: async with pool\.acquire\(\)"):
            await call
    with pytest.raises(
        TypeError, match="is not a connection: accepted is an asyncpg, psycopg, aiomysql or asyncmy"
    ):
        await cursors.set("postgresql://", "a", "1")
    with pytest.raises(TypeError, match="is a connection: pass a pool"):
        cursors.store(await connect())
    with pytest.raises(TypeError, match="is not a pool"):
        cursors.store(None)


async def test_a_pools_connection_is_a_connection(connect: Connect, pool: asyncpg.Pool) -> None:
    await made(connect)
    async with pool.acquire() as connection, connection.transaction():
        await cursors.set(connection, "a", "1")
        assert await cursors.get(connection, "a") == "1"


# Hooks and changes.


async def test_hooks_are_called_for_each_cursor_set(connect: Connect) -> None:
    connection = await made(connect)
    hooks = Counted()
    table = CursorsTable("cursors", hooks=hooks)
    await table.set_many(connection, {"a": "5", "b": "5"})
    await table.set(connection, "a", "6", expected="5")
    await table.rewind(connection, "a", "5")
    with pytest.raises(CursorConflict):
        await table.set(connection, "a", "1")
    assert hooks.sets == ["cursors"] * 4


async def test_a_replaced_table_keeps_everything_else(connect: Connect) -> None:
    hooks = Counted()
    columns = CursorColumns(last_event_id="cursor")
    table = CursorsTable("a", columns=columns, cursor_type="str", hooks=hooks).replace(name="cursors")
    assert (table.name, table.columns, table.cursor_type) == ("cursors", columns, "str")
    connection = await made(connect, table)
    await table.set(connection, "a", "x")
    assert hooks.sets == ["cursors"]
    with pytest.raises(TypeError, match="colums"):
        table.replace(colums=columns)


async def test_a_replaced_table_uses_the_hooks_installed_when_it_is_made(connect: Connect) -> None:
    connection = await made(connect)
    hooks = Counted()
    before = install(hooks)
    try:
        table = cursors.replace()
    finally:
        install(before)
    await table.set(connection, "a", "1")
    assert hooks.sets == ["cursors"]
