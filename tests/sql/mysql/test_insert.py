"""Inserting events on MySQL and MariaDB: ids, times and texts are right whatever the session is set to."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from reflex_aio import DatabaseError, Event, SchemaError
from reflex_aio.sql import EventColumns, EventsTable
from reflex_aio.sql.events.loader import Page
from reflex_aio.sql.events.mysql.queries import Queries, decode_rows
from reflex_aio.sql.schema import mysql as mysql_schema
from tests.fix_backends import MYSQL, MysqlBackend
from tests.fix_mariadb import MysqlDatabase, make_mariadb

pytestmark = pytest.mark.asyncio

users = EventsTable("user_events")
full = EventsTable("full_events", metadata=True, trace=True)

ZONES = ["+00:00", "+05:30", "-11:00", "SYSTEM"]
# From the README of the Go library.
GO = """
CREATE TABLE my_events_table (
    id bigint NOT NULL AUTO_INCREMENT, foreign_id bigint NOT NULL, timestamp datetime NOT NULL,
    type bigint NOT NULL DEFAULT 0, metadata blob, PRIMARY KEY (id)
)"""


async def read(
    mysql: MysqlBackend, table: EventsTable, timestamp_type: str = "timestamp", **arguments: Any
) -> Sequence[Event]:
    """The table's events, as a page of a stream has them, on a connection of its own."""
    settings = table._settings
    queries = Queries(settings, settings.schema.table.quoted("`"), timestamp_type)
    connection = await mysql.connect(**arguments)
    rows = await mysql.driver.fetch(connection, queries.page(1 << 30), 0, 1_000_000)
    ids = [row[0] for row in rows]
    return list(Page(partial(decode_rows, rows, ids, settings, len(rows)), 0, False, False).decode())


async def clock(mysql: MysqlBackend) -> int:
    """The server's time, in microseconds since 1970."""
    connection = await mysql.connect()
    now: int = await mysql.value(
        connection, "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
    )
    return now


# Times.


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("type", ["timestamp(6)", "datetime(6)", "timestamp", "datetime", "datetime(3)"])
async def test_an_event_has_the_time_of_its_insert_in_every_time_zone(
    mysql: MysqlBackend, zone: str, type: str
) -> None:
    writer = await mysql.connect(init_command=f"SET time_zone = '{zone}'")
    await users.create(writer)
    await mysql.fetch(writer, f"ALTER TABLE user_events MODIFY timestamp {type} NOT NULL DEFAULT 0")
    before = await clock(mysql)
    await users.insert(writer, 1, 1)
    await users.insert_many(writer, [(2, 1), (3, 1)])
    after = await clock(mysql)
    for other in ZONES:
        events = await read(mysql, users, type.partition("(")[0], init_command=f"SET time_zone = '{other}'")
        assert len(events) == 3
        for event in events:
            # Cut to the column's precision, never rounded up.
            assert before - 1_000_000 * (type[-2:] != "6)") <= event.timestamp_us <= after


