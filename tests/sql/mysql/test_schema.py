"""Tables on MySQL and MariaDB: made, and compared with what is expected."""

import asyncio

import pytest

from reflex_aio.errors import TableNotFound
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.schema.names import (
    CursorColumns,
    CursorsSchema,
    ErrorColumns,
    ErrorsSchema,
    EventColumns,
    EventsSchema,
    Name,
    TableSchema,
)
from reflex_aio.sql.schema.table import SchemaDialect
from tests.fix_backends import MysqlBackend

pytestmark = pytest.mark.asyncio

DIALECT = dialect_part(SchemaDialect, "mysql")

EVENTS = EventsSchema(Name("events"))
FULL = EventsSchema(Name("events"), metadata=True, trace=True)
CURSORS = CursorsSchema(Name("cursors"))
EVERY_SCHEMA = [
    EVENTS,
    EventsSchema(Name("events"), foreign_id="bigint", metadata=True, trace=True),
    EventsSchema(Name("Mixed-Case"), EventColumns("ID", "Type", "at", "row", "meta-data", "t")),
    EventsSchema(
        Name("select"), EventColumns("order", "from", "where", "group", "user", "table"), trace=True
    ),
    EventsSchema(Name("n" * 63)),
    CURSORS,
    CursorsSchema(Name("cursors"), CursorColumns("consumer", "cursor", "at"), cursor_type="str"),
    ErrorsSchema(Name("consumer_errors")),
    ErrorsSchema(Name("Failed-Events"), ErrorColumns("ID", "who", "event", "what", "since", "at", "how")),
]


def statement_of(schema: TableSchema) -> str:
    [statement] = DIALECT.statements(schema)
    return statement


async def compare(mysql: MysqlBackend, connection: object, schema: TableSchema) -> list[str]:
    return await DIALECT.compare(mysql.driver, connection, schema)


# Making tables.


@pytest.mark.parametrize("schema", EVERY_SCHEMA, ids=str)
@pytest.mark.parametrize("sql_mode", ["STRICT_ALL_TABLES,NO_ZERO_DATE", "ANSI", "", "ORACLE"])
async def test_a_table_that_we_make_is_as_we_expect(
    mysql: MysqlBackend, schema: TableSchema, sql_mode: str
) -> None:
    connection = await mysql.connect(init_command=f"SET sql_mode = '{sql_mode}'")
    await mysql.fetch(connection, statement_of(schema))
    assert await compare(mysql, connection, schema) == []
    # And left alone.
    await mysql.fetch(connection, DIALECT.create(schema))
    assert await compare(mysql, connection, schema) == []
    await mysql.fetch(connection, DIALECT.drop(schema))
    with pytest.raises(TableNotFound):
        await compare(mysql, connection, schema)


async def test_services_that_start_at_once_create_one_table(mysql: MysqlBackend) -> None:
    connections = [await mysql.connect() for _ in range(8)]
    await asyncio.gather(*(mysql.fetch(each, DIALECT.create(EVENTS)) for each in connections))
    assert await compare(mysql, connections[0], EVENTS) == []


async def test_a_table_takes_every_text_whatever_the_databases_character_set_is(mysql: MysqlBackend) -> None:
    connection = await mysql.connect(charset="latin1")
    await mysql.fetch(connection, f"ALTER DATABASE `{mysql.arguments['db']}` CHARACTER SET latin1")
    await mysql.fetch(connection, statement_of(EVENTS))
    insert = "INSERT INTO events (type, foreign_id) VALUES (1, %s)"
    assert await mysql.driver.fetch(connection, insert, "\U0001f600") == ((1, 1, False),)


