"""Streaming a table: from every cursor, in pages of any size, exactly what is in the rows."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from reflex_aio import Event, EventStream, SchemaError
from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE
from reflex_aio.sql import EventColumns, EventsTable
from reflex_aio.sql.events.postgres.queries import SEPARATOR
from tests.fix_databases import Connect, Database
from tests.fix_processes import Spawn
from tests.fix_statements import Statements
from tests.reading import reading
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

table = EventsTable("events", poll_period=0.2)
full = EventsTable("full_events", metadata=True, trace=True, poll_period=0.2)


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """A connection to a database that has both tables."""
    connection = await connect()
    await table.create(connection)
    await full.create(connection)
    return connection


async def insert(writer: asyncpg.Connection, count: int, table: EventsTable = table) -> list[str]:
    return await table.insert_many(writer, [(number, 1) for number in range(1, count + 1)])


async def insert_noops(writer: asyncpg.Connection, count: int) -> None:
    await writer.execute(
        "INSERT INTO events (foreign_id, type) SELECT $1, $2::int FROM generate_series(1, $3)",
        NOOP_FOREIGN_ID,
        NOOP_TYPE,
        count,
    )


def ids(events: Iterable[Event]) -> list[int]:
    return [int(event.id) for event in events]


async def all_of(stream: EventStream) -> list[int]:
    async with stream:
        return ids([event async for event in stream])


# Cursors and pages.


@pytest.mark.parametrize(
    ("after", "first"), [("", 1), ("0", 1), ("1", 2), ("3", 4), ("0003", 4), ("5", 6), ("6", 7)]
)
async def test_a_stream_begins_after_any_id(
    pool: asyncpg.Pool, writer: asyncpg.Connection, after: str, first: int
) -> None:
    await insert(writer, 6)
    assert await all_of(table.stream(pool, after, to_head=True)) == list(range(first, 7))
    async with table.stream(pool, after) as stream:
        await insert(writer, 1)
        assert ids([await anext(stream) for _ in range(first, 8)]) == list(range(first, 8))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 100_000])
async def test_pages_of_any_size_make_the_same_stream(
    pool: asyncpg.Pool, writer: asyncpg.Connection, size: int
) -> None:
    paged = table.replace(page_size=size)
    await insert(writer, 6)
    assert await all_of(paged.stream(pool, to_head=True)) == [1, 2, 3, 4, 5, 6]
    assert await all_of(paged.stream(pool, "2", to_head=True)) == [3, 4, 5, 6]
    async with paged.stream(pool) as stream, paged.stream(pool, from_head=True) as at_head:
        await insert(writer, 7)
        await insert(writer, 1)
        pages: list[list[Event]] = []
        while sum(map(len, pages)) < 14:
            pages.append(await stream.read_page())
        assert ids([event for page in pages for event in page]) == list(range(1, 15))
        assert max(map(len, pages)) <= size
        assert ids([await anext(at_head) for _ in range(8)]) == list(range(7, 15))


async def test_the_head_is_the_greatest_id_there_is(pool: asyncpg.Pool, writer: asyncpg.Connection) -> None:
    source = table.source(pool)
    assert await source.head() == ""
    await insert(writer, 3)
    assert await source.head() == "3"
    await insert_noops(writer, 1)
    assert await source.head() == "4"
    await writer.execute("DELETE FROM events WHERE id > 1")
    assert await source.head() == "1"
    async with writer.transaction():
        await insert(writer, 1)
        assert await source.head() == "1"
    assert await source.head() == "5"


async def test_to_head_of_a_table_that_never_had_an_event_ends(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    assert await all_of(table.stream(pool, to_head=True)) == []
    await insert(writer, 2)
    await writer.execute("DELETE FROM events")
    assert await all_of(table.stream(pool, to_head=True)) == []
    assert await all_of(table.stream(pool, "1", to_head=True)) == []


# Noops.


@pytest.mark.parametrize("size", [2, 1000])
async def test_pages_of_nothing_but_noops_are_passed(
    pool: asyncpg.Pool, writer: asyncpg.Connection, size: int
) -> None:
    paged = table.replace(page_size=size)
    await insert(writer, 1)
    await insert_noops(writer, 5)
    assert await all_of(paged.stream(pool, to_head=True)) == [1]
    async with paged.stream(pool) as stream:
        assert ids([await anext(stream)]) == [1]
        await insert_noops(writer, 2)
        await insert(writer, 1)
        assert ids([await anext(stream)]) == [9]


async def test_noops_are_delivered_on_request(pool: asyncpg.Pool, writer: asyncpg.Connection) -> None:
    await insert_noops(writer, 2)
    # Of the two marks of a noop, each alone is none.
    await table.insert(writer, NOOP_FOREIGN_ID, 1)
    await table.insert(writer, 1, NOOP_TYPE)
    assert await all_of(table.stream(pool, to_head=True)) == [3, 4]
    with_noops = table.replace(include_noops=True)
    async with with_noops.stream(pool, to_head=True) as stream:
        assert [event.is_noop async for event in stream] == [True, True, False, False]


# Foreign ids and types.


@pytest.mark.every_postgres
@pytest.mark.parametrize("packed", [1, 4, 5])
async def test_foreign_ids_and_types_come_as_they_are_whatever_is_in_them(
    pool: asyncpg.Pool, writer: asyncpg.Connection, packed: int
) -> None:
    """Pages are sent packed up to one that can't be: in the first, in the second, and as the first of it."""
    texts = ["", "1", ",", "a,b", '"', "'", "\\", "\\x1f", " ", "\n", "\x01", "ü", "\U0001f600", "0" * 5000]
    odd = [SEPARATOR, f"{SEPARATOR}a", f"a{SEPARATOR}", f"a{SEPARATOR}b", SEPARATOR * 3]
    given = [("plain", 1)] * packed
    given += [(text, -(2**31)) for text in odd]
    given += [(text, 2**31 - 1) for text in texts]
    await writer.executemany("INSERT INTO events (foreign_id, type) VALUES ($1, $2)", given)
    async with table.replace(page_size=4).stream(pool, to_head=True) as stream:
        assert [(event.foreign_id, event.type) async for event in stream] == given


