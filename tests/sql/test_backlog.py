"""What operators look at: which events a table has, how far cursors are behind them, what tables are like."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from reflex_aio.errors import InvalidCursor, SchemaError, TableNotFound
from reflex_aio.sql import CursorsTable, EventColumns, EventsTable
from reflex_aio.sql.retention.prune import Extent
from tests.fix_databases import Connect

pytestmark = pytest.mark.asyncio

events = EventsTable("events")
cursors = CursorsTable("cursors")


# Extents.


async def test_an_empty_table_has_neither_first_nor_last_id(connect: Connect) -> None:
    connection = await connect()
    await events.create(connection)
    assert await events.extent(connection) == Extent("", "")


async def test_the_extent_is_that_of_what_is_retained(connect: Connect) -> None:
    connection = await connect()
    await events.create(connection)
    await events.insert_many(connection, [(1, 1)] * 9)
    await connection.execute("DELETE FROM events WHERE id < 4 OR id = 9")
    assert await events.extent(connection) == Extent("4", "8")


async def test_a_missing_table_has_no_extent_and_no_backlog(connect: Connect) -> None:
    connection = await connect()
    with pytest.raises(TableNotFound):
        await events.extent(connection)
    with pytest.raises(TableNotFound):
        await events.backlogs(connection, [""])


# Backlogs.


@pytest.mark.every_postgres
async def test_a_backlog_has_the_number_of_events_after_the_cursor_and_the_age_of_the_first(
    connect: Connect,
) -> None:
    connection = await connect()
    await events.create(connection)
    await events.insert_many(connection, [(1, 1)] * 4)
    await connection.execute("UPDATE events SET timestamp = now() - id * interval '1 hour'")
    found = await events.backlogs(connection, ["", "1", "3", "4", "9"])
    assert {cursor: backlog.events for cursor, backlog in found.items()} == {
        "": 4,
        "1": 3,
        "3": 1,
        "4": 0,
        "9": 0,
    }
    assert [found[cursor].seconds for cursor in ("", "1", "3")] == [
        pytest.approx(seconds, abs=60) for seconds in (3600, 7200, 14400)
    ]
    assert found["4"].seconds == 0.0


async def test_noops_are_no_backlog(connect: Connect) -> None:
    connection = await connect()
    await events.create(connection)
    await connection.execute(
        "INSERT INTO events (foreign_id, type, timestamp)"
        " VALUES ('0', 0, '2000-01-01'), ('0', 1, now()), ('1', 0, now())"
    )
    backlog = (await events.backlogs(connection, [""]))[""]
    assert backlog.events == 2
    assert backlog.seconds < 3600


async def test_a_backlog_is_counted_up_to_the_limit(connect: Connect) -> None:
    connection = await connect()
    await events.create(connection)
    await events.insert_many(connection, [(1, 1)] * 9)
    found = await events.backlogs(connection, ["", "7"], limit=5)
    assert [backlog.events for backlog in found.values()] == [5, 2]


async def test_times_without_a_time_zone_are_utc_and_none_is_in_the_future(connect: Connect) -> None:
    connection = await connect()
    await events.create(connection)
    await connection.execute(
        "ALTER TABLE events ALTER timestamp TYPE timestamp USING timestamp AT TIME ZONE 'UTC'"
    )
    await connection.execute("SET TIME ZONE 'Asia/Tokyo'")
    for hours in (2, -2):
        timestamp = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=hours)
        await connection.execute(
            "INSERT INTO events (foreign_id, type, timestamp) VALUES ('1', 1, $1)", timestamp
        )
    found = await events.backlogs(connection, ["", "1"])
    assert found[""].seconds == pytest.approx(7200, abs=60)
    assert found["1"].seconds == 0.0


async def test_a_table_with_names_and_types_of_its_own_has_backlogs_too(connect: Connect) -> None:
    connection = await connect()
    table = EventsTable(
        "Odd-events",
        columns=EventColumns(id="Number", type="kind", timestamp="at", foreign_id="row"),
        foreign_id="bigint",
    )
    await table.create(connection)
    await table.insert(connection, 7, 1)
    assert (await table.backlogs(connection, [""]))[""].events == 1
    assert await table.extent(connection) == Extent("1", "1")


async def test_what_is_no_cursor_or_limit_is_refused(connect: Connect) -> None:
    connection = await connect()
    await events.create(connection)
    with pytest.raises(InvalidCursor):
        await events.backlogs(connection, ["x"])
    with pytest.raises(ValueError, match="limit 0 is out of range"):
        await events.backlogs(connection, [""], limit=0)
    assert await events.backlogs(connection, []) == {}


# States.


@pytest.mark.every_postgres
async def test_states_have_the_cursors_and_their_times(connect: Connect) -> None:
    connection = await connect()
    await cursors.create(connection)
    before = datetime.now(UTC) - timedelta(minutes=1)
    for name in ("b", "a"):
        await cursors.set(connection, name, "7")
    first, second = await cursors.states(connection)
    assert (first.consumer, first.cursor, second.consumer) == ("a", "7", "b")
    assert first.updated_at is not None
    assert before < first.updated_at <= datetime.now(UTC) + timedelta(minutes=1)


async def test_a_time_of_a_state_may_be_missing_and_is_utc_where_it_has_no_time_zone(
    connect: Connect,
) -> None:
    connection = await connect()
    await connection.execute("SET TIME ZONE 'Asia/Tokyo'")
    await connection.execute(
        "CREATE TABLE cursors (id text PRIMARY KEY, last_event_id int, updated_at timestamp)"
    )
    await connection.execute("INSERT INTO cursors VALUES ('a', 1, NULL), ('b', 2, '2026-01-02 03:04:05')")
    a, b = await cursors.states(connection)
    assert a.updated_at is None
    assert b.updated_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_states_of_a_table_that_is_none_of_ours_are_a_schema_error(connect: Connect) -> None:
    connection = await connect()
    with pytest.raises(TableNotFound):
        await cursors.states(connection)
    await connection.execute("CREATE TABLE cursors (id int)")
    with pytest.raises(SchemaError, match="last_event_id"):
        await cursors.states(connection)


# What a table is like.


@pytest.mark.parametrize("foreign_id", ["text", "bigint"])
@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("trace", [False, True])
async def test_an_events_table_is_taken_as_it_is_found(
    connect: Connect, foreign_id: str, metadata: bool, trace: bool
) -> None:
    connection = await connect()
    real = EventsTable("events", foreign_id=foreign_id, metadata=metadata, trace=trace)  # type: ignore[arg-type]
    await real.create(connection)
    found = await EventsTable("events").as_found(connection)
    assert found.ddl() == real.ddl()
    await found.validate(connection)
    opposite = EventsTable("events", foreign_id="bigint", metadata=not metadata, trace=not trace)
    assert (await opposite.as_found(connection)).ddl() == real.ddl()


async def test_what_is_found_keeps_the_other_settings(connect: Connect, pool: asyncpg.Pool) -> None:
    connection = await connect()
    table = EventsTable("things", columns=EventColumns(metadata="data"), metadata=True, include_noops=True)
    await table.create(connection)
    found = await table.replace(metadata=False).as_found(connection)
    assert found.has_metadata
    await found.insert(connection, 1, 1, metadata=b"kept")
    await connection.execute("INSERT INTO things (foreign_id, type) VALUES ('0', 0)")
    async with found.stream(pool, to_head=True) as stream:
        assert [(event.foreign_id, event.metadata) async for event in stream] == [("1", b"kept"), ("0", None)]


@pytest.mark.parametrize("cursor_type", ["int", "str"])
async def test_a_cursors_table_is_taken_as_it_is_found(connect: Connect, cursor_type: str) -> None:
    connection = await connect()
    await CursorsTable("cursors", cursor_type=cursor_type).create(connection)  # type: ignore[arg-type]
    for given in (cursors, cursors.replace(cursor_type="str")):
        assert (await given.as_found(connection)).cursor_type == cursor_type


async def test_a_missing_table_can_t_be_found(connect: Connect) -> None:
    connection = await connect()
    for table in (events, cursors):
        with pytest.raises(TableNotFound):
            await table.as_found(connection)


async def test_a_table_that_is_dropped_is_gone_and_none_is_no_error(connect: Connect) -> None:
    connection = await connect()
    await events.create(connection)
    await events.drop(connection)
    with pytest.raises(TableNotFound):
        await events.validate(connection)
    await events.drop(connection)
