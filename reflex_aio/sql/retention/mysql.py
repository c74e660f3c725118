"""MySQL and MariaDB: deleting old events in batches, and measuring backlogs."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.event import NOOP_TYPE
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.mysql import LOCK_CONFLICTS, error_number, limited_lock_waits
from reflex_aio.sql.retention.prune import Backlog, Batch, Batches, Extent, Found, RetentionDialect
from reflex_aio.sql.schema.mysql import FoundEvents, microseconds_sql, now_sql, timestamp_type
from reflex_aio.sql.schema.names import EventsSchema

__all__ = ["MysqlRetentionDialect"]


class MysqlRetentionDialect(RetentionDialect):
    """Retention on MySQL and MariaDB."""

    async def open(self, driver: Driver, connection: Any, schema: EventsSchema) -> Batches:
        return _Batches(driver, schema, await FoundEvents.of(driver, connection, schema))

    async def extent(self, driver: Driver, connection: Any, schema: EventsSchema) -> Extent:
        table, event_id = schema.table.quoted("`"), f"`{schema.columns.id}`"
        rows = await driver.fetch(connection, f"SELECT MIN({event_id}), MAX({event_id}) FROM {table}")
        return Extent.of(*rows[0])

    async def backlogs(
        self, driver: Driver, connection: Any, schema: EventsSchema, cursors: Sequence[int], limit: int
    ) -> Sequence[Backlog]:
        if not cursors:
            return []
        columns, table = schema.columns, schema.table.quoted("`")
        found = await timestamp_type(driver, connection, schema.table, columns.timestamp)
        # If the table does not exist, the statement below reports it.
        kind, precision = found or ("datetime", 6)
        events = (
            f"FROM {table} AS event WHERE event.`{columns.id}` > %s"
            f" AND NOT (`{columns.type}` = {NOOP_TYPE} AND `{columns.foreign_id}` = '{schema.noop_foreign_id}')"
        )
        then, now = (
            microseconds_sql(kind, time) for time in (f"`{columns.timestamp}`", now_sql(kind, precision))
        )
        backlog = (
            f"SELECT (SELECT COUNT(*) FROM (SELECT 1 {events} LIMIT %s) AS counted),"
            f" (SELECT {now} - {then} {events} ORDER BY event.`{columns.id}` LIMIT 1)"
        )
        numbered = " UNION ALL ".join(f"({backlog}, {place})" for place in range(len(cursors)))
        args = [argument for cursor in cursors for argument in (cursor, limit, cursor)]
        rows = sorted(await driver.fetch(connection, numbered, *args), key=lambda row: int(row[2]))
        # The age of the first event is negative if the clock was set back.
        return [Backlog(row[0], max(0.0, (row[1] or 0) / 1_000_000)) for row in rows]


class _Batches(Batches):
    def __init__(self, driver: Driver, schema: EventsSchema, found: FoundEvents) -> None:
        columns = schema.columns
        event_id = f"`{columns.id}`"
        time = microseconds_sql(found.timestamp_type, f"`{columns.timestamp}`")
        noop = f"`{columns.type}` <=> {NOOP_TYPE} AND `{columns.foreign_id}` <=> '{schema.noop_foreign_id}'"
        self._driver = driver
        self._found = (
            f"SELECT MIN({event_id}), MAX({event_id}), {microseconds_sql(found.timestamp_type, found.now)}"
            f" FROM {found.name}"
        )
        # A time that is NULL or zero counts as old.
        self._next = (
            "SELECT COUNT(*), MAX(id), MIN(IF(time >= %s, id, NULL)), MIN(IF(noop AND time >= %s, id, NULL))"
            f" FROM (SELECT {event_id} AS id, COALESCE({time}, 0) AS time, {noop} AS noop FROM {found.name} AS event"
            f" WHERE {event_id} > %s AND {event_id} < %s ORDER BY event.{event_id} LIMIT %s) AS batch"
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
        # The drivers acquire connections at READ COMMITTED, which locks rows, but not the gaps between them: a late
        # writer with an id in between, or a process that fills a gap, is not delayed.
        async with limited_lock_waits(self._driver, connection):
            try:
                [done] = await self._driver.fetch(connection, self._delete, after, last)
            except Exception as exc:
                if error_number(exc) not in LOCK_CONFLICTS:
                    raise
                return None
        count: int = done[0]
        return count
