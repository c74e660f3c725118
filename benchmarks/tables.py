"""Tables as they are after a while."""

from typing import Any

from reflex_aio.sql import EventsTable

__all__ = ["settled_in"]

ROWS = 10_000


async def settled_in(connection: Any, events: EventsTable) -> None:
    """Fill a new table of events, and leave it as autovacuum would, which is off while something is measured.

    Before, PostgreSQL knows nothing of the table, and reads all of it for each page.
    """
    await events.insert_many(connection, [(i, 1) for i in range(ROWS)])
    await connection.execute(f"VACUUM ANALYZE {events.name}")
