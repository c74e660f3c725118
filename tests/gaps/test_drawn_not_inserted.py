"""An id is drawn and its row isn't there yet, by whatever way it comes: the stream doesn't overtake it."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.gaps.interleaving import INSERT, Hold, Points, begin, holding, insert, reading, waits

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

TRIGGER = """
CREATE TRIGGER hold_here BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION hold_here();
CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
"""

# Each draws an id, waits where it is held, and ends by itself. The name "held" makes the trigger wait.
WAYS = {
    "before insert trigger": "INSERT INTO events (foreign_id, type) VALUES ('held', 1)",
    "insert select": f"""
        INSERT INTO events (foreign_id, type)
        SELECT CASE WHEN i = 2 THEN {Hold.sql}::text || 'x' ELSE 'x' END, 1 FROM generate_series(1, 3) AS i
    """,
    "nextval by hand": f"""
        INSERT INTO events (id, foreign_id, type) OVERRIDING SYSTEM VALUE
        SELECT drawn.id, {Hold.sql}::text || 'x', 1
        FROM (SELECT nextval(pg_get_serial_sequence('events', 'id')) AS id OFFSET 0) AS drawn
    """,
    "trigger on the business table": """
        CREATE FUNCTION write_event() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO events (foreign_id, type) VALUES (NEW.name, 1); RETURN NEW; END $$;
        CREATE TRIGGER write_event AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION write_event();
        INSERT INTO users (name) VALUES ('held');
    """,
    "deferred trigger, at commit": """
        CREATE FUNCTION write_event() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO events (foreign_id, type) VALUES (NEW.name, 1); RETURN NEW; END $$;
        CREATE CONSTRAINT TRIGGER write_event AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION write_event();
        BEGIN; INSERT INTO users (name) VALUES ('held'); COMMIT;
    """,
    "rule": """
        CREATE RULE write_event AS ON INSERT TO users DO ALSO
            INSERT INTO events (foreign_id, type) VALUES (NEW.name, 1);
        INSERT INTO users (name) VALUES ('held');
    """,
    "view": """
        CREATE VIEW written AS SELECT foreign_id, type FROM events;
        INSERT INTO written VALUES ('held', 1);
    """,
    "function in pl/pgsql": """
        DO $$ BEGIN INSERT INTO events (foreign_id, type) VALUES ('held', 1); END $$;
    """,
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_drawn_id_is_never_overtaken(
    way: str,
    events: EventsTable,
    readers: asyncpg.Pool,
    points: Points,
    writer: asyncpg.Connection,
    connect: Connect,
) -> None:
    await writer.execute(TRIGGER)
    *prepare, act = [WAYS[way]] if way.startswith(("before", "insert", "nextval")) else _split(WAYS[way])
    for statement in prepare:
        await writer.execute(statement)
    holder = await connect()
    async with holding(connect) as hold, reading(events.stream(readers)) as reader:
        before = await insert(writer)
        await reader.reached(before)
        acting = asyncio.create_task(holder.execute(act))
        await hold.reached_by(holder)
        above = await insert(writer)
        await points.more("scan")
        assert reader.ids == [before]

        await hold.let_go()
        await acting
        await reader.reached(above)
        await reader.delivers_all(writer)
    assert len(reader.ids) >= 3


def _split(text: str) -> list[str]:
    """Part what is prepared and committed from the last line, which acts."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return ["\n".join(lines[:-1]), lines[-1]] if len(lines) > 1 else lines


