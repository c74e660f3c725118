"""MySQL and MariaDB: which events a table has, and how many of them are after a cursor."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.mysql.queries import microseconds_sql, now_sql
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.retention.backlog_dialect import BacklogDialect
from reflex_aio.sql.schema.mysql import timestamp_type

__all__ = ["MysqlBacklog"]


class MysqlBacklog(BacklogDialect):
    """What is before and after cursors on MySQL and MariaDB."""

    async def extent(
        self, driver: Driver, connection: Any, settings: EventsSettings
    ) -> tuple[int | None, int | None]:
        table, event_id = settings.schema.table.quoted("`"), f"`{settings.columns.id}`"
        rows = await driver.fetch(connection, f"SELECT MIN({event_id}), MAX({event_id}) FROM {table}")
        return rows[0][0], rows[0][1]

    async def after(
        self, driver: Driver, connection: Any, settings: EventsSettings, cursors: Sequence[int], limit: int
    ) -> Sequence[tuple[int, float | None]]:
        if not cursors:
            return []
        columns, table = settings.columns, settings.schema.table.quoted("`")
        found = await timestamp_type(driver, connection, settings.schema)
        # A table that isn't there is told by the statement.
        kind, precision = found or ("datetime", 6)
        of_them = (
            f"FROM {table} WHERE `{columns.id}` > %s"
            f" AND NOT (`{columns.type}` = {NOOP_TYPE} AND `{columns.foreign_id}` = '{NOOP_FOREIGN_ID}')"
        )
        then, now = (
            microseconds_sql(kind, time) for time in (f"`{columns.timestamp}`", now_sql(kind, precision))
        )
        of_one = (
            f"SELECT (SELECT COUNT(*) FROM (SELECT 1 {of_them} LIMIT %s) AS counted),"
            f" (SELECT {now} - {then} {of_them} ORDER BY `{columns.id}` LIMIT 1)"
        )
        numbered = " UNION ALL ".join(f"({of_one}, {place})" for place in range(len(cursors)))
        args = [argument for cursor in cursors for argument in (cursor, limit, cursor)]
        rows = sorted(await driver.fetch(connection, numbered, *args), key=lambda row: int(row[2]))
        return [(row[0], None if row[1] is None else row[1] / 1_000_000) for row in rows]
