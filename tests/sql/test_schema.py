"""Names, the tables that are made of them, and comparing real tables with what is expected."""

import asyncio
import secrets

import asyncpg
import pytest

from reflex_aio.errors import TableNotFound
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.sql.schema.names import (
    CursorColumns,
    CursorsSchema,
    ErrorColumns,
    ErrorsSchema,
    EventColumns,
    EventsSchema,
    ForeignIdType,
    Name,
    TableSchema,
)
from reflex_aio.sql.schema.table import SchemaDialect
from reflex_aio.sql.wakeups.notifier import CHANNEL, payload_of
from tests.fix_databases import Connect
from tests.waiting import deadline, eventually

POSTGRES = dialect_part(SchemaDialect, "postgres")
LONGEST = "é" * 31 + "x"


def events(table: str = "events", **options: object) -> EventsSchema:
    return EventsSchema(Name.parse(table), **options)  # type: ignore[arg-type]


def cursors(table: str = "cursors", **options: object) -> CursorsSchema:
    return CursorsSchema(Name.parse(table), **options)  # type: ignore[arg-type]


EVERY_SCHEMA = [
    events(),
    events(foreign_id="bigint", metadata=True, trace=True, trigger=True),
    events("Mixed-Case", columns=EventColumns("ID", "Type", "at", "row", "meta-data", "t")),
    cursors(),
    cursors(cursor_type="str", columns=CursorColumns("consumer", "cursor", "at")),
    ErrorsSchema(Name("consumer_errors")),
    ErrorsSchema(Name("Failed-Events"), ErrorColumns("ID", "who", "event", "what", "since", "at", "how")),
]


def statements_of(schema: TableSchema) -> str:
    return "; ".join(POSTGRES.statements(schema))


async def compare(connection: asyncpg.Connection, schema: TableSchema) -> list[str]:
    return await POSTGRES.compare(driver_of_connection(connection), connection, schema)


# Names.


def test_a_name_is_a_table_or_a_schema_and_a_table() -> None:
    assert Name.parse("events") == Name("events")
    assert Name.parse("app.events") == Name("events", "app")
    assert str(Name.parse("app.events")) == "app.events"


def test_a_quoted_name_keeps_its_case() -> None:
    assert Name.parse("App.userEvents").quoted('"') == '"App"."userEvents"'
    assert Name.parse("Events").quoted("`") == "`Events`"


@pytest.mark.parametrize("text", ["events", "_", "2024", "user-events", "événements", "事件", LONGEST])
def test_plain_names_are_accepted(text: str) -> None:
    assert Name.parse(text).quoted('"') == f'"{text}"'


@pytest.mark.parametrize(
    "text",
    [
        *["", ".", "app.", ".events", "a.b.c"],
        *['ev"ents', "ev'ents", "ev`ents", "events;", "events; DROP TABLE users", "e/**/v"],
        *["ev ents", " events", "events\n", "ev\u00a0ents", "ev\0ents", "ev\x1bents", "ev\u202eents"],
        *["ev\udc80ents", "ev\\ents", "ev$$ents", "ev%sents", "x" * 64, LONGEST + "x"],
    ],
)
def test_names_that_are_not_plain_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="accepted"):
        Name.parse(text)
    with pytest.raises(ValueError, match="accepted"):
        EventColumns(timestamp=text)
    with pytest.raises(ValueError, match="accepted"):
        CursorColumns(last_event_id=text)


def test_a_name_that_is_no_string_is_refused() -> None:
    with pytest.raises(TypeError, match="table name None is a NoneType"):
        Name.parse(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="column name id= 7 is a int"):
        EventColumns(id=7)  # type: ignore[arg-type]


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="'id' is given to two columns"):
        EventColumns(foreign_id="id")
    with pytest.raises(ValueError, match="'at' is given to two columns"):
        CursorColumns(id="at", updated_at="at")


def test_column_types_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="'int' is not accepted: 'text', 'bigint' or 'uuid' is"):
        events(foreign_id="int")
    with pytest.raises(ValueError, match="'bytes' is not accepted: 'int' or 'str' is"):
        cursors(cursor_type="bytes")


def test_a_dialect_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="dialect 'oracle' is not known: accepted is 'mysql' or 'postgres'"):
        dialect_part(SchemaDialect, "oracle")


# Making tables.


@pytest.mark.every_postgres
@pytest.mark.asyncio
@pytest.mark.parametrize("schema", EVERY_SCHEMA, ids=str)
async def test_a_table_that_we_make_is_as_we_expect(connect: Connect, schema: TableSchema) -> None:
    connection = await connect()
    await connection.execute(statements_of(schema))
    assert await compare(connection, schema) == []