async def test_a_generic_prepared_plan_is_never_overtaken(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    await writer.execute(TRIGGER)
    holder = await connect(server_settings={"plan_cache_mode": "force_generic_plan"})
    prepared = await holder.prepare(INSERT)
    for _ in range(7):
        await prepared.fetchval("1")
    async with holding(connect) as hold, reading(events.stream(readers)) as reader:
        await reader.reached(7)
        acting = asyncio.create_task(prepared.fetchval("held"))
        await hold.reached_by(holder)
        await insert(writer)
        await points.more("scan")
        assert reader.ids == list(range(1, 8))

        await hold.let_go()
        await acting
        await reader.delivers_all(writer)


async def test_a_copy_fed_row_by_row_is_never_overtaken(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder, feed = await connect(), asyncio.Queue[bytes]()

    async def rows() -> AsyncIterator[bytes]:
        while row := await feed.get():
            yield row

    async with reading(events.stream(readers)) as reader:
        copying = asyncio.create_task(
            holder.copy_to_table("events", source=rows(), columns=["foreign_id", "type"], format="csv")
        )
        # Rows are drawn ids for as they arrive, in batches of about 64 KiB of the protocol's buffer.
        for _ in range(3):
            feed.put_nowait(b"1,1\n" * 30_000)
            await points.more("page", 2)
        await insert(writer)
        await points.more("scan")
        assert reader.ids == []

        feed.put_nowait(b"")
        await copying
        await reader.delivers_all(writer, within=30.0)
    assert len(reader.ids) == 90_001


async def test_a_procedure_that_commits_between_inserts_is_followed(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    await writer.execute(TRIGGER)
    await writer.execute(
        """
        CREATE PROCEDURE tell_all(first text) LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO events (foreign_id, type) VALUES (first, 1);
            FOR i IN 1..9 LOOP
                INSERT INTO events (foreign_id, type) VALUES (i::text, 1);
                IF i % 3 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
            END LOOP;
        END $$
        """
    )
    caller = await connect()
    async with holding(connect) as hold, reading(events.stream(readers)) as reader:
        await caller.execute("CALL tell_all('free')")
        await insert(writer)
        delivered = [1, 2, 3, 5, 6, 8, 9, 11]
        await reader.reached(11)
        calling = asyncio.create_task(caller.execute("CALL tell_all('held')"))
        await hold.reached_by(caller)
        await insert(writer)
        await points.more("scan")
        assert reader.ids == delivered

        await hold.let_go()
        await calling
        await reader.delivers_all(writer)


async def test_a_transaction_of_thousands_of_subtransactions_is_waited_for_as_one(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    async with reading(events.stream(readers)) as reader:
        # More than the 64 that a backend keeps in shared memory; every third is rolled back.
        await holder.execute(
            """
            DO $$ BEGIN
                FOR i IN 1..3000 LOOP
                    BEGIN
                        INSERT INTO events (foreign_id, type) VALUES (i::text, 1);
                        IF i % 3 = 0 THEN RAISE 'no'; END IF;
                    EXCEPTION WHEN OTHERS THEN NULL;
                    END;
                END LOOP;
            END $$
            """
        )
        await insert(writer)
        await points.more("scan")
        assert reader.ids == []

        await holder.execute("COMMIT")
        await reader.delivers_all(writer, within=30.0)
    assert len(reader.ids) == 2001


async def test_eighty_savepoints_and_their_rollbacks_are_waited_for(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    async with reading(events.stream(readers)) as reader:
        for i in range(80):
            await holder.execute(f"SAVEPOINT s{i}")
            await insert(holder)
            if i % 2:
                await holder.execute(f"ROLLBACK TO SAVEPOINT s{i}")
        await insert(writer)
        await points.more("scan")
        assert reader.ids == []

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)
    assert len(reader.ids) == 41


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_holder_of_many_locks_is_seen(
    when: str,
    events: EventsTable,
    readers: asyncpg.Pool,
    points: Points,
    writer: asyncpg.Connection,
    connect: Connect,
) -> None:
    """Past the fast path's slots a lock is in the main table; a conflicting lock moves it there later too."""
    await writer.execute(
        "DO $$ BEGIN FOR i IN 1..200 LOOP EXECUTE format('CREATE TABLE t%s ()', i); END LOOP; END $$"
    )
    many = "".join(f"LOCK TABLE t{i} IN ROW EXCLUSIVE MODE;" for i in range(1, 201))
    holder = await begin(connect)
    if when == "before":
        await holder.execute(many)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        if when == "after":
            await holder.execute(many)
            # Wants a lock that conflicts with those of the fast path, which moves them to the main table.
            altering = await connect()
            alter = asyncio.create_task(altering.execute("ALTER SEQUENCE events_id_seq NO CYCLE"))
            await waits(writer, altering)
            await points.more("scan")
            await writer.execute("SELECT pg_cancel_backend($1)", altering.get_server_pid())
            with pytest.raises(asyncpg.QueryCanceledError):
                await alter
            await points.more("scan")
        assert reader.ids == []

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)
