"""Inserting events on PostgreSQL: what its transactions, search path, types and triggers have to do with it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import IntEnum
from typing import Any, TypeAlias

import asyncpg
import pytest
import pytest_asyncio
import uvloop

from reflex_aio import DatabaseError, Event, SchemaError
from reflex_aio.errors import TableNotFound
from reflex_aio.sql import EventColumns, EventsTable, LocalNotifier
from tests.core.cancelling import cancelled_by_task
from tests.fix_databases import Connect, Database
from tests.fix_statements import Statements

pytestmark = pytest.mark.asyncio

Acquire: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]


class UserEvent(IntEnum):
    CREATED = 1
    RENAMED = 2


users = EventsTable("user_events")
full = EventsTable("full_events", metadata=True, trace=True)


@pytest_asyncio.fixture
async def connection(connect: Connect) -> asyncpg.Connection:
    """A connection to a database that has both tables."""
    connection = await connect()
    await users.create(connection)
    await full.create(connection)
    return connection


@pytest.fixture(params=["connection", "proxy"])
def acquire(request: pytest.FixtureRequest, database: Database, pool: asyncpg.Pool) -> Acquire:
    """Yields a connection: one of its own, or one acquired from a pool."""

    @asynccontextmanager
    async def acquire() -> AsyncIterator[Any]:
        connection = await asyncpg.connect(database.dsn)
        yield connection
        await connection.close()

    return acquire if request.param == "connection" else pool.acquire


async def stored(connection: asyncpg.Connection, table: str = "user_events") -> list[tuple[str, int, str]]:
    """What the connection sees in the table: id, type and foreign id."""
    rows = await connection.fetch(f"SELECT id::text, type, foreign_id::text FROM {table} ORDER BY {table}.id")
    return [tuple(row) for row in rows]


async def streamed(table: EventsTable, pool: asyncpg.Pool) -> list[Event]:
    async with table.stream(pool, to_head=True) as stream:
        return [event async for event in stream]


# The transaction is the caller's.


@pytest.mark.suite_server
async def test_an_insert_sends_one_statement_and_neither_begins_nor_ends_anything(
    connection: asyncpg.Connection, statements: Statements
) -> None:
    quiet = users.replace(wakeups=None)
    # asyncpg queries the types of arrays, once for each connection.
    await quiet.insert_many(connection, [(42, 1)])
    statements.taken()
    await quiet.insert(connection, 42, 1)
    await quiet.insert_many(connection, [(i, 1) for i in range(500)])
    assert await quiet.insert_many(connection, []) == []
    await quiet.insert_many(connection, [(i, i % 2 + 1) for i in range(500)])
    assert [statement.text.split()[0] for statement in statements.taken()] == ["INSERT", "WITH", "WITH"]


# What is stored.


async def test_an_event_has_the_time_of_its_insert(
    connection: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    before = await connection.fetchval("SELECT clock_timestamp()")
    await users.insert(connection, 42, 1)
    after = await connection.fetchval("SELECT clock_timestamp()")
    [event] = await streamed(users, pool)
    assert before <= event.timestamp <= after


async def test_a_foreign_id_may_be_long(connection: asyncpg.Connection) -> None:
    await users.insert(connection, "x" * 10_000, 1)
    await users.insert_many(connection, [("y" * 10_000, 1)])
    assert [row[2] for row in await stored(connection)] == ["x" * 10_000, "y" * 10_000]


@pytest.mark.parametrize("column", ["smallint", "integer", "text", "varchar(20)"])
async def test_integers_are_inserted_into_any_column_that_takes_them(
    connection: asyncpg.Connection, pool: asyncpg.Pool, column: str
) -> None:
    table = EventsTable("numbered", foreign_id="bigint")
    await table.create(connection)
    await connection.execute(f"ALTER TABLE numbered ALTER foreign_id TYPE {column}")
    await table.validate(connection)
    await table.insert(connection, 42, 1)
    await table.insert_many(connection, [("43", 1)])
    assert [event.foreign_id for event in await streamed(table, pool)] == ["42", "43"]


# Names.


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("Order-Events", EventColumns(id="ID", type="Type", timestamp="CreatedAt", foreign_id="OrderID")),
        ("order", EventColumns("select", "from", "where", "group", "user", "table")),
        ("1st_événement", EventColumns("_", "-", "2", "ключ", "メタ", "t-r")),
        ("Sales.Events", EventColumns()),
        ("n" * 63, EventColumns(id="i" * 63)),
    ],
)
@pytest.mark.every_postgres
async def test_tables_and_columns_may_be_called_anything_that_is_a_name(
    connection: asyncpg.Connection, pool: asyncpg.Pool, name: str, columns: EventColumns
) -> None:
    await connection.execute('CREATE SCHEMA "Sales"')
    table = EventsTable(name, columns=columns, metadata=True, trace=True, wakeups="trigger")
    await table.create(connection)
    await table.validate(connection)
    assert await table.insert(connection, 7, 1, metadata=b"m", trace=b"t") == "1"
    assert await table.replace(wakeups="commit").insert_many(connection, [(8, 2)]) == ["2"]
    assert [
        (event.id, event.foreign_id, event.type, event.metadata) for event in await streamed(table, pool)
    ] == [("1", "7", 1, b"m"), ("2", "8", 2, None)]
    assert await table.source(pool).head() == "2"


async def test_a_name_without_a_schema_is_the_table_that_the_connections_search_path_finds(
    connect: Connect,
) -> None:
    woken: list[str] = []
    notifier = LocalNotifier()
    for schema in ("a", "b"):
        notifier.subscribe(f"{schema}.events", lambda schema=schema: woken.append(schema))  # type: ignore[misc]
    table = EventsTable("events", notifier=notifier)
    admin = await connect()
    connections = []
    for schema in ("a", "b"):
        await admin.execute(f"CREATE SCHEMA {schema}")
        connections.append(await connect(server_settings={"search_path": schema}))
        await table.create(connections[-1])
    a, b = connections
    for connection in (a, b, b, a):
        await table.insert(connection, 1, 1)
    await a.execute("SET search_path TO b")
    await table.insert_many(a, [(2, 1)])
    assert woken == ["a", "b", "b", "a", "b"]
    assert [len(await stored(admin, f"{schema}.events")) for schema in ("a", "b")] == [2, 3]


# The ways to wake.


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("wakeups", ["commit", "transaction", "trigger", None])
async def test_events_are_inserted_whatever_wakes_the_streams(
    connection: asyncpg.Connection, acquire: Acquire, wakeups: Any, in_transaction: bool
) -> None:
    table = EventsTable("woken_events", wakeups=wakeups)
    await table.create(connection)
    async with acquire() as writer:
        transaction = writer.transaction()
        if in_transaction:
            await transaction.start()
        assert await table.insert(writer, 1, 1) == "1"
        assert await table.insert_many(writer, [(2, 1), (3, 1)]) == ["2", "3"]
        if in_transaction:
            await transaction.commit()
    assert [row[2] for row in await stored(connection, "woken_events")] == ["1", "2", "3"]


# An inserter of the user's own.


async def test_an_inserter_inserts_in_place_of_the_table(connection: asyncpg.Connection) -> None:
    given: list[Any] = []

    async def insert(connection: Any, *values: Any) -> int:
        given.append(values)
        event_id: int = await connection.fetchval(
            "INSERT INTO uuid_events (foreign_id, type) VALUES ($1, $2) RETURNING id", *values[:2]
        )
        return event_id

    await connection.execute(
        "CREATE TABLE uuid_events (id serial PRIMARY KEY, type int NOT NULL, foreign_id uuid NOT NULL,"
        " timestamp timestamptz NOT NULL DEFAULT now())"
    )
    table = EventsTable("uuid_events", inserter=insert, metadata=True)
    one, two = (f"{i:08}-0000-0000-0000-000000000000" for i in (1, 2))
    async with connection.transaction():
        assert await table.insert(connection, one, UserEvent.CREATED, metadata=b"m") == "1"
        assert await table.insert_many(connection, [(two, 2)]) == ["2"]
    assert await stored(connection, "uuid_events") == [("1", 1, one), ("2", 2, two)]
    assert given == [(one, 1, b"m", None), (two, 2, None, None)]
    assert [type(values[1]) for values in given] == [int, int]


# What the database refuses is for the caller's own handling.


async def test_a_serialization_failure_is_the_drivers_own_exception(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    other = await connect()
    async with connection.transaction(isolation="serializable"):
        await stored(connection)
        async with other.transaction(isolation="serializable"):
            await stored(other)
            await users.insert(other, 1, 1)
        with pytest.raises(asyncpg.SerializationError):
            await users.insert(connection, 2, 1)
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await users.insert(connection, 2, 1)
    assert await stored(connection) == [("1", 1, "1")]


async def test_a_deadlock_is_the_drivers_own_exception(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    other = await connect(server_settings={"deadlock_timeout": "10s"})
    await connection.execute("SET deadlock_timeout TO '10ms'")
    await connection.execute("CREATE UNIQUE INDEX ON user_events (foreign_id)")
    inserted = asyncio.Event()

    async def insert_both() -> None:
        async with other.transaction():
            await users.insert(other, 2, 1)
            inserted.set()
            await users.insert(other, 1, 1)

    async with connection.transaction():
        await users.insert(connection, 1, 1)
        inserting = asyncio.create_task(insert_both())
        await inserted.wait()
        with pytest.raises(asyncpg.DeadlockDetectedError):
            await users.insert(connection, 2, 1)
    await inserting
    assert [row[2] for row in await stored(connection)] == ["2", "1"]


async def test_an_aborted_transaction_is_reported_even_on_a_new_connection(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    fresh = await connect()
    await fresh.execute("BEGIN")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await fresh.execute("SELECT 1/0")
    for inserting in (users.insert(fresh, 1, 1), users.insert_many(fresh, [(1, 1)])):
        with pytest.raises(asyncpg.InFailedSQLTransactionError, match="current transaction is aborted"):
            await inserting
    await fresh.execute("ROLLBACK")
    assert await users.insert(fresh, 1, 1) == "1"


async def test_an_event_that_a_trigger_keeps_out_is_an_error(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "CREATE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF NEW.type % 2 = 1 THEN RETURN NULL; END IF; RETURN NEW; END';"
        "CREATE TRIGGER drop_odd BEFORE INSERT ON user_events FOR EACH ROW EXECUTE FUNCTION drop_odd()"
    )
    with pytest.raises(
        DatabaseError, match="inserted 0 of 1 events, without an error: check whether a trigger"
    ):
        await users.insert(connection, 1, 1)
    async with connection.transaction():
        with pytest.raises(DatabaseError, match="user_events: the database inserted 2 of 3 events"):
            await users.insert_many(connection, [(1, 2), (2, 1), (3, 4)])


async def test_many_events_get_their_own_ids_also_where_a_trigger_gives_them_out_backwards(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        "CREATE FUNCTION turn() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := 100 - NEW.id; RETURN NEW; END';"
        "CREATE TRIGGER turn BEFORE INSERT ON user_events FOR EACH ROW EXECUTE FUNCTION turn()"
    )
    assert await users.insert_many(connection, [(1, 5), (2, 5), (3, 5)]) == ["99", "98", "97"]
    assert await stored(connection) == [("97", 5, "3"), ("98", 5, "2"), ("99", 5, "1")]


async def test_where_a_rule_does_something_more_events_are_inserted_one_by_one_or_refused_together(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        "CREATE TABLE copies (type int);"
        "CREATE RULE copy AS ON INSERT TO user_events DO ALSO INSERT INTO copies VALUES (NEW.type)"
    )
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="rules are not supported"):
        await users.insert_many(connection, [(1, 5), (2, 5)])
    assert await users.insert(connection, 1, 5) == "1"
    assert await connection.fetchval("SELECT array_agg(type) FROM copies") == [5]


async def test_a_table_that_a_trigger_misses_is_not_taken_for_the_events_table(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO audits VALUES (NEW.id); RETURN NEW; END';"
        "CREATE TRIGGER audit AFTER INSERT ON user_events FOR EACH ROW EXECUTE FUNCTION audit()"
    )
    with pytest.raises(asyncpg.UndefinedTableError, match='"audits" does not exist'):
        await users.insert(connection, 1, 1)


async def test_an_insert_that_is_cancelled_anywhere_leaves_the_connection_to_its_caller(
    connection: asyncpg.Connection, connect: Connect
) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1
        # New ones each time, as a connection's address and a table's name are queried once.
        writer, table = await connect(), EventsTable("user_events")

        async def insert(writer: asyncpg.Connection = writer, table: EventsTable = table) -> None:
            await table.insert(writer, 42, 1)

        transaction = writer.transaction()
        await transaction.start()
        in_time = await cancelled_by_task(step, insert())
        if in_time:
            await transaction.rollback()
        else:
            await transaction.commit()
        assert not writer.is_in_transaction()
        assert await users.insert(writer, step, 1)
    assert step > 4
    assert [row[2] for row in await stored(connection)] == [*map(str, range(1, step)), "42", str(step)]


# One object, many places.


async def test_a_table_object_serves_several_databases_at_once(connect: Connect) -> None:
    admin = await connect()
    other = f"{await admin.fetchval('SELECT current_database()')}_other"
    await admin.execute(f'CREATE DATABASE "{other}"')
    try:
        first, second = await connect(), await connect(database=other)
        for connection in (first, second):
            await users.create(connection)
        for i in range(3):
            assert await users.insert(first, f"first-{i}", 1) == await users.insert(second, f"second-{i}", 1)
        assert [row[2] for row in await stored(first)] == ["first-0", "first-1", "first-2"]
        assert [row[2] for row in await stored(second)] == ["second-0", "second-1", "second-2"]
        await second.close()
    finally:
        await admin.execute(f'DROP DATABASE "{other}" WITH (FORCE)')


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
async def test_a_table_object_serves_one_event_loop_after_the_other(
    database: Database, connection: asyncpg.Connection, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def insert_and_read() -> list[str]:
        async with (
            asyncpg.create_pool(database.dsn, min_size=2, max_size=4) as pool,
            users.stream(pool, from_head=True) as stream,
        ):
            for i in range(3):
                async with pool.acquire() as writer, writer.transaction():
                    await users.insert(writer, i, 1)
            return [(await anext(stream)).foreign_id for _ in range(3)]

    def run() -> list[str]:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(insert_and_read())

    for _ in range(3):
        assert await asyncio.to_thread(run) == ["0", "1", "2"]
    await users.insert(connection, "here", 1)
    assert len(await stored(connection)) == 10


# The table itself.


async def test_a_table_is_created_once_however_many_create_it(connect: Connect) -> None:
    table = EventsTable("events", wakeups="trigger")
    connections = [await connect() for _ in range(8)]
    await asyncio.gather(*(table.create(connection) for connection in connections))
    await table.insert(connections[0], 1, 1)
    await table.create(connections[0])
    assert await stored(connections[1], "events") == [("1", 1, "1")]


async def test_every_difference_between_a_table_and_its_object_is_reported(
    connection: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    await users.validate(connection)
    async with pool.acquire() as proxy:
        await full.validate(proxy)
    with pytest.raises(SchemaError) as raised:
        await EventsTable("user_events", columns=EventColumns(type="kind"), trace=True).validate(connection)
    assert raised.value.table == "user_events"
    assert raised.value.differences == (
        'column "kind" is missing: expected is smallint, integer or bigint',
        'column "trace" is missing: expected is bytea',
        'column "type" is NOT NULL and has no default: inserts leave it out, and would fail',
    )
    with pytest.raises(TableNotFound, match=r"nowhere\.user_events: the table does not exist"):
        await EventsTable("nowhere.user_events").validate(connection)


async def test_integers_in_a_table_for_texts_are_reported_by_validate_and_by_insert(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("ALTER TABLE user_events ALTER foreign_id TYPE bigint USING 0")
    message = r"foreign_id.*is.*bigint.*'bigint' is for integers"
    with pytest.raises(SchemaError, match=message):
        await users.validate(connection)
    for inserting in (users.insert(connection, 1, 1), users.insert_many(connection, [(1, 1)])):
        with pytest.raises(SchemaError, match=r"foreign_id.*is of type bigint.*validate\(\) compares"):
            await inserting
    assert await stored(connection) == []


@pytest.mark.parametrize(
    "foreign_id", ["a,b", "\x01", "".join(map(chr, range(1, 128))), "{NULL}", "NULL", " "]
)
async def test_many_events_go_by_any_foreign_ids(connection: asyncpg.Connection, foreign_id: str) -> None:
    ids = await users.insert_many(connection, [(foreign_id, -1), ("b", 2**31 - 1), (foreign_id, -(2**31))])
    rows = await connection.fetch("SELECT id::text, foreign_id, type FROM user_events ORDER BY id")
    assert [row["id"] for row in rows] == ids
    assert [(row["foreign_id"], row["type"]) for row in rows] == [
        (foreign_id, -1),
        ("b", 2**31 - 1),
        (foreign_id, -(2**31)),
    ]