@pytest.mark.every_postgres
@pytest.mark.asyncio
@pytest.mark.parametrize("schema", EVERY_SCHEMA, ids=str)
async def test_a_table_is_created_once_and_then_left_alone(connect: Connect, schema: TableSchema) -> None:
    connection = await connect()
    for _ in range(2):
        await connection.execute(POSTGRES.create(schema))
        assert await compare(connection, schema) == []


@pytest.mark.asyncio
async def test_services_that_start_at_once_create_one_table(connect: Connect) -> None:
    connections = [await connect() for _ in range(8)]
    create = POSTGRES.create(events(trigger=True))
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(connection.execute(create))
    assert await compare(connections[0], events()) == []


@pytest.mark.asyncio
async def test_a_table_that_the_search_path_finds_is_not_created_again(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(POSTGRES.create(events(trigger=True)))
    await connection.execute("CREATE SCHEMA app; SET search_path = app, public")
    await connection.execute(POSTGRES.create(events(trigger=True)))
    assert await connection.fetchval("SELECT to_regclass('app.events')") is None


@pytest.mark.asyncio
async def test_creating_a_table_that_is_there_takes_no_right_to_create(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(POSTGRES.create(events(trigger=True)))
    role = "r" + secrets.token_hex(4)
    await connection.execute(
        f"REVOKE CREATE ON SCHEMA public FROM public; CREATE ROLE {role}; SET ROLE {role}"
    )
    try:
        await connection.execute(POSTGRES.create(events(trigger=True)))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(POSTGRES.create(cursors()))
    finally:
        await connection.execute(f"RESET ROLE; DROP ROLE {role}")


@pytest.mark.asyncio
async def test_creating_a_table_in_use_waits_for_none_of_its_writers(connect: Connect) -> None:
    connection, writer = await connect(), await connect()
    await connection.execute(POSTGRES.create(events(trigger=True)))
    async with writer.transaction():
        await writer.execute("INSERT INTO events (type, foreign_id) VALUES (1, '7')")
        async with asyncio.timeout(deadline(5)):
            await connection.execute(POSTGRES.create(events(trigger=True)))


@pytest.mark.asyncio
async def test_an_id_is_never_chosen_by_hand(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(statements_of(events()))
    with pytest.raises(asyncpg.GeneratedAlwaysError):
        await connection.execute("INSERT INTO events (id, type, foreign_id) VALUES (5, 1, '7')")


@pytest.mark.asyncio
async def test_an_event_has_the_time_of_its_insert_not_of_its_transaction(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(statements_of(events()))
    async with connection.transaction():
        began = await connection.fetchval("SELECT now()")
        insert = "INSERT INTO events (type, foreign_id) VALUES (1, '7') RETURNING timestamp"
        first, second = await connection.fetchval(insert), await connection.fetchval(insert)
    assert began < first < second


# The trigger.


@pytest.mark.asyncio
@pytest.mark.parametrize("table", ["app.user_events", "app.user-events", "app.Events"])
async def test_the_trigger_wakes_once_for_each_statement_at_commit(connect: Connect, table: str) -> None:
    connection, listener = await connect(), await connect()
    await connection.execute("CREATE SCHEMA app")
    schema = events(table, trigger=True)
    await connection.execute(statements_of(schema))
    payloads: list[object] = []
    await listener.add_listener(CHANNEL, lambda *message: payloads.append(message[-1]))
    insert = f"INSERT INTO {schema.table.quoted(POSTGRES.quote)} (type, foreign_id)"
    async with connection.transaction():
        await connection.execute(f"{insert} SELECT 1, i::text FROM generate_series(1, 100) i")
        await listener.fetch("SELECT 1")
        assert not payloads
    await eventually(lambda: payloads, "a wake-up")
    await connection.execute(f"{insert} VALUES (1, '7')")
    await eventually(lambda: len(payloads) == 2, lambda: f"two wake-ups {payloads}")
    assert payloads == [payload_of(table)] * 2
    await listener.reset()


@pytest.mark.asyncio
async def test_the_trigger_hashes_a_payload_past_200_bytes(connect: Connect) -> None:
    # Only in an encoding that is denser than UTF-8 can two names of 63 bytes each be that long.
    admin = await connect()
    name = await admin.fetchval("SELECT current_database() || '_latin1'")
    await admin.execute(f"CREATE DATABASE \"{name}\" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        connection = await connect(database=name)
        payloads: list[object] = []
        await connection.add_listener(CHANNEL, lambda *message: payloads.append(message[-1]))
        long = "é" * 63
        with pytest.raises(ValueError, match="126 bytes"):
            Name(long)
        await connection.execute(
            statements_of(events("short", trigger=True)).replace("short", long)
            + f'; CREATE SCHEMA "{long}"; ALTER TABLE "{long}" SET SCHEMA "{long}";'
            + f'INSERT INTO "{long}"."{long}" (type, foreign_id) VALUES (1, \'7\')'
        )
        await eventually(lambda: payloads, "a wake-up")
        assert payloads == [payload_of(f"{long}.{long}")]
        assert str(payloads[0]).startswith("md5:")
        await connection.close()
    finally:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


# Comparing.


@pytest.mark.asyncio
async def test_a_missing_table_is_named(connect: Connect) -> None:
    connection = await connect()
    await connection.execute("CREATE TABLE users ()")
    for missing in (events("user_events"), cursors("nowhere.cursors"), events("Users")):
        with pytest.raises(TableNotFound, match=str(missing.table)) as raised:
            await compare(connection, missing)
        assert raised.value.table == str(missing.table)
    assert "case counts" in str(raised.value)


@pytest.mark.every_postgres
@pytest.mark.asyncio
@pytest.mark.parametrize(
    "columns",
    [
        "id serial PRIMARY KEY, type int NOT NULL, foreign_id varchar(40) NOT NULL",
        "id bigserial UNIQUE, type smallint NOT NULL, foreign_id bigint NOT NULL",
        "id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, type bigint NOT NULL, foreign_id uuid NOT NULL",
        "id serial PRIMARY KEY, type int NOT NULL, foreign_id int NOT NULL, note text",
        "id serial PRIMARY KEY, type int NOT NULL, foreign_id text NOT NULL, n int NOT NULL DEFAULT 0",
        "id serial PRIMARY KEY, type small NOT NULL, foreign_id text NOT NULL",
        "id serial PRIMARY KEY, type smaller, foreign_id text NOT NULL",
    ],
)
async def test_tables_that_can_be_streamed_are_accepted(connect: Connect, columns: str) -> None:
    connection = await connect()
    await connection.execute(
        "CREATE DOMAIN small AS int; CREATE DOMAIN smaller AS int NOT NULL;"
        f"CREATE TABLE events ({columns}, timestamp timestamptz NOT NULL DEFAULT now())"
    )
    kind: ForeignIdType = "text"
    if "foreign_id uuid" in columns:
        kind = "uuid"
    elif "foreign_id int" in columns or "foreign_id bigint" in columns:
        kind = "bigint"
    assert await compare(connection, events(foreign_id=kind)) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["id", "timestamp"])
async def test_a_partitioned_table_is_accepted_if_its_key_begins_with_the_id(
    connect: Connect, key: str
) -> None:
    connection = await connect()
    await connection.execute(
        "CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY, type int NOT NULL,"
        f" foreign_id text NOT NULL, timestamp timestamptz NOT NULL DEFAULT now()) PARTITION BY RANGE ({key})"
    )
    assert await compare(connection, events()) == [
        'column "id" is neither the primary key nor has a unique index'
    ]
    await connection.execute(
        f"ALTER TABLE events ADD PRIMARY KEY {'(id)' if key == 'id' else '(id, timestamp)'}"
    )
    assert await compare(connection, events()) == []


UNZONED = "timestamp without time zone"
LOCAL = (
    'column "timestamp" has no time zone, and its default is in the time zone of the session, but it is read as UTC:'
    " accepted is a type with time zone, or a default in UTC such as clock_timestamp() AT TIME ZONE 'UTC'"
)
CASE = "names are quoted, so case counts"
GOOD = {
    "id": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "type": "int NOT NULL",
    "timestamp": "timestamptz NOT NULL DEFAULT now()",
    "foreign_id": "text NOT NULL",
    "metadata": "bytea",
    "trace": "bytea",
}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": None}, ['column "id" is missing: expected is integer or bigint']),
        (
            {"id": "bigint PRIMARY KEY"},
            ['column "id" has no default, nor is it an identity: inserts leave it out'],
        ),
        ({"id": "bigserial"}, ['column "id" is neither the primary key nor has a unique index']),
        (
            {"id": "uuid DEFAULT gen_random_uuid() PRIMARY KEY"},
            ['column "id" is uuid: accepted is integer or bigint'],
        ),
        (
            {"id": "bigint DEFAULT 1 UNIQUE"},
            ['column "id" may be NULL: it should be NOT NULL'],
        ),
        ({"type": "int"}, ['column "type" may be NULL: it should be NOT NULL']),
        ({"type": "text NOT NULL"}, ['column "type" is text: accepted is smallint, integer or bigint']),
        (
            {"type": None, "Type": "int NOT NULL"},
            [
                f'column "type" is missing: expected is smallint, integer or bigint (there is "Type": {CASE})',
                'column "Type" is NOT NULL and has no default: inserts leave it out, and would fail',
            ],
        ),
        (
            {"timestamp": "date NOT NULL DEFAULT now()"},
            [
                f'column "timestamp" is date: accepted is timestamp with time zone or {UNZONED}',
            ],
        ),
        *(
            ({"timestamp": f"timestamp NOT NULL DEFAULT {default}"}, [LOCAL])
            for default in (
                "now()",
                "CURRENT_TIMESTAMP",
                "localtimestamp(3)",
                "clock_timestamp()",
                "(now() AT TIME ZONE 'Europe/Berlin')",
            )
        ),
        *(
            ({"timestamp": f"timestamp NOT NULL DEFAULT {default}"}, [])
            for default in (
                "(now() AT TIME ZONE 'UTC')",
                "timezone('utc', clock_timestamp())",
                "(CURRENT_TIMESTAMP AT TIME ZONE 'Etc/UTC')",
            )
        ),
        (
            {"timestamp": "timestamptz NOT NULL"},
            ['column "timestamp" has no default, nor is it an identity: inserts leave it out'],
        ),
        (
            {"foreign_id": "char(9) NOT NULL"},
            [
                'column "foreign_id" is character: accepted is text or character varying (foreign_id='
                + "'bigint' is for integers, foreign_id='uuid' for UUIDs)",
            ],
        ),
        ({"metadata": "jsonb"}, ['column "metadata" is jsonb: accepted is bytea']),
        ({"trace": None}, ['column "trace" is missing: expected is bytea']),
        (
            {"tenant": "int NOT NULL"},
            ['column "tenant" is NOT NULL and has no default: inserts leave it out, and would fail'],
        ),
    ],
)
async def test_each_difference_is_reported(
    connect: Connect, changes: dict[str, str | None], expected: list[str]
) -> None:
    connection = await connect()
    columns = ", ".join(f'"{name}" {kind}' for name, kind in (GOOD | changes).items() if kind)
    await connection.execute(f"CREATE TABLE events ({columns})")
    assert await compare(connection, events(metadata=True, trace=True)) == expected


@pytest.mark.asyncio
async def test_an_index_that_does_not_keep_ids_unique_does_not_count(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(
        "CREATE TABLE cursors (id text NOT NULL, last_event_id bigint NOT NULL, updated_at timestamptz);"
        "CREATE INDEX ON cursors (id);"
        "CREATE UNIQUE INDEX ON cursors (id, last_event_id);"
        "CREATE UNIQUE INDEX ON cursors (last_event_id, id);"
        "CREATE UNIQUE INDEX ON cursors (lower(id));"
        "CREATE UNIQUE INDEX ON cursors (id) WHERE last_event_id > 0"
    )
    assert await compare(connection, cursors()) == [
        'column "id" is neither the primary key nor has a unique index'
    ]
    await connection.execute("CREATE UNIQUE INDEX ON cursors (id) INCLUDE (last_event_id)")
    assert await compare(connection, cursors()) == []


@pytest.mark.asyncio
async def test_a_view_is_no_table(connect: Connect) -> None:
    connection = await connect()
    await connection.execute("CREATE VIEW events AS SELECT 1 AS id")
    assert await compare(connection, events()) == ["it is a view: accepted is a table"]


@pytest.mark.asyncio
async def test_a_cursors_table_holds_the_cursors_of_its_type(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(statements_of(cursors(cursor_type="str")))
    assert await compare(connection, cursors()) == [
        'column "last_event_id" is text: accepted is integer or bigint'
    ]


@pytest.mark.asyncio
async def test_the_table_compared_is_the_one_that_the_search_path_finds(connect: Connect) -> None:
    connection = await connect()
    await connection.execute("CREATE SCHEMA app; CREATE TABLE cursors ()")
    await connection.execute(statements_of(cursors("app.cursors")))
    assert len(await compare(connection, cursors())) == 3
    await connection.execute("SET search_path = app, public")
    assert await compare(connection, cursors()) == []
