"""The tables that get wrong input, and a check that it has changed nothing."""

import asyncio
from typing import Any

import asyncpg

from reflex_aio import Event, Source
from reflex_aio.sql import CursorsTable, EventsTable
from tests.waiting import deadline

table = EventsTable("events")
full = EventsTable("full_events", metadata=True, trace=True)
cursors = CursorsTable("cursors")


async def unchanged(writer: asyncpg.Connection) -> None:
    """Check that there is nothing but what the fixture has made, and that the connection can be used."""
    assert not writer.is_in_transaction()
    rows = await writer.fetch("SELECT id FROM events UNION ALL SELECT id FROM full_events")
    assert [row[0] for row in rows] == [1]
    # No id was used up either.
    assert await writer.fetchval("SELECT last_value FROM events_id_seq") == 1
    assert await cursors.all(writer) == {"a": "1"}


async def first(source: Source, after: Any = "", **options: Any) -> Event:
    async with source.stream(after, **options) as stream, asyncio.timeout(deadline(5)):
        return await anext(stream)
