"""Every operation names missing tables and columns."""

from collections.abc import Coroutine
from typing import Any

import asyncpg
import pytest

from reflex_aio import SchemaError, TableRefused
from reflex_aio.errors import TableNotFound
from reflex_aio.sql import CursorColumns, CursorsTable, EventColumns, EventsTable
from tests.sql.wrong_input.given import cursors, first, table, unchanged

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("name", ["nothing", "nowhere.events", "Events"])
async def test_every_operation_on_a_missing_table_names_it(
    writer: asyncpg.Connection, pool: asyncpg.Pool, name: str
) -> None:
    events, places = EventsTable(name), CursorsTable(name)
    store, behind = places.store(pool), places.store(pool, flush_every=3600.0)
    calls: list[Coroutine[Any, Any, object]] = [
        events.insert(writer, 1, 1),
        events.insert_many(writer, [(1, 1)]),
        events.validate(writer),
        first(events.source(pool)),
        events.source(pool).head(),
        places.validate(writer),
        places.get(writer, "a"),
        store.get("a"),
        store.set("a", "1"),
        store.set("a", "1", expected=""),
        store.all(),
        store.rewind("a", ""),
        behind.set("a", "1"),
    ]
    for call in calls:
        message = rf"^{name}: the table does not exist \(create\(\) makes"
        with pytest.raises(TableNotFound, match=message) as raised:
            await call
        assert raised.value.table == name
        assert ("case counts" in str(raised.value)) == (name == "Events")
    await unchanged(writer)


async def test_every_operation_on_a_table_with_a_missing_column_names_the_column(
    writer: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    events = table.replace(columns=EventColumns(foreign_id="user_id"))
    store = cursors.replace(columns=CursorColumns(last_event_id="cursor")).store(pool)
    calls: list[tuple[str, Coroutine[Any, Any, object]]] = [
        ("user_id", events.insert(writer, 1, 1)),
        ("user_id", events.insert_many(writer, [(1, 1)])),
        ("user_id", events.validate(writer)),
        ("user_id", first(events.source(pool))),
        ("metadata", first(table.replace(metadata=True).source(pool))),
        ("metadata", table.replace(metadata=True).insert(writer, 1, 1)),
        ("cursor", store.get("a")),
        ("cursor", store.set("a", "2")),
    ]
    for column, call in calls:
        with pytest.raises(SchemaError, match=f'^(events|cursors): .*column "{column}"') as raised:
            await call
        assert not isinstance(raised.value, TableNotFound)
    assert [row[0] for row in await writer.fetch("SELECT id FROM events")] == [1]
    assert await cursors.all(writer) == {"a": "1"}


async def test_a_view_is_not_streamed(writer: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await writer.execute("CREATE VIEW recent_events AS SELECT * FROM events")
    with pytest.raises(TableRefused, match=r"it is no table.*stream from the table that the view reads"):
        await first(EventsTable("recent_events").source(pool))