async def test_names_of_consumers_differ_by_case_and_accents(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await mysql.fetch(connection, statement_of(CURSORS))
    for name in "send", "Send", "sénd":
        await mysql.driver.fetch(connection, "INSERT INTO cursors (id, last_event_id) VALUES (%s, 1)", name)
    assert await mysql.value(connection, "SELECT count(*) FROM cursors") == 3


async def test_a_trigger_that_notifies_is_refused(mysql: MysqlBackend) -> None:
    schema = EventsSchema(Name("events"), trigger=True)
    for make in DIALECT.statements, DIALECT.create:
        with pytest.raises(
            ValueError, match="wakeups='trigger' of events is not accepted: MySQL and MariaDB have"
        ):
            make(schema)


# Comparing.


async def test_a_missing_table_is_named(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await mysql.fetch(connection, "CREATE TABLE users (id int)")
    for missing in "user_events", "nowhere.users", "Users":
        with pytest.raises(TableNotFound, match=missing) as raised:
            await compare(mysql, connection, EventsSchema(Name.parse(missing)))
        assert raised.value.table == missing


async def test_a_name_with_a_database_is_looked_for_there_alone(mysql: MysqlBackend) -> None:
    here, nowhere = await mysql.connect(), await mysql.connect(db=None)
    await mysql.fetch(here, statement_of(EVENTS))
    there = EventsSchema(Name("events", mysql.arguments["db"]))
    assert await compare(mysql, nowhere, there) == []
    with pytest.raises(TableNotFound):
        await compare(mysql, nowhere, EVENTS)


GOOD = {
    "id": "bigint NOT NULL AUTO_INCREMENT PRIMARY KEY",
    "type": "int NOT NULL",
    "timestamp": "timestamp(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)",
    "foreign_id": "varchar(255) NOT NULL",
    "metadata": "longblob",
    "trace": "blob",
}
IDS = (
    "int auto_increment, bigint auto_increment, int unsigned auto_increment or bigint unsigned auto_increment"
)
INTEGERS = "tinyint, smallint, mediumint, int, bigint, int unsigned or bigint unsigned"
BLOBS = "longblob, mediumblob, blob, tinyblob or varbinary"


async def make(mysql: MysqlBackend, changes: dict[str, str | None], options: str = "") -> object:
    connection = await mysql.connect(init_command="SET sql_mode = ''")
    columns = ", ".join(f"`{name}` {kind}" for name, kind in (GOOD | changes).items() if kind)
    await mysql.fetch(connection, f"CREATE TABLE events ({columns}) {options}")
    return connection


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "int NOT NULL AUTO_INCREMENT PRIMARY KEY", "timestamp": "datetime NOT NULL"},
        {"id": "int unsigned NOT NULL AUTO_INCREMENT UNIQUE", "timestamp": "datetime(3) NOT NULL"},
        {"id": "bigint(20) unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY", "type": "tinyint NOT NULL"},
        {"foreign_id": "text NOT NULL", "metadata": "blob", "trace": "varbinary(200)"},
        {"foreign_id": "char(36) CHARACTER SET latin1 NOT NULL", "metadata": "mediumblob NOT NULL"},
        {"note": "text", "tenant": "int NOT NULL DEFAULT 0"},
        {"day": "date AS (cast(timestamp AS date)) PERSISTENT", "timestamp": "datetime NOT NULL"},
    ],
)
async def test_tables_that_can_be_streamed_are_accepted(
    mysql: MysqlBackend, changes: dict[str, str | None]
) -> None:
    assert await compare(mysql, await make(mysql, changes), FULL) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": None}, [f'column "id" is missing: expected is {IDS}']),
        ({"id": "bigint NOT NULL PRIMARY KEY"}, [f'column "id" is bigint: accepted is {IDS}']),
        (
            {"id": "bigint NOT NULL AUTO_INCREMENT, KEY (id)"},
            ['column "id" is neither the primary key nor has a unique index'],
        ),
        (
            {"id": "bigint NOT NULL AUTO_INCREMENT, PRIMARY KEY (id, timestamp)"},
            ['column "id" is neither the primary key nor has a unique index'],
        ),
        ({"id": "char(36) NOT NULL PRIMARY KEY"}, [f'column "id" is char: accepted is {IDS}']),
        ({"type": "int"}, ['column "type" may be NULL: it should be NOT NULL']),
        ({"type": "varchar(9) NOT NULL"}, [f'column "type" is varchar: accepted is {INTEGERS}']),
        ({"timestamp": "date NOT NULL"}, ['column "timestamp" is date: accepted is timestamp or datetime']),
        ({"timestamp": "datetime"}, ['column "timestamp" may be NULL: it should be NOT NULL']),
        (
            {"foreign_id": "bigint NOT NULL"},
            [
                'column "foreign_id" is bigint: accepted is varchar, char, text, mediumtext or longtext'
                + " (foreign_id='bigint' is for integers, foreign_id='uuid' for UUIDs)"
            ],
        ),
        ({"metadata": "json"}, [f'column "metadata" is longtext: accepted is {BLOBS}']),
        ({"trace": None}, [f'column "trace" is missing: expected is {BLOBS}']),
        (
            {"tenant": "int NOT NULL"},
            ['column "tenant" is NOT NULL and has no default: inserts leave it out, and would fail'],
        ),
    ],
)
async def test_each_difference_is_reported(
    mysql: MysqlBackend, changes: dict[str, str | None], expected: list[str]
) -> None:
    assert await compare(mysql, await make(mysql, changes), FULL) == expected


async def test_an_index_on_a_part_of_a_text_does_not_keep_it_unique(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await mysql.fetch(
        connection,
        "CREATE TABLE cursors (id varchar(255) NOT NULL, last_event_id bigint NOT NULL, updated_at datetime,"
        " UNIQUE (id(9)), UNIQUE (last_event_id, id))",
    )
    assert await compare(mysql, connection, CURSORS) == [
        'column "id" is neither the primary key nor has a unique index'
    ]
    await mysql.fetch(connection, "ALTER TABLE cursors ADD UNIQUE (id)")
    assert await compare(mysql, connection, CURSORS) == []


async def test_errors_are_kept_once_for_each_consumer_and_event(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    schema = ErrorsSchema(Name("errors"))
    await mysql.fetch(connection, statement_of(schema))
    await mysql.fetch(connection, "ALTER TABLE errors DROP INDEX consumer")
    assert await compare(mysql, connection, schema) == [
        'there is no unique index on ("consumer", "event_id")'
    ]


async def test_a_table_without_transactions_is_refused(mysql: MysqlBackend) -> None:
    connection = await make(mysql, {}, "ENGINE = MyISAM")
    [line] = await compare(mysql, connection, FULL)
    assert line.startswith("it is a table of the engine MyISAM, which has no transactions as InnoDB has")


async def test_a_view_is_no_table(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await mysql.fetch(connection, "CREATE VIEW events AS SELECT 1 AS id")
    assert await compare(mysql, connection, EVENTS) == ["it is a view: accepted is a table"]
