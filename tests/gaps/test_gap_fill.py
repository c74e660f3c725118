"""Streams with a fence: whatever writers do with ids, no committed event is missed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import DatabaseError, TableRefused
from reflex_aio.hooks import Hooks
from reflex_aio.sql.events.table import EventsTable
from tests.fix_databases import Connect, Database
from tests.reading import Reading, ran, reading
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

events = EventsTable("events", poll_period=0.05)

FENCE = "WITH noops AS"
BY_HAND = "INSERT INTO events (id, foreign_id, type) OVERRIDING SYSTEM VALUE VALUES ($1, 1, 1)"
DRAW = "SELECT nextval(pg_get_serial_sequence('events', 'id'))"


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """A connection that writes, to a database with the events table."""
    connection = await connect()
    await events.create(connection)
    return connection


async def insert(connection: asyncpg.Connection) -> int:
    return int(await events.insert(connection, 1, 1))


async def committed(connection: asyncpg.Connection) -> list[int]:
    """The ids of all events but noops."""
    return [
        row[0]
        for row in await connection.fetch(
            "SELECT id FROM events WHERE (foreign_id, type) <> ('0', 0) ORDER BY id"
        )
    ]


async def noops(connection: asyncpg.Connection) -> list[int]:
    rows = await connection.fetch("SELECT id FROM events WHERE (foreign_id, type) = ('0', 0) ORDER BY id")
    return [row[0] for row in rows]


@asynccontextmanager
async def fenced(pool: asyncpg.Pool, table: EventsTable = events, after: str = "") -> AsyncIterator[Reading]:
    async with reading(table.stream(pool, after, fill_gaps=True)) as stream:
        yield stream


# Late writers.


async def test_an_id_drawn_in_another_transaction_is_refused_to_its_late_writer(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with fenced(pool) as stream:
        drawn = await writer.fetchval(DRAW)
        last = await insert(writer)
        await stream.reached(last)
        with pytest.raises(asyncpg.UniqueViolationError):
            await writer.execute(BY_HAND, drawn)
        last = await insert(writer)
        assert await stream.reached(last) == await committed(writer)


async def test_an_id_drawn_in_another_transaction_is_delivered_if_its_writer_is_quicker(
    pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    late, watcher = await connect(), await connect()
    async with fenced(pool) as stream:
        drawn = await writer.fetchval(DRAW)
        await late.execute("BEGIN")
        await late.execute(BY_HAND, drawn)
        last = await insert(writer)
        # The late writer holds no lock on the sequence: only the noops wait for it.
        await ran(watcher, FENCE, times=1)
        assert stream.ids == []
        await late.execute("COMMIT")
        assert await stream.reached(last) == [drawn, last]


async def test_a_late_writer_that_rolls_back_makes_room_for_the_noop(
    pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    late, watcher = await connect(), await connect()
    async with fenced(pool) as stream:
        drawn = await writer.fetchval(DRAW)
        await late.execute("BEGIN")
        await late.execute(BY_HAND, drawn)
        last = await insert(writer)
        await ran(watcher, FENCE, times=1)
        await late.execute("ROLLBACK")
        assert await stream.reached(last) == [last]
        assert await noops(writer) == [drawn]


async def test_an_id_locked_for_longer_than_noops_wait_does_not_end_the_stream(
    pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    late, watcher = await connect(), await connect()
    quick = events.replace(query_timeout=0.4)
    async with fenced(pool, quick) as stream:
        below = [await writer.fetchval(DRAW) for _ in range(30)]
        drawn = await writer.fetchval(DRAW)
        await late.execute("BEGIN")
        await late.execute(BY_HAND, drawn)
        last = await insert(writer)
        # Without success, again and again; but the ids below are filled.
        await ran(watcher, FENCE, times=6)

        async def taken() -> bool:
            return await noops(writer) == below

        await eventually(taken, "the ids below taken")
        assert not stream.task.done(), stream.task
        assert stream.ids == []
        await late.execute("COMMIT")
        assert await stream.reached(last) == [drawn, last]


async def test_ids_assigned_in_blocks_are_filled(
    pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    await writer.execute("ALTER TABLE events ALTER id SET CACHE 20")
    other = await connect()
    async with fenced(pool) as stream:
        refused = 0
        for turn in range(30):
            for connection in (writer, other) if turn % 2 else (other, writer):
                try:
                    await insert(connection)
                except asyncpg.UniqueViolationError:
                    refused += 1
            everything = await committed(writer)
            if turn % 3 == 0:
                await stream.reached(everything[-1])
        assert refused > 0
        everything = await committed(writer)
        assert await stream.reached(everything[-1]) == everything


async def test_a_sequence_set_back_gives_errors_rather_than_missed_events(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with fenced(pool) as stream:
        for _ in range(3):
            await writer.fetchval(DRAW)
        last = await insert(writer)
        await stream.reached(last)
        await writer.execute("SELECT setval(pg_get_serial_sequence('events', 'id'), 1)")
        for _ in range(3):
            with pytest.raises(asyncpg.UniqueViolationError):
                await insert(writer)
        last = await insert(writer)
        assert await stream.reached(last) == await committed(writer)


async def test_a_low_id_chosen_by_hand_is_delivered_or_refused(
    pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    late, watcher = await connect(), await connect()
    await writer.execute("SELECT setval(pg_get_serial_sequence('events', 'id'), 100)")
    await writer.execute(BY_HAND, 90)
    async with fenced(pool) as stream:
        await stream.reached(90)
        await late.execute("BEGIN")
        await late.execute(BY_HAND, 95)
        last = await insert(writer)
        await ran(watcher, FENCE, times=1)
        assert stream.ids == [90]
        await late.execute("COMMIT")
        assert await stream.reached(last) == [90, 95, last]
        for taken in (1, 50, 92, 99):
            with pytest.raises(asyncpg.UniqueViolationError):
                await writer.execute(BY_HAND, taken)


async def test_the_first_ids_of_a_fresh_table_are_fenced(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    drawn = [await writer.fetchval(DRAW) for _ in range(3)]
    last = await insert(writer)
    async with fenced(pool) as stream:
        await stream.reached(last)
        for event_id in drawn:
            with pytest.raises(asyncpg.UniqueViolationError):
                await writer.execute(BY_HAND, event_id)


async def test_ids_are_fenced_though_the_rows_around_them_were_deleted(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    first, drawn, last = await insert(writer), await writer.fetchval(DRAW), await insert(writer)
    async with events.stream(pool, str(first), to_head=True, fill_gaps=True) as stream:
        await writer.execute("DELETE FROM events")
        assert [int(event.id) async for event in stream] == []
    with pytest.raises(asyncpg.UniqueViolationError):
        await writer.execute(BY_HAND, drawn)
    assert last == 3


async def test_a_bare_on_conflict_do_nothing_loses_its_event_in_silence(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    """Documented: such a writer is not informed."""
    async with fenced(pool) as stream:
        drawn = await writer.fetchval(DRAW)
        await stream.reached(await insert(writer))
        status = await writer.execute(f"{BY_HAND} ON CONFLICT DO NOTHING", drawn)
        assert status == "INSERT 0 0"
        assert drawn in await noops(writer)
    assert "ON CONFLICT DO NOTHING" in (EventsTable.source.__doc__ or "")


# How much is filled.


async def test_ids_far_below_the_first_event_are_left_alone(
    pool: asyncpg.Pool, writer: asyncpg.Connection, database: Database
) -> None:
    await writer.execute("INSERT INTO events (foreign_id, type) SELECT i, 1 FROM generate_series(1, 5000) i")
    await writer.execute("DELETE FROM events WHERE id <= 4000")
    async with fenced(pool) as stream:
        assert await stream.reached(5000) == list(range(4001, 5001))
    assert await noops(writer) == list(range(3001, 4001))
    # Nor does the next stream begin below these.
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=5) as other, fenced(other) as stream:
        await insert(writer)
        await writer.fetchval(DRAW)
        await stream.reached(await insert(writer))
    assert await noops(writer) == [*range(3001, 4001), 5002]


async def test_many_missing_ids_are_filled_in_batches(pool: asyncpg.Pool, writer: asyncpg.Connection) -> None:
    filled: list[int] = []

    class Seen(Hooks):
        def gap_filled(self, table: str, noops: int) -> None:
            filled.append(noops)

    first = await insert(writer)
    await writer.execute("SELECT setval(pg_get_serial_sequence('events', 'id'), 5001)")
    last = await insert(writer)
    async with fenced(pool, events.replace(hooks=Seen())) as stream:
        assert await stream.reached(last) == [first, last]
    assert filled == [1000] * 5


async def test_a_jump_of_more_than_a_million_is_reported_rather_than_filled(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await insert(writer)
    await writer.execute("SELECT setval(pg_get_serial_sequence('events', 'id'), 1000002)")
    await insert(writer)
    async with fenced(pool) as stream:
        error = await stream.failure()
    assert isinstance(error, TableRefused)
    assert "1000001 ids are missing between 2 and 1000003" in str(error)
    assert await noops(writer) == []


# What it needs.


async def test_a_table_without_a_unique_index_is_refused(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute("ALTER TABLE events DROP CONSTRAINT events_pkey")
    for index in (
        "CREATE INDEX ON events (id)",
        "CREATE UNIQUE INDEX ON events (id) WHERE id > 10",
        "CREATE UNIQUE INDEX ON events ((id + 1))",
        "ALTER TABLE events ADD UNIQUE (id, type)",
        "ALTER TABLE events ADD UNIQUE (id) DEFERRABLE",
    ):
        await writer.execute(index)
        with pytest.raises(TableRefused, match="its id has no unique index of its own"):
            async with events.stream(pool, fill_gaps=True):
                pass
    await writer.execute("CREATE UNIQUE INDEX ON events (id)")
    async with fenced(pool) as stream:
        await stream.reached(await insert(writer))


async def test_a_partitioned_table_is_refused_unless_its_id_alone_is_the_key(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    writer = await connect()
    for key, by in (("id, timestamp", "timestamp"), ("id", "id")):
        await writer.execute(
            f"""
            DROP TABLE IF EXISTS events;
            CREATE TABLE events (
                id bigint GENERATED ALWAYS AS IDENTITY, type integer NOT NULL,
                timestamp timestamptz NOT NULL DEFAULT clock_timestamp(), foreign_id text NOT NULL,
                PRIMARY KEY ({key})
            ) PARTITION BY RANGE ({by});
            CREATE TABLE events_1 PARTITION OF events DEFAULT;
            """
        )
        if by == "timestamp":
            with pytest.raises(TableRefused, match="its id has no unique index of its own"):
                async with events.stream(pool, fill_gaps=True):
                    pass
    async with fenced(pool) as stream:
        drawn = await writer.fetchval(DRAW)
        await stream.reached(await insert(writer))
        assert await noops(writer) == [drawn]


async def test_a_reader_that_may_not_insert_is_refused(
    pool: asyncpg.Pool, writer: asyncpg.Connection, database: Database
) -> None:
    reader = f"reader_{database.name}"
    await writer.execute(f"CREATE ROLE {reader} LOGIN; GRANT SELECT ON events TO {reader}")
    try:
        async with asyncpg.create_pool(database.dsn, user=reader, min_size=0, max_size=5) as readers:
            async with reading(events.stream(readers)) as stream:
                await stream.reached(await insert(writer))
            with pytest.raises(TableRefused, match="grant INSERT on it"):
                async with events.stream(readers, fill_gaps=True):
                    pass
            await writer.execute(f"GRANT INSERT ON events TO {reader}")
            async with fenced(readers) as stream:
                await writer.fetchval(DRAW)
                await stream.reached(await insert(writer))
    finally:
        await writer.execute(f"DROP OWNED BY {reader}; DROP ROLE {reader}")


async def test_a_noop_that_the_table_refuses_is_an_error_and_never_passed(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute("ALTER TABLE events ADD CHECK (type > 0)")
    async with fenced(pool) as stream:
        await writer.fetchval(DRAW)
        await insert(writer)
        error = await stream.failure()
    assert isinstance(error, DatabaseError)
    assert "check constraint" in str(error)
    assert stream.ids == []


async def test_foreign_ids_of_type_bigint_are_fenced_too(pool: asyncpg.Pool, connect: Connect) -> None:
    writer = await connect()
    numbers = events.replace(foreign_id="bigint", metadata=True)
    await numbers.create(writer)
    async with fenced(pool, numbers) as stream:
        await writer.fetchval(DRAW)
        last = int(await numbers.insert(writer, 7, 1, metadata=b"x"))
        assert await stream.reached(last) == [last]


async def test_readers_with_a_fence_do_not_get_into_each_others_way(
    pool: asyncpg.Pool, writer: asyncpg.Connection, database: Database
) -> None:
    async with (
        asyncpg.create_pool(database.dsn, min_size=1, max_size=5) as other,
        fenced(pool) as one,
        fenced(other) as two,
    ):
        for _ in range(100):
            for _ in range(3):
                await writer.fetchval(DRAW)
            last = await insert(writer)
        expected = await committed(writer)
        assert await one.reached(last) == expected
        assert await two.reached(last) == expected


async def test_a_table_that_keeps_noops_out_is_refused(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute(
        """
        CREATE FUNCTION no_noops() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN IF NEW.type = 0 THEN RETURN NULL; END IF; RETURN NEW; END $$;
        CREATE TRIGGER no_noops BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION no_noops()
        """
    )
    await insert(writer)
    await writer.execute(DRAW)
    await insert(writer)
    async with fenced(pool) as stream:
        error = await stream.failure()
    assert isinstance(error, TableRefused)
    assert "id 2 is missing" in str(error)
    assert stream.ids == [1]
