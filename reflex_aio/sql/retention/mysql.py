"""MySQL and MariaDB: deleting old events, a batch at a time."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.mysql import LOCK_CONFLICTS, limited_lock_waits
from reflex_aio.sql.retention.dialect import Batch, Batches, Found, RetentionDialect
from reflex_aio.sql.schema.mysql import FoundEvents, microseconds_sql, now_sql, timestamp_type
from reflex_aio.sql.schema.names import EventsSchema

__all__ = ["MysqlRetentionDialect"]


class MysqlRetentionDialect(RetentionDialect):
    """Deleting events on MySQL and MariaDB."""

    async def open(self, driver: Driver, connection: Any, schema: EventsSchema) -> Batches:
        return _Batches(driver, schema, await FoundEvents.of(driver, connection, schema))

    async def extent(
        self, driver: Driver, connection: Any, schema: EventsSchema
    ) -> tuple[int | None, int | None]:
        table, event_id = schema.table.quoted("`"), f"`{schema.columns.id}`"
        rows = await driver.fetch(connection, f"SELECT MIN({event_id}), MAX({event_id}) FROM {table}")
        return rows[0][0], rows[0][1]

    async def backlogs(
        self, driver: Driver, connection: Any, schema: EventsSchema, cursors: Sequence[int], limit: int
    ) -> Sequence[tuple[int, float | None]]:
        if not cursors:
            return []
        columns, table = schema.columns, schema.table.quoted("`")
        found = await timestamp_type(driver, connection, schema)
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


class _Batches(Batches):
    def __init__(self, driver: Driver, schema: EventsSchema, found: FoundEvents) -> None:
        columns = schema.columns
        event_id = f"`{columns.id}`"
        time = microseconds_sql(found.timestamp_type, f"`{columns.timestamp}`")
        noop = f"`{columns.type}` <=> {NOOP_TYPE} AND `{columns.foreign_id}` <=> '{NOOP_FOREIGN_ID}'"
        self._driver = driver
        self._found = (
            f"SELECT MIN({event_id}), MAX({event_id}), {microseconds_sql(found.timestamp_type, found.now)}"
            f" FROM {found.name}"
        )
        # A time that is NULL or zero is as old as can be.
        self._next = (
            "SELECT COUNT(*), MAX(id), MIN(IF(time >= %s, id, NULL)), MIN(IF(noop AND time >= %s, id, NULL))"
            f" FROM (SELECT {event_id} AS id, COALESCE({time}, 0) AS time, {noop} AS noop FROM {found.name}"
            f" WHERE {event_id} > %s AND {event_id} < %s ORDER BY {event_id} LIMIT %s) AS batch"
        )
        self._delete = f"DELETE FROM {found.name} WHERE {event_id} > %s AND {event_id} <= %s"

    async def found(self, connection: Any) -> Found:
        [(oldest, newest, now_us)] = await self._driver.fetch(connection, self._found)
        return Found(oldest, newest, int(now_us))

    async def next(
        self, connection: Any, after: int, end: int, limit: int, *, young_us: int, young_noop_us: int
    ) -> Batch:
        rows = await self._driver.fetch(connection, self._next, young_us, young_noop_us, after, end, limit)
        return Batch(*rows[0])

    async def delete(self, connection: Any, after: int, last: int) -> int | None:
        # The drivers lend connections at READ COMMITTED, where rows are locked and nothing between them: whoever comes
        # late with an id in between, or fills a gap, isn't held up.
        async with limited_lock_waits(self._driver, connection):
            try:
                [done] = await self._driver.fetch(connection, self._delete, after, last)
            except Exception as exc:
                if not exc.args or exc.args[0] not in LOCK_CONFLICTS:
                    raise
                return None
        count: int = done[0]
        return count