@pytest.mark.parametrize(
    "given",
    [
        pytest.param([(None, 1), ("a", 1), (f"b{SEPARATOR}c", 1)], id="as-many-separators-as-without-both"),
        pytest.param([("a", None), ("b", 2)], id="a-type"),
        pytest.param([("a", None)], id="all-types"),
        pytest.param([(None, 1)], id="all-foreign-ids"),
    ],
)
async def test_null_is_an_error_of_its_event_and_moves_nothing_to_another_event(
    pool: asyncpg.Pool, writer: asyncpg.Connection, given: list[tuple[str | None, int | None]]
) -> None:
    await writer.execute("ALTER TABLE events ALTER foreign_id DROP NOT NULL, ALTER type DROP NOT NULL")
    await writer.executemany("INSERT INTO events (foreign_id, type) VALUES ($1, $2)", given)
    rows = dict(enumerate(given, 1))
    nulls = {event_id: row for event_id, row in rows.items() if None in row}
    for event_id, row in nulls.items():
        async with table.stream(pool, str(event_id - 1), to_head=True) as stream:
            column = "type" if row[1] is None else "foreign_id"
            with pytest.raises(SchemaError, match=f'events: column "{column}" of event {event_id} is NULL'):
                await anext(stream)
        await writer.execute("DELETE FROM events WHERE id = $1", event_id)
    async with table.stream(pool, str(max(nulls)), to_head=True) as stream:
        later = [(event.foreign_id, event.type) async for event in stream]
    assert later == [row for event_id, row in rows.items() if event_id > max(nulls)]


