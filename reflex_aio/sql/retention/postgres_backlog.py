"""PostgreSQL: which events a table has, and how many of them are after a cursor."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.retention.backlog_dialect import BacklogDialect

__all__ = ["PostgresBacklog"]


class PostgresBacklog(BacklogDialect):
    """What is before and after cursors on PostgreSQL."""

    async def extent(
        self, driver: Driver, connection: Any, settings: EventsSettings
    ) -> tuple[int | None, int | None]:
        table, event_id = settings.schema.table.quoted('"'), f'"{settings.columns.id}"'
        rows = await driver.fetch(
            connection, f"SELECT min({event_id})::int8, max({event_id})::int8 FROM {table}"
        )
        return rows[0][0], rows[0][1]

    async def after(
        self, driver: Driver, connection: Any, settings: EventsSettings, cursors: Sequence[int], limit: int
    ) -> Sequence[tuple[int, float | None]]:
        columns, table = settings.columns, settings.schema.table.quoted('"')
        event_id = f'"{columns.id}"'
        of_them = (
            f"FROM {table} WHERE {event_id} > cursor"
            f' AND ("{columns.type}", "{columns.foreign_id}"::text)'
            f" IS DISTINCT FROM ({NOOP_TYPE}, '{NOOP_FOREIGN_ID}'::text)"
        )
        # One without a time zone is taken as UTC, and so is its epoch.
        age = f'extract(epoch FROM clock_timestamp()) - extract(epoch FROM "{columns.timestamp}")'
        rows = await driver.fetch(
            connection,
            f"SELECT (SELECT count(*) FROM (SELECT {of_them} LIMIT $2) AS counted),"
            f" (SELECT ({age})::float8 {of_them} ORDER BY {event_id} LIMIT 1)"
            " FROM unnest($1::int8[]) WITH ORDINALITY AS given(cursor, place) ORDER BY place",
            cursors,
            limit,
        )
        return [(row[0], row[1]) for row in rows]
