"""Ids are compared as numbers in every statement, whatever the columns are called."""

import re
from pathlib import Path
from typing import Any

import pytest

import reflex_aio.sql
from reflex_aio import Consumer, Event, Spec, run
from reflex_aio.sql import (
    CursorColumns,
    CursorsTable,
    ErrorColumns,
    ErrorsTable,
    EventColumns,
    EventsTable,
    Retention,
)
from tests.fix_backends import Backend

# A name alone may be that of a column of the result, where the id is text. Names of consumers are sorted as texts.
_ORDERED = re.compile(r"ORDER BY\s+(?!\w+\.|CAST\(|1\b)(.*)")

# Each is called as another one, or as our statements call something in their results.
NAMES = [
    EventColumns(id="timestamp", type="id", timestamp="foreign_id", foreign_id="type", metadata="cursor"),
    EventColumns(id="time", type="noop", timestamp="place", foreign_id="event", metadata="id"),
    EventColumns(id="event", type="cursor", timestamp="time", foreign_id="given", metadata="name"),
    EventColumns(id="noop", type="time", timestamp="id", foreign_id="cursor", metadata="batch"),
]


def test_each_order_is_by_a_column_of_a_table() -> None:
    found = {
        f"{path.name}: {match[0]}"
        for path in Path(reflex_aio.sql.__path__[0]).rglob("*.py")
        for match in _ORDERED.finditer(path.read_text())
    }
    assert found == set()


@pytest.mark.asyncio
@pytest.mark.one_library
@pytest.mark.parametrize("columns", NAMES, ids=lambda columns: columns.id)
async def test_everything_is_in_the_order_of_numbers(
    backend: Backend, backend_pool: Any, columns: EventColumns
) -> None:
    events = EventsTable("events", columns=columns, metadata=True)
    cursors = CursorsTable(
        "cursors", columns=CursorColumns(id="cursor", last_event_id="name", updated_at="stored")
    )
    errors = ErrorsTable(
        columns=ErrorColumns("consumer", "id", "error_status", "at", "event_id", "created_at", "updated_at")
    )
    connection, store, handled = await backend.connect(), cursors.store(backend_pool), []
    for table in (events, cursors, errors):
        await table.create(connection)
        await table.validate(connection)
    inserted = [str(number) for number in range(1, 13)]
    for number in inserted:
        assert await events.insert(connection, number, 1, metadata=number.encode()) == number

    async def handle(event: Event) -> None:
        assert (event.foreign_id, event.metadata) == (event.id, event.id.encode())
        await errors.record(connection, consumer="c", event=event, error=ValueError())
        handled.append(event.id)

    source = events.source(backend_pool)
    await run(Spec(source, store, Consumer("c", handle), to_head=True))
    assert handled == inserted
    assert [each.event_id for each in await errors.find(connection)] == inserted
    assert await source.head() == "12"
    extent = await events.extent(connection)
    assert (extent.oldest, extent.newest) == ("1", "12")
    backlogs = await events.backlogs(connection, ["", "9", "10"])
    assert {cursor: backlog.events for cursor, backlog in backlogs.items()} == {"": 12, "9": 3, "10": 2}
    await store.rewind("c", "9")
    assert (await store.all(), [each.cursor for each in await cursors.states(connection)]) == (
        {"c": "9"},
        ["9"],
    )
    pruned = await events.prune(backend_pool, Retention(before="12", cursors=store), batch_size=3, pause=0.0)
    assert (pruned.events, pruned.position, pruned.end) == (8, "8", "9")