@pytest.mark.suite_server
async def test_once_a_page_cannot_be_packed_no_further_one_is_loaded_twice(
    pool: asyncpg.Pool, writer: asyncpg.Connection, statements: Statements
) -> None:
    await insert(writer, 4)
    await table.insert(writer, SEPARATOR, 1)
    await insert(writer, 8)
    statements.taken()
    assert await all_of(table.replace(page_size=4).stream(pool, to_head=True)) == list(range(1, 14))
    limited = [text for text in (statement.text for statement in statements.taken()) if "LIMIT 4)" in text]
    assert ["array_agg" in text for text in limited] == [False, False, True, True, True]


# Timestamps.

TIMES = [
    "0001-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "1970-01-01 00:00:00",
    "1970-01-01 00:00:00.000001",
    "1999-12-31 23:59:59.999999",
    "2000-01-01 00:00:00",
    "2024-03-10 02:30:00.123456",
    "2038-01-19 03:14:08.000001",
    "9999-12-31 23:59:59.999999",
]


@pytest.mark.every_postgres
@pytest.mark.parametrize("column", ["timestamptz", "timestamp", "timestamptz(0)"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
async def test_timestamps_are_exact_to_the_microsecond_in_utc_whatever_the_sessions_time_zone(
    database: Database, writer: asyncpg.Connection, column: str, zone: str
) -> None:
    await writer.execute(
        f"ALTER TABLE events ALTER timestamp DROP DEFAULT, ALTER timestamp TYPE {column}; SET TIME ZONE 'UTC'"
    )
    times = [text for text in TIMES if "." not in text] if column.endswith("(0)") else TIMES
    for text in times:
        await writer.execute(
            f"INSERT INTO events (foreign_id, type, timestamp) VALUES ($1, 1, '{text}')", text
        )
    settings = {"timezone": zone, "datestyle": "SQL, DMY"}
    async with (
        asyncpg.create_pool(database.dsn, min_size=1, server_settings=settings) as pool,
        table.stream(pool, to_head=True) as stream,
    ):
        events = [event async for event in stream]
    for text, event in zip(times, events, strict=True):
        expected = datetime.fromisoformat(f"{text}+00:00")
        assert event.timestamp == expected
        assert event.timestamp.utcoffset() == timedelta(0)
        assert event.timestamp_us == (expected - EPOCH) // timedelta(microseconds=1)


async def test_an_event_without_a_timestamp_is_an_error_that_names_it(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute("ALTER TABLE events ALTER timestamp DROP NOT NULL")
    await insert(writer, 2)
    await writer.execute("UPDATE events SET timestamp = NULL WHERE id = 2")
    async with table.stream(pool) as stream:
        assert (await anext(stream)).id == "1"
        with pytest.raises(SchemaError, match='events: column "timestamp" of event 2 is NULL'):
            await anext(stream)


async def test_events_too_large_for_one_page_come_in_smaller_ones(
    database: Database, writer: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    # The server's limit is a gigabyte: here it is three events.
    await writer.execute(
        "CREATE SCHEMA small; CREATE FUNCTION small.append(text, text, text) RETURNS text LANGUAGE plpgsql AS $$"
        " BEGIN IF cardinality(string_to_array($1, $3)) = 3 THEN RAISE program_limit_exceeded; END IF;"
        " RETURN concat_ws($3, $1, $2); END $$;"
        " CREATE AGGREGATE small.string_agg(text, text) (sfunc = small.append, stype = text)"
    )
    ids = await insert(writer, 10)
    settings = {"search_path": "small, pg_catalog, public"}
    async with (
        asyncpg.create_pool(database.dsn, min_size=1, server_settings=settings) as pool,
        table.replace(page_size=8).stream(pool, to_head=True) as stream,
    ):
        pages = [page async for page in _pages(stream)]
    assert [[event.id for event in page] for page in pages] == [ids[i : i + 2] for i in range(0, 10, 2)]
    assert [record.message for record in caplog.records] == [
        f"events: a page of {size} events is too large: program_limit_exceeded" for size in (8, 4)
    ]


async def _pages(stream: EventStream) -> AsyncIterator[list[Event]]:
    while page := await stream.read_page():
        yield page


# Lag.


class Clock:
    """The time, and what it was moved by."""

    def __init__(self) -> None:
        self.moved = 0.0

    def __call__(self) -> float:
        return time.time() + self.moved


async def nothing_comes(stream: EventStream) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await stream.read_page()


@pytest.mark.every_postgres
@pytest.mark.parametrize("column", ["timestamptz", "timestamp"])
async def test_with_a_lag_an_event_is_delivered_once_it_is_that_old(
    database: Database, writer: asyncpg.Connection, column: str
) -> None:
    await writer.execute(
        f"ALTER TABLE events ALTER timestamp DROP DEFAULT, ALTER timestamp TYPE {column},"
        f" ALTER timestamp SET DEFAULT clock_timestamp(){' AT TIME ZONE ' * (column == 'timestamp')}"
        f"{repr('UTC') * (column == 'timestamp')}"
    )
    clock = Clock()
    aged = table.replace(clock=clock)
    # Hours away from UTC, should the session's time zone matter.
    async with asyncpg.create_pool(
        database.dsn, min_size=1, server_settings={"timezone": "Asia/Kolkata"}
    ) as pool:
        await insert(writer, 2)
        async with aged.stream(pool, lag=3600.0) as stream:
            await nothing_comes(stream)
            clock.moved = 3500.0
            await nothing_comes(stream)
            assert await all_of(aged.stream(pool, to_head=True, lag=3600.0)) == []
            clock.moved = 3601.0
            assert ids([await anext(stream), await anext(stream)]) == [1, 2]
            await writer.execute("UPDATE events SET timestamp = timestamp - interval '1 hour'")
            clock.moved = 0.0
            await insert(writer, 2)
            assert await all_of(aged.stream(pool, to_head=True, lag=3600.0)) == [1, 2]
            assert await all_of(aged.stream(pool, "1", to_head=True, lag=3600.0)) == [2]
            assert await all_of(aged.stream(pool, "4", to_head=True, lag=3600.0)) == []
            assert await all_of(aged.stream(pool, to_head=True, lag=0.0)) == [1, 2, 3, 4]
            assert await all_of(aged.stream(pool, to_head=True, lag=7200.0)) == []
            assert await all_of(aged.stream(pool, from_head=True, to_head=True, lag=3600.0)) == []
            async with aged.stream(pool, from_head=True, lag=3600.0) as from_head:
                assert from_head.cursor == "2"
                await nothing_comes(from_head)
                clock.moved = 3600.0
                assert ids([await anext(from_head), await anext(from_head)]) == [3, 4]
            assert ids([await anext(stream), await anext(stream)]) == [3, 4]


async def test_of_events_that_grow_old_one_by_one_each_comes_at_its_time(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await insert(writer, 5)
    await writer.execute("UPDATE events SET timestamp = timestamp + id * interval '50 ms'")
    async with table.stream(pool, lag=0.4) as stream:
        for _ in range(5):
            event = await anext(stream)
            age = time.time() - event.timestamp_us / 1_000_000
            assert age >= 0.4
        assert event.id == "5"


async def test_a_read_that_is_cancelled_while_events_grow_old_loses_none(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await insert(writer, 3)
    read: list[Event] = []
    async with table.stream(pool, lag=0.3) as stream:
        while len(read) < 3:
            try:
                async with asyncio.timeout(0.02):
                    read.append(await anext(stream))
            except TimeoutError:
                continue
    assert ids(read) == [1, 2, 3]


# A loader of the user's own.


async def test_a_loader_may_add_to_events_with_the_connection_that_they_were_read_on(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute(
        "CREATE TABLE names AS SELECT 'name-' || i AS name, i::text AS id FROM generate_series(1, 5) i"
    )
    pages: list[list[int]] = []

    async def with_names(connection: Any, events: Sequence[Event]) -> list[Event]:
        pages.append(ids(events))
        rows = await connection.fetch(
            "SELECT id, name FROM names WHERE id = ANY($1)", [e.foreign_id for e in events]
        )
        names = {row["id"]: row["name"].encode() for row in rows}
        return [msgspec.structs.replace(event, metadata=names[event.foreign_id]) for event in events]

    loaded = table.replace(loader=with_names, page_size=2)
    await insert(writer, 5)
    async with loaded.stream(pool, to_head=True) as stream:
        events = [event async for event in stream]
    assert [event.metadata for event in events] == [f"name-{number}".encode() for number in range(1, 6)]
    assert pages == [[1, 2], [3, 4], [5]]


async def test_a_loader_may_drop_events_even_all_of_a_page(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async def every_fifth(connection: Any, events: Sequence[Event]) -> list[Event]:
        return [event for event in events if int(event.id) % 5 == 0]

    loaded = table.replace(loader=every_fifth, page_size=2)
    await insert(writer, 12)
    assert await all_of(loaded.stream(pool, to_head=True)) == [5, 10]
    async with loaded.stream(pool, "9") as stream:
        assert ids([await anext(stream)]) == [10]
        await insert(writer, 9)
        assert ids([await anext(stream), await anext(stream)]) == [15, 20]
        # Dropped like those before.
        assert stream.cursor == "20"


async def test_a_loader_is_not_called_for_noops_nor_for_empty_pages(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    calls: list[list[int]] = []

    async def loader(connection: Any, events: Sequence[Event]) -> Sequence[Event]:
        calls.append(ids(events))
        return events

    await insert_noops(writer, 2)
    await insert(writer, 1)
    await insert_noops(writer, 1)
    assert await all_of(table.replace(loader=loader).stream(pool, to_head=True)) == [3]
    assert await all_of(table.replace(loader=loader).stream(pool, "3", to_head=True)) == []
    assert calls == [[3]]


async def test_what_a_loader_raises_is_raised_by_the_read_and_the_next_read_goes_on(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    failures: list[Exception] = [ZeroDivisionError("of the loader's own")]

    async def loader(connection: Any, events: Sequence[Event]) -> Sequence[Event]:
        if failures:
            raise failures.pop()
        return events

    await insert(writer, 2)
    async with table.replace(loader=loader).stream(pool, to_head=True) as stream:
        with pytest.raises(ZeroDivisionError, match="of the loader's own"):
            await anext(stream)
        assert ids([event async for event in stream]) == [1, 2]


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda events: None, TypeError, r"the loader returned None: accepted is a sequence of events"),
        (iter, TypeError, "the loader returned <.*>: accepted is"),
        (lambda events: [event.id for event in events], TypeError, "the loader returned .*'1'"),
        (lambda events: "12", TypeError, "the loader returned '12'"),
        (lambda events: events[::-1], ValueError, "the loader returned event 1 twice, out of order"),
        (lambda events: [events[0], *events], ValueError, "returned event 1 twice"),
        (
            lambda events: [msgspec.structs.replace(events[0], id="9")],
            ValueError,
            "returned event 9 .*without",
        ),
    ],
    ids=["none", "iterator", "ids", "string", "reversed", "doubled", "invented"],
)
async def test_what_a_loader_returns_is_checked_as_it_could_lose_events(
    pool: asyncpg.Pool, writer: asyncpg.Connection, returned: Any, error: type[Exception], message: str
) -> None:
    async def loader(connection: Any, events: Sequence[Event]) -> Any:
        return returned(events)

    await insert(writer, 2)
    async with table.replace(loader=loader).stream(pool) as stream:
        with pytest.raises(error, match=message):
            await anext(stream)


# Which table.


async def test_each_pool_reads_the_table_that_its_search_path_finds(
    database: Database, connect: Connect
) -> None:
    admin = await connect()
    streams: dict[str, EventStream] = {}
    pools = []
    for schema in ("a", "b"):
        await admin.execute(f"CREATE SCHEMA {schema}")
        pool = await asyncpg.create_pool(
            database.dsn, min_size=1, max_size=5, server_settings={"search_path": schema}
        )
        pools.append(pool)
        async with pool.acquire() as connection:
            await table.create(connection)
            await table.insert(connection, f"{schema}-1", 1)
        streams[schema] = await table.stream(pool).__aenter__()
    for schema, stream in streams.items():
        await EventsTable(f"{schema}.events").insert(admin, f"{schema}-2", 1)
        assert [(await anext(stream)).foreign_id for _ in range(2)] == [f"{schema}-1", f"{schema}-2"]
    await admin.execute("SET search_path TO b")
    await table.insert(admin, "b-3", 1)
    assert (await anext(streams["b"])).foreign_id == "b-3"
    assert [await table.source(pool).head() for pool in pools] == ["2", "3"]
    for stream in streams.values():
        await stream.aclose()
    for pool in pools:
        await pool.close()


async def test_a_missing_column_is_an_error_when_the_stream_is_opened(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    for columns, message in (
        (EventColumns(type="kind"), r'events: column "kind" does not exist \(validate\(\) compares'),
        (EventColumns(foreign_id="user_id"), 'column "user_id" does not exist'),
        (EventColumns(timestamp="at"), 'column "at" is missing: accepted is timestamp with time zone'),
        (
            EventColumns(timestamp="foreign_id", foreign_id="other"),
            'column "foreign_id" is text: accepted is',
        ),
        (EventColumns(id="number"), 'column "number" is missing: accepted is integer or bigint'),
    ):
        stream = table.replace(columns=columns).stream(pool)
        with pytest.raises(SchemaError, match=message):
            await stream.__aenter__()
    for what in ("metadata", "trace"):
        changes: dict[str, Any] = {what: True}
        with pytest.raises(SchemaError, match=f'column "{what}" does not exist'):
            await table.replace(**changes).stream(pool).__aenter__()


# Connections and processes.


async def test_a_pool_of_one_connection_serves_streams_and_others_too(
    database: Database, writer: asyncpg.Connection
) -> None:
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=1) as pool:
        async with (
            reading(table.stream(pool)) as first,
            reading(table.stream(pool, from_head=True)) as second,
            reading(table.stream(pool, lag=0.01)) as third,
        ):
            for number in range(1, 11):
                async with (
                    asyncio.timeout(deadline(5)),
                    pool.acquire() as connection,
                    connection.transaction(),
                ):
                    await table.insert(connection, number, 1)
            for stream in (first, second, third):
                assert await stream.reached(10) == list(range(1, 11))
        async with asyncio.timeout(deadline(5)):
            await pool.close()


async def read_events(dsn: str, after: str) -> None:
    """Read in a process of its own, and print the ids."""
    settings = {"application_name": "child"}
    async with (
        asyncpg.create_pool(dsn, min_size=1, server_settings=settings) as pool,
        table.stream(pool, after) as stream,
    ):
        print("ready", flush=True)
        async for event in stream:
            print(event.id, flush=True)


async def test_a_reader_in_another_process_reads_on_where_it_was_killed(
    database: Database, writer: asyncpg.Connection, spawn: Spawn
) -> None:
    async def children_gone() -> bool:
        children = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE 'child%'"
        )
        return bool(await writer.fetchval(children, database.name) == 0)

    after = 0
    for _ in range(2):
        child = await spawn(read_events, database.dsn, str(after))
        assert await child.line() == "ready"
        await insert(writer, 3)
        first = after + 1
        for expected in range(first, first + 3):
            assert await child.line() == str(expected)
        await child.kill()
        await eventually(children_gone, "the child's connections ended")
        after = first + 1
