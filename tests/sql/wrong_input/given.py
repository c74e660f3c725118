"""What the tests of wrong input give it to, and how they see that it has changed nothing."""

import asyncio
from typing import Any

import asyncpg

from reflex_aio import Event, Source
from reflex_aio.sql import CursorsTable, EventsTable

table = EventsTable("events")
full = EventsTable("full_events", metadata=True, trace=True)
cursors = CursorsTable("cursors")


async def unchanged(writer: asyncpg.Connection) -> None:
    """Check that what the fixture has made is all there is, and that the connection is as it was."""
    assert not writer.is_in_transaction()
    rows = await writer.fetch("SELECT id FROM events UNION ALL SELECT id FROM full_events")
    assert [row[0] for row in rows] == [1]
    # Nor was an id drawn.
    assert await writer.fetchval("SELECT last_value FROM events_id_seq") == 1
    assert await cursors.all(writer) == {"a": "1"}


async def first(source: Source, after: Any = "", **options: Any) -> Event:
    async with source.stream(after, **options) as stream, asyncio.timeout(5):
        return await anext(stream)
