"""Preparation of tables for measurements."""

from typing import Any

from reflex_aio.sql import EventsTable

__all__ = ["fill_and_analyze"]

ROWS = 10_000


async def fill_and_analyze(connection: Any, events: EventsTable) -> None:
    """Fill a new events table, and vacuum and analyze it, as autovacuum is off during measurements.

    Without statistics, PostgreSQL reads the whole table for each page.
    """
    await events.insert_many(connection, [(i, 1) for i in range(ROWS)])
    await connection.execute(f"VACUUM ANALYZE {events.name}")
