"""Inserting events: on the caller's connection, in the caller's transaction, on every database."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import IntEnum
from typing import Any, TypeAlias

import pytest
import pytest_asyncio

from reflex_aio.sql import EventColumns, EventsTable
from tests.fix_backends import Backend

pytestmark = pytest.mark.asyncio

Acquire: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]


class UserEvent(IntEnum):
    CREATED = 1
    RENAMED = 2


users = EventsTable("user_events")
full = EventsTable("full_events", metadata=True, trace=True)


@pytest_asyncio.fixture
async def connection(backend: Backend) -> Any:
    """A connection to a database that has both tables."""
    connection = await backend.connect()
    await users.create(connection)
    await full.create(connection)
    return connection


@pytest.fixture(params=["connection", "pooled"])
def acquire(request: pytest.FixtureRequest, backend: Backend, backend_pool: Any) -> Acquire:
    """Yields a connection: one of its own, or one acquired from a pool."""

    @asynccontextmanager
    async def acquire() -> AsyncIterator[Any]:
        yield await backend.connect()

    return acquire if request.param == "connection" else backend_pool.acquire


async def stored(backend: Backend, connection: Any, table: str = "user_events") -> list[tuple[str, int, str]]:
    """What the connection sees in the table: id, type and foreign id."""
    rows = await backend.fetch(connection, f"SELECT id, type, foreign_id FROM {table} ORDER BY id")
    return [(str(row[0]), row[1], str(row[2])) for row in rows]


async def stored_bytes(
    backend: Backend, connection: Any, columns: str = "metadata, trace", table: str = "full_events"
) -> list[tuple[Any, ...]]:
    """The metadata and traces in a table."""
    rows = await backend.fetch(connection, f"SELECT {columns} FROM {table} ORDER BY id")
    return [tuple(row) for row in rows]


async def fail_after(backend: Backend, connection: Any, table: EventsTable, *foreign_ids: str) -> None:
    """Insert events in a transaction, or a savepoint, that is rolled back."""
    with pytest.raises(LookupError):
        await _fail_after(backend, connection, table, *foreign_ids)


async def _fail_after(backend: Backend, connection: Any, table: EventsTable, *foreign_ids: str) -> None:
    async with backend.driver.transaction(connection):
        for foreign_id in foreign_ids:
            await table.insert(connection, foreign_id, 1)
        await table.insert_many(connection, [(foreign_id, 1) for foreign_id in foreign_ids])
        raise LookupError


# The transaction is the caller's.


async def test_an_event_outside_a_transaction_is_committed_when_insert_returns(
    backend: Backend, connection: Any, acquire: Acquire
) -> None:
    async with acquire() as writer:
        assert await users.insert(writer, 42, UserEvent.CREATED) == "1"
        assert await stored(backend, connection) == [("1", 1, "42")]


async def test_an_event_becomes_visible_with_the_transaction_that_it_is_inserted_in(
    backend: Backend, connection: Any, acquire: Acquire
) -> None:
    expected = [("1", 1, "42"), ("2", 2, "43"), ("3", 1, "44")]
    async with acquire() as writer:
        async with backend.driver.transaction(writer):
            assert await users.insert(writer, 42, UserEvent.CREATED) == "1"
            assert await users.insert_many(writer, [(43, 2), (44, 1)]) == ["2", "3"]
            assert await stored(backend, writer) == expected
            assert await stored(backend, connection) == []
        assert await stored(backend, connection) == expected


async def test_an_event_that_is_rolled_back_was_never_there(
    backend: Backend, connection: Any, acquire: Acquire
) -> None:
    async with acquire() as writer:
        await fail_after(backend, writer, users, "42", "43")
        assert await stored(backend, writer) == []


async def test_a_savepoint_takes_its_own_events_along_and_no_others(
    backend: Backend, connection: Any
) -> None:
    async with backend.driver.transaction(connection):
        await users.insert(connection, "kept", 1)
        await fail_after(backend, connection, users, "rolled-back")
        async with backend.driver.transaction(connection):
            await users.insert(connection, "released", 1)
    assert await stored(backend, connection) == [("1", 1, "kept"), ("4", 1, "released")]


# What is stored.


@pytest.mark.parametrize(
    ("given", "text"),
    [(42, "42"), ("42", "42"), (UserEvent.RENAMED, "2"), (-1, "-1"), (2**63, str(2**63)), ("0", "0")]
    + [
        (text, text)
        for text in ("a b", "'; DROP TABLE user_events; --", "é\n\t\u2028\U0001f600", "x" * 255, " 7")
    ]
    + [(text, text) for text in ("%s %d %%", "$1", "back\\slash", 'say "it\'s"', "NULL")],
)
async def test_a_foreign_id_is_any_text(
    backend: Backend, connection: Any, given: str | int, text: str
) -> None:
    await users.insert(connection, given, 1)
    await users.insert_many(connection, [(given, 1)])
    assert await stored(backend, connection) == [("1", 1, text), ("2", 1, text)]


@pytest.mark.parametrize("given", [42, "42", 0, "0", -7, "-7", 2**63 - 1, str(-(2**63)), UserEvent.CREATED])
async def test_a_table_may_keep_foreign_ids_as_integers(
    backend: Backend, connection: Any, given: str | int
) -> None:
    table = EventsTable("numbered", foreign_id="bigint")
    await table.create(connection)
    await table.insert(connection, given, 1)
    await table.insert_many(connection, [(given, 2)])
    rows = await backend.fetch(connection, "SELECT foreign_id FROM numbered")
    assert [row[0] for row in rows] == [int(given)] * 2


@pytest.mark.parametrize("type", [UserEvent.RENAMED, 0, -1, 2**31 - 1, -(2**31)])
async def test_a_type_is_any_32_bit_integer(backend: Backend, connection: Any, type: int) -> None:
    await users.insert(connection, 42, type)
    await users.insert_many(connection, [(42, type)])
    assert [row[1] for row in await stored(backend, connection)] == [int(type)] * 2


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"metadata": b"m"},
        {"metadata": b"", "trace": b""},
        {"trace": b"\x00\xff"},
        {"metadata": bytes(range(256))},
    ],
)
async def test_absent_metadata_and_empty_metadata_are_two_things(
    backend: Backend, connection: Any, values: dict[str, bytes]
) -> None:
    await full.insert(connection, 1, 1, **values)
    await full.insert_many(connection, [(1, 1, values.get("metadata"), values.get("trace"))])
    expected = (values.get("metadata"), values.get("trace"))
    assert await stored_bytes(backend, connection) == [expected] * 2


@pytest.mark.parametrize("what", ["metadata", "trace"])
async def test_a_table_may_have_one_of_the_columns_alone(
    backend: Backend, connection: Any, what: str
) -> None:
    options: dict[str, Any] = {what: True}
    values: dict[str, Any] = {what: b"given"}
    table = EventsTable("halves", **options)
    await table.create(connection)
    await table.insert(connection, 1, 1, **values)
    await table.insert_many(connection, [(1, 1, values.get("metadata"), values.get("trace"))])
    assert await stored_bytes(backend, connection, what, "halves") == [(b"given",)] * 2


@pytest.mark.parametrize("what", ["metadata", "trace"])
async def test_metadata_for_a_table_without_a_column_is_an_error_with_a_remedy(
    backend: Backend, connection: Any, what: str
) -> None:
    values: dict[str, Any] = {what: b"given"}
    expected = rf"EventsTable\('user_events', {what}=True\) expects one, and its ddl\(\) creates it"
    message = f"user_events has no column for {what}: {expected}"
    async with backend.driver.transaction(connection):
        with pytest.raises(ValueError, match=message):
            await users.insert(connection, 1, 1, **values)
        with pytest.raises(ValueError, match=message):
            await users.insert_many(connection, [(2, 1), (1, 1, values.get("metadata"), values.get("trace"))])
        # Nothing was sent, so the transaction goes on.
        await users.insert(connection, 3, 1)
    assert await stored(backend, connection) == [("1", 1, "3")]


# Many.


async def test_many_events_are_inserted_in_the_order_given(backend: Backend, connection: Any) -> None:
    events = [(f"row-{i * 7919 % 5000}", i % 3 + 1) for i in range(5000)]
    ids = await users.insert_many(connection, events)
    assert ids == [str(i) for i in range(1, 5001)]
    assert await stored(backend, connection) == [
        (event_id, kind, row) for event_id, (row, kind) in zip(ids, events, strict=True)
    ]


async def test_many_events_of_one_type_are_inserted_in_the_order_given(
    backend: Backend, connection: Any
) -> None:
    events = [(f"row-{i * 7919 % 2000}", 7, None if i % 3 else b"%d" % i) for i in range(2000)]
    ids = await full.insert_many(connection, events)
    assert ids == [str(i) for i in range(1, 2001)]
    assert await stored(backend, connection, "full_events") == [
        (event_id, 7, row) for event_id, (row, _, _) in zip(ids, events, strict=True)
    ]
    assert await stored_bytes(backend, connection) == [(metadata, None) for _, _, metadata in events]


async def test_many_events_are_tuples_of_two_to_four_values(backend: Backend, connection: Any) -> None:
    await full.insert_many(connection, [(1, 1), ("2", 2, b"m"), (3, 3, None, b"t"), [4, 4, b"", None]])  # type: ignore[list-item]
    assert await stored(backend, connection, "full_events") == [(str(i), i, str(i)) for i in (1, 2, 3, 4)]
    assert await stored_bytes(backend, connection) == [
        (None, None),
        (b"m", None),
        (None, b"t"),
        (b"", None),
    ]


async def test_many_events_may_come_from_a_generator_or_a_query(backend: Backend, connection: Any) -> None:
    assert await users.insert_many(connection, ((i, 1) for i in range(3))) == ["1", "2", "3"]
    assert await users.insert_many(connection, iter(())) == []
    rows: Any = await backend.fetch(connection, "SELECT id, 2 FROM user_events ORDER BY id")
    assert await users.insert_many(connection, rows) == ["4", "5", "6"]
    assert (await stored(backend, connection))[3:] == [("4", 2, "1"), ("5", 2, "2"), ("6", 2, "3")]


async def test_of_many_events_all_are_inserted_or_none(backend: Backend, connection: Any) -> None:
    await backend.fetch(connection, "ALTER TABLE user_events ADD CHECK (foreign_id <> 'bad')")
    with pytest.raises(backend.library_error):
        await users.insert_many(connection, [("good", 1), ("bad", 1)])
    with pytest.raises(ValueError, match="out of range") as raised:
        await users.insert_many(connection, [("good", 1), ("good", 2**31)])
    assert raised.value.__notes__ == ["This is event 1 of the argument: ('good', 2147483648)"]
    assert await stored(backend, connection) == []


# Names.


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("Order-Events", EventColumns(id="ID", type="Type", timestamp="CreatedAt", foreign_id="OrderID")),
        ("order", EventColumns("select", "from", "where", "group", "user", "table")),
        ("1st_événement", EventColumns("_", "-", "2", "ключ", "メタ", "t-r")),
        ("n" * 63, EventColumns(id="i" * 63)),
    ],
)
async def test_tables_and_columns_may_be_called_anything_that_is_a_name(
    backend: Backend, connection: Any, name: str, columns: EventColumns
) -> None:
    table = EventsTable(name, columns=columns, metadata=True, trace=True)
    await table.create(connection)
    await table.validate(connection)
    assert await table.insert(connection, 7, 1, metadata=b"m", trace=b"t") == "1"
    assert await table.insert_many(connection, [(8, 2)]) == ["2"]
    wanted = ", ".join(map(backend.quoted, (columns.id, columns.foreign_id, columns.type, columns.metadata)))
    rows = await backend.fetch(connection, f"SELECT {wanted} FROM {backend.quoted(name)} ORDER BY 1")
    assert [tuple(row) for row in rows] == [(1, "7", 1, b"m"), (2, "8", 2, None)]


async def test_a_replaced_table_differs_in_what_is_given_alone(backend: Backend, connection: Any) -> None:
    columns = EventColumns(foreign_id="user_id")
    table = EventsTable("events", columns=columns, metadata=True, wakeups=None)
    other = table.replace(name="others")
    assert (table.name, other.name) == ("events", "others")
    await other.create(connection)
    await other.validate(connection)
    await other.insert(connection, 1, 1, metadata=b"m")
    rows = await backend.fetch(connection, "SELECT user_id, metadata FROM others")
    assert [tuple(row) for row in rows] == [("1", b"m")]
    dialect = backend.dialect
    assert other.ddl(dialect).replace("others", "events") == table.ddl(dialect)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colums'"):
        table.replace(colums=columns)
    with pytest.raises(ValueError, match="page_size 0"):
        table.replace(page_size=0)


# An inserter of the user's own.


@pytest.mark.parametrize("returned", [None, True, 1.0, b"1"])
async def test_an_inserter_that_returns_no_id_is_an_error(
    backend: Backend, connection: Any, returned: Any
) -> None:
    async def insert(*_: object) -> Any:
        return returned

    table = users.replace(inserter=insert)
    for inserting in (table.insert(connection, 1, 1), table.insert_many(connection, [(1, 1)])):
        with pytest.raises(TypeError, match=r"the inserter returned .*: accepted is the event's id"):
            await inserting


async def test_an_inserter_inserts_in_place_of_the_table(backend: Backend, connection: Any) -> None:
    given: list[Any] = []

    async def insert(connection: Any, *values: Any) -> int:
        given.append(values)
        return len(given)

    table = full.replace(inserter=insert)
    assert await table.insert(connection, 7, UserEvent.CREATED, metadata=b"m") == "1"
    assert await table.insert_many(connection, [(8, 2)]) == ["2"]
    assert given == [("7", 1, b"m", None), ("8", 2, None, None)]
    assert await stored(backend, connection, "full_events") == []


async def test_what_an_inserter_raises_reaches_the_caller(backend: Backend, connection: Any) -> None:
    async def insert(connection: Any, *_: object) -> int:
        await backend.fetch(connection, "SELECT nonsense()")
        return 1

    with pytest.raises(backend.library_error):
        await users.replace(inserter=insert).insert(connection, 1, 1)


# What the database refuses is for the caller's own handling.


async def test_a_violated_constraint_is_the_drivers_own_exception(backend: Backend, connection: Any) -> None:
    await backend.fetch(connection, "CREATE UNIQUE INDEX once ON user_events (foreign_id)")
    await users.insert(connection, 1, 1)
    with pytest.raises(backend.library_error) as raised:
        await users.insert(connection, 1, 1)
    assert "once" in str(raised.value)
    with pytest.raises(backend.library_error):
        await users.insert_many(connection, [(2, 7), (1, 7)])
    # Ids were burnt, and no event is left.
    assert len(await stored(backend, connection)) == 1
