"""Tables whose gaps cannot be distinguished from events still to come are refused, with a remedy."""

import asyncpg
import pytest

from reflex_aio import CursorAhead, TableRefused
from reflex_aio.errors import SchemaError
from reflex_aio.sql import EventsTable
from tests.fix_databases import Database
from tests.gaps.interleaving import insert

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

ROWS = "type integer NOT NULL, timestamp timestamptz NOT NULL DEFAULT now(), foreign_id text NOT NULL"
SERIAL = f"CREATE TABLE refused (id bigserial PRIMARY KEY, {ROWS});"
PARTITIONED = f"""
CREATE TABLE refused (id bigserial PRIMARY KEY, {ROWS}) PARTITION BY RANGE (id);
CREATE TABLE leaf PARTITION OF refused FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
CREATE SEQUENCE leafs;
"""

REFUSED = {
    "a default on another sequence than the owned one": (
        SERIAL + "CREATE SEQUENCE other; ALTER TABLE refused ALTER id SET DEFAULT nextval('other')",
        "2 sequences",
        "leave one",
    ),
    "two owned sequences": (
        SERIAL + "CREATE SEQUENCE second OWNED BY refused.id",
        "2 sequences",
        "OWNED BY NONE",
    ),
    "a partition with another sequence": (
        PARTITIONED + "ALTER TABLE leaf ALTER id SET DEFAULT nextval('leafs')",
        "2 sequences",
        "all its partitions",
    ),
    "a partition with a default of its own": (
        PARTITIONED + "ALTER TABLE leaf ALTER id SET DEFAULT 7",
        "leaf has a default",
        "one identity or sequence",
    ),
    "an id that no sequence feeds": (
        f"CREATE TABLE refused (id bigint PRIMARY KEY, {ROWS})",
        "no sequence",
        "GENERATED ALWAYS AS IDENTITY",
    ),
    "an id from a function": (
        f"""
        CREATE SEQUENCE hidden;
        CREATE FUNCTION draw() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('hidden') $$;
        CREATE TABLE refused (id bigint PRIMARY KEY DEFAULT draw(), {ROWS})
        """,
        "draws from no sequence",
        "identity",
    ),
    "a cache": (SERIAL + "ALTER SEQUENCE refused_id_seq CACHE 20", "blocks of 20", "CACHE 1"),
    "a decrement": (
        SERIAL + "ALTER SEQUENCE refused_id_seq INCREMENT -1 MINVALUE -100 MAXVALUE 100",
        "increments by -1",
        "INCREMENT BY 1",
    ),
    "a cycle": (SERIAL + "ALTER SEQUENCE refused_id_seq CYCLE", "starts again", "NO CYCLE"),
    "ids below 1": (
        SERIAL + "ALTER SEQUENCE refused_id_seq MINVALUE -5",
        "can give ids from -5",
        "MINVALUE 1",
    ),
    "unlogged": (SERIAL + "ALTER TABLE refused SET UNLOGGED", "UNLOGGED", "SET LOGGED"),
    "a view": (
        SERIAL.replace("refused", "there") + "CREATE VIEW refused AS SELECT * FROM there",
        "no table",
        "stream",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_a_table_is_refused(what: str, readers: asyncpg.Pool, writer: asyncpg.Connection) -> None:
    made, reason, remedy = REFUSED[what]
    await writer.execute(made)
    with pytest.raises(TableRefused) as refused:
        async with EventsTable("refused").stream(readers):
            pass
    assert reason in refused.value.reason
    assert remedy in refused.value.remedy


async def test_a_table_that_is_spoilt_under_a_stream_is_refused(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with events.stream(readers) as stream:
        await insert(writer)
        await anext(stream)
        await writer.execute("ALTER SEQUENCE events_id_seq CYCLE")

        async def read_on() -> None:
            # Each scan looks, and there is one at the latest when events have flowed for a tenth of a second.
            while True:
                await insert(writer)
                await anext(stream)

        with pytest.raises(TableRefused, match="starts again"):
            await read_on()


@pytest.mark.parametrize("kind", ["numeric", "smallint"])
async def test_ids_of_another_type_are_refused(
    kind: str, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute(
        f"CREATE SEQUENCE ids; CREATE TABLE refused (id {kind} PRIMARY KEY DEFAULT nextval('ids'), {ROWS})"
    )
    with pytest.raises(SchemaError, match=f'column "id" is {kind}: accepted is integer or bigint'):
        await EventsTable("refused").stream(readers).__aenter__()


async def test_an_increment_above_one_is_resolved_like_any_gap(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await writer.execute("ALTER SEQUENCE events_id_seq INCREMENT 3")
    for _ in range(5):
        await insert(writer)
    async with events.stream(readers, to_head=True) as stream:
        assert [event.id_int async for event in stream] == [1, 4, 7, 10, 13]


async def test_a_cursor_beyond_the_table_is_refused(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    last = await insert(writer)
    with pytest.raises(CursorAhead) as ahead:
        async with events.stream(readers, str(last + 1)):
            pass
    assert (ahead.value.cursor, ahead.value.last) == (str(last + 1), str(last))


async def test_a_cursor_whose_row_was_deleted_is_not_beyond_the_table(
    events: EventsTable, readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    last = await insert(writer)
    await writer.execute("DELETE FROM events")
    async with events.stream(readers, str(last)) as stream:
        above = await insert(writer)
        assert (await anext(stream)).id_int == above


async def test_row_security_that_hides_all_events_is_refused(
    events: EventsTable, database: Database, writer: asyncpg.Connection
) -> None:
    reader = f"reader_{database.name}"
    await writer.execute(
        f"ALTER TABLE events ENABLE ROW LEVEL SECURITY; CREATE ROLE {reader} LOGIN; GRANT SELECT ON events TO {reader};"
        "CREATE POLICY writers ON events FOR INSERT WITH CHECK (true)"
    )
    try:
        async with asyncpg.create_pool(database.dsn, user=reader, min_size=0, max_size=5) as readers:
            with pytest.raises(TableRefused, match="row security"):
                async with events.stream(readers):
                    pass
            await writer.execute(f"CREATE POLICY readers ON events FOR SELECT TO {reader} USING (true)")
            await insert(writer)
            async with events.stream(readers) as stream:
                await anext(stream)
    finally:
        await writer.execute(f"DROP OWNED BY {reader}; DROP ROLE {reader}")