async def test_the_hour_that_comes_twice_in_autumn_is_read_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    async with make_mariadb() as server:
        for backend in MYSQL.values():
            mysql = backend(MysqlDatabase(server, "mysql"))
            connection = await mysql.connect()
            await users.create(connection)
            # 02:30 twice, an hour apart: 00:30 and 01:30 UTC.
            hour = 1_729_989_000
            for now in hour, hour + 3600:
                await mysql.fetch(connection, f"SET timestamp = {now}")
                await users.insert(connection, now, 1)
            assert (
                await mysql.value(
                    connection, "SELECT count(DISTINCT CAST(timestamp AS char)) FROM user_events"
                )
                == 1
            )
            events = await read(mysql, users)
            assert [event.timestamp_us // 1_000_000 for event in events] == [hour, hour + 3600]
            await mysql.fetch(connection, "DROP TABLE user_events")
            mysql.close()


async def test_an_event_without_a_time_is_an_error(mysql: MysqlBackend) -> None:
    writer = await mysql.connect(init_command="SET sql_mode = ''")
    await users.create(writer)
    await mysql.fetch(writer, "INSERT INTO user_events (type, foreign_id, timestamp) VALUES (1, 7, 0)")
    await mysql.fetch(writer, "ALTER TABLE user_events MODIFY timestamp datetime(6) NULL")
    await mysql.fetch(writer, "UPDATE user_events SET timestamp = '0000-00-00'")
    with pytest.raises(SchemaError, match='column "timestamp" of event 1 is NULL or zero'):
        await read(mysql, users, "datetime")
    await mysql.fetch(writer, "UPDATE user_events SET timestamp = NULL")
    with pytest.raises(SchemaError, match='column "timestamp" of event 1 is NULL or zero'):
        await read(mysql, users, "datetime")


# Texts and bytes.


@pytest.mark.parametrize("charset", ["utf8mb4", "utf8", "latin1", "ascii"])
@pytest.mark.parametrize("sql_mode", ["NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "ANSI", ""])
async def test_events_are_the_same_in_every_session(mysql: MysqlBackend, charset: str, sql_mode: str) -> None:
    connection = await mysql.connect(charset=charset, init_command=f"SET sql_mode = '{sql_mode}'")
    await full.create(connection)
    await full.validate(connection)
    texts = ["\U0001f600", "é", "it's \\ %s", "x" * 255, "\U0001f600" * 255]
    for text in texts:
        await full.insert(connection, text, 1, metadata=b"\0\xff'\\%s", trace=text.encode())
    await full.insert_many(connection, [(text, 2, b"", None) for text in texts])
    events = await read(mysql, full, charset=charset)
    assert [event.foreign_id for event in events] == texts * 2
    assert [event.metadata for event in events] == [b"\0\xff'\\%s"] * len(texts) + [b""] * len(texts)
    assert [event.trace for event in events] == [*(text.encode() for text in texts), *[None] * len(texts)]


async def test_what_does_not_fit_is_an_error_where_sql_mode_is_not_strict_too(mysql: MysqlBackend) -> None:
    connection = await mysql.connect(init_command="SET sql_mode = ''")
    await users.create(connection)
    message = "the database stored another value than the inserted one, as sql_mode is not strict"
    with pytest.raises(DatabaseError, match=message):
        await users.insert(connection, "x" * 256, 1)
    with pytest.raises(DatabaseError, match=message):
        await users.insert_many(connection, [(1, 1), ("x" * 256, 1)])
    await mysql.fetch(connection, "ALTER TABLE user_events MODIFY foreign_id varchar(9) CHARACTER SET latin1")
    with pytest.raises(DatabaseError, match=message):
        await users.insert(connection, "\U0001f600", 1)
    await mysql.fetch(connection, "TRUNCATE user_events")
    await mysql.fetch(connection, "ALTER TABLE user_events MODIFY foreign_id bigint NOT NULL")
    with pytest.raises(DatabaseError, match=message):
        await users.insert(connection, "seven", 1)


async def test_a_column_that_inserts_leave_out_is_no_loss_where_sql_mode_is_not_strict(
    mysql: MysqlBackend,
) -> None:
    connection = await mysql.connect(init_command="SET sql_mode = ''")
    await users.create(connection)
    await mysql.fetch(connection, "ALTER TABLE user_events ADD tenant int NOT NULL")
    assert await users.insert(connection, 7, 1) == "1"


# Ids.


@pytest.mark.parametrize("mode", [0, 1, 2])
async def test_ids_are_those_stored_beside_other_writers(mode: int) -> None:
    async with make_mariadb(innodb_autoinc_lock_mode=mode) as server:
        for library, backend in MYSQL.items():
            mysql = backend(MysqlDatabase(server, "mysql"))
            name = f"ids_{library}"
            table = EventsTable(name)
            await table.create(await mysql.connect())

            async def write(
                mysql: MysqlBackend, table: EventsTable, writer: int, step: int
            ) -> dict[str, str]:
                connection = await mysql.connect(init_command=f"SET auto_increment_increment = {step}")
                stored: dict[str, str] = {}
                for n in range(30):
                    events = [(f"{writer}-{n}-{i}", 1) for i in range(n % 7 + 1)]
                    ids = await table.insert_many(connection, events)
                    stored |= dict(zip(ids, (event[0] for event in events), strict=True))
                    alone = f"{writer}-{n}"
                    stored[await table.insert(connection, alone, 1)] = alone
                return stored

            stored: dict[str, str] = {}
            for each in await asyncio.gather(*(write(mysql, table, n, n % 3 + 1) for n in range(6))):
                stored |= each
            rows = await mysql.fetch(await mysql.connect(), f"SELECT id, foreign_id FROM {name}")
            assert {str(row[0]): row[1] for row in rows} == stored
            mysql.close()


async def test_many_events_take_as_many_statements_as_the_servers_limit_requires(
    mysql: MysqlBackend,
) -> None:
    connection = await mysql.connect()
    await full.create(connection)
    limit = await mysql.value(connection, "SELECT @@max_allowed_packet")
    each = limit // 10
    events = [(n, 1, bytes([n]) * each) for n in range(20)]
    assert await full.insert_many(connection, events) == [str(n + 1) for n in range(20)]
    stored = await read(mysql, full)
    assert [(int(event.foreign_id), 1, event.metadata) for event in stored] == events


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_of_many_events_in_several_statements_all_are_inserted_or_none(
    mysql: MysqlBackend, in_transaction: bool
) -> None:
    connection = await mysql.connect()
    await full.create(connection)
    await mysql.fetch(connection, "ALTER TABLE full_events ADD CHECK (type < 9)")
    limit = await mysql.value(connection, "SELECT @@max_allowed_packet")
    events = [(n, n, b"x" * (limit // 5)) for n in range(1, 10)]
    if in_transaction:
        await connection.begin()
        await full.insert(connection, "before", 1)
    with pytest.raises(mysql.library_error, match="CONSTRAINT"):
        await full.insert_many(connection, events)
    if in_transaction:
        await connection.commit()
    assert [event.foreign_id for event in await read(mysql, full)] == ["before"] * in_transaction


async def test_an_event_larger_than_the_servers_limit_is_refused_before_it_is_sent(
    mysql: MysqlBackend,
) -> None:
    connection = await mysql.connect()
    await full.create(connection)
    limit = await mysql.value(connection, "SELECT @@max_allowed_packet")
    for inserting in (
        full.insert(connection, "big", 1, metadata=b"x" * (limit // 2)),
        full.insert_many(connection, [("small", 1), ("big", 1, b"x" * (limit // 2))]),
    ):
        with pytest.raises(ValueError, match=f"event 'big' takes .* max_allowed_packet of {limit}"):
            await inserting
    assert await full.insert(connection, "small", 1, metadata=b"x" * (limit // 2 - 5000)) == "1"


async def test_a_table_that_gives_no_ids_is_an_error(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await users.create(connection)
    await mysql.fetch(connection, "ALTER TABLE user_events MODIFY id bigint NOT NULL DEFAULT 7")
    with pytest.raises(SchemaError, match='column "id" is bigint: accepted is int auto_increment'):
        await users.validate(connection)
    with pytest.raises(DatabaseError, match='check that column "id" is AUTO_INCREMENT'):
        await users.insert(connection, 1, 1)


# Transactions, which are the caller's.


@pytest.mark.parametrize("autocommit", [True, False])
async def test_an_insert_leaves_autocommit_and_the_transaction_as_they_are(
    mysql: MysqlBackend, autocommit: bool
) -> None:
    watcher, connection = await mysql.connect(), await mysql.connect(autocommit=autocommit)
    await users.create(watcher)
    await users.insert(connection, 1, 1)
    assert len(await read(mysql, users)) == autocommit
    await connection.rollback()
    await connection.begin()
    await users.insert(connection, 2, 1)
    await users.insert_many(connection, [(3, 1), (4, 1)])
    assert len(await read(mysql, users)) == autocommit
    await connection.rollback()
    assert len(await read(mysql, users)) == autocommit
    assert connection.get_autocommit() is autocommit


async def test_a_read_only_transaction_raises_the_client_librarys_own_exception(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await users.create(connection)
    await mysql.fetch(connection, "START TRANSACTION READ ONLY")
    with pytest.raises(mysql.library_error, match="READ ONLY transaction"):
        await users.insert(connection, 1, 1)


# Tables of the Go library.


async def test_the_original_librarys_table_works_unchanged(mysql: MysqlBackend) -> None:
    connection = await mysql.connect(init_command="SET time_zone = '+03:00'")
    table = EventsTable("my_events_table", foreign_id="bigint", metadata=True)
    await mysql.fetch(connection, GO)
    await table.validate(connection)
    before = await clock(mysql)
    assert await table.insert(connection, 42, 7, metadata=b"m") == "1"
    assert await table.insert_many(connection, [(2**62, 1), (-1, 2)]) == ["2", "3"]
    [event, big, negative] = await read(mysql, table, "datetime")
    assert (event.id, event.type, event.foreign_id, event.metadata) == ("1", 7, "42", b"m")
    assert before - 1_000_000 <= event.timestamp_us <= await clock(mysql)
    assert (big.foreign_id, negative.foreign_id) == (str(2**62), "-1")


@pytest.mark.parametrize("id", ["int", "bigint unsigned"])
@pytest.mark.parametrize("time", ["datetime", "timestamp"])
@pytest.mark.parametrize("foreign_id", ["varchar(255)", "int"])
async def test_tables_that_are_alike_work_too(
    mysql: MysqlBackend, id: str, time: str, foreign_id: str
) -> None:
    connection = await mysql.connect()
    await mysql.fetch(
        connection,
        f"CREATE TABLE app_events (no {id} NOT NULL AUTO_INCREMENT PRIMARY KEY, kind int NOT NULL,"
        f" at {time} NOT NULL, user {foreign_id} NOT NULL) CHARACTER SET latin1",
    )
    columns = EventColumns(id="no", type="kind", timestamp="at", foreign_id="user")
    table = EventsTable("app_events", columns=columns, foreign_id="bigint" if foreign_id == "int" else "text")
    await table.validate(connection)
    assert await table.insert(connection, 42, 7) == "1"
    [event] = await read(mysql, table, time)
    assert (event.id, event.type, event.foreign_id) == ("1", 7, "42")


async def test_foreign_ids_of_another_character_set_are_read_as_they_are(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await users.create(connection)
    await mysql.fetch(
        connection, "ALTER TABLE user_events MODIFY foreign_id varchar(9) CHARACTER SET latin1 NOT NULL"
    )
    await users.insert(connection, "é", 1)
    assert [event.foreign_id for event in await read(mysql, users)] == ["é"]
    with pytest.raises(SchemaError, match="Incorrect string value"):
        await users.insert(connection, "\U0001f600", 1)


# What only PostgreSQL has.


@pytest.mark.parametrize("wakeups", ["transaction", "trigger"])
async def test_wake_ups_by_notify_are_refused(mysql: MysqlBackend, wakeups: Any) -> None:
    connection = await mysql.connect()
    await users.create(connection)
    with pytest.raises(ValueError, match=f"wakeups='{wakeups}' of user_events is not accepted"):
        await users.replace(wakeups=wakeups).insert(connection, 1, 1)
    assert await read(mysql, users) == []


@pytest.mark.parametrize(
    ("kind", "zone"), [("datetime", "+02:00"), ("datetime", "+00:00"), ("timestamp", "+02:00")]
)
async def test_local_times_of_other_writers_are_warned_of(
    mysql: MysqlBackend,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    zone: str,
) -> None:
    # Set for the server, the zone would be that of all tests.
    monkeypatch.setattr(mysql_schema, "_FIND", mysql_schema._FIND.replace("@@GLOBAL.time_zone", f"'{zone}'"))
    connection = await mysql.connect()
    await users.create(connection)
    await mysql.fetch(connection, f"ALTER TABLE user_events MODIFY timestamp {kind}(6) NOT NULL")
    async with mysql.pool() as pool:
        for _ in range(2):
            async with users.stream(pool, to_head=True) as stream:
                assert await stream.read_page() == []
    warned = [record.message for record in caplog.records if zone in record.message]
    assert bool(warned) == (kind == "datetime" and zone != "+00:00")
