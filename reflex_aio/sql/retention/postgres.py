"""PostgreSQL: deleting old events, a batch at a time."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.errors import DatabaseError, TableNotFound, TableRefused
from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.postgres.catalog import FIND
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.retention.dialect import Batch, Batches, Found, RetentionDialect

__all__ = ["PostgresRetentionDialect"]

# How long a statement waits for whoever has locked its rows, or the table.
_LIMIT_LOCKS = "SET LOCAL lock_timeout = '1s'"
# A lock was waited for too long; a deadlock; a serialization failure.
_LOCKED = ("55P03", "40P01", "40001")


class PostgresRetentionDialect(RetentionDialect):
    """Deleting events on PostgreSQL."""

    async def open(self, driver: Driver, connection: Any, settings: EventsSettings) -> Batches:
        columns = settings.columns
        rows = await driver.fetch(
            connection, FIND, settings.schema.table.quoted('"'), columns.timestamp, columns.foreign_id
        )
        if not rows:
            raise TableNotFound(table=settings.name)
        name, _, kind = rows[0][:3]
        if kind not in ("r", "p"):
            raise TableRefused(
                table=settings.name,
                reason="it is no table of which old rows could be deleted",
                remedy="prune the table that the view reads",
            )
        return _Batches(driver, settings, name)

    async def extent(
        self, driver: Driver, connection: Any, settings: EventsSettings
    ) -> tuple[int | None, int | None]:
        table, event_id = settings.schema.table.quoted('"'), f'"{settings.columns.id}"'
        rows = await driver.fetch(
            connection, f"SELECT min({event_id})::int8, max({event_id})::int8 FROM {table}"
        )
        return rows[0][0], rows[0][1]

    async def backlogs(
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


class _Batches(Batches):
    def __init__(self, driver: Driver, settings: EventsSettings, table: str) -> None:
        columns = settings.columns
        event_id = f'"{columns.id}"'
        # One without a time zone is taken as UTC, and so is its epoch. One that is NULL is as old as can be.
        time = f"(extract(epoch FROM coalesce(\"{columns.timestamp}\", 'epoch')) * 1000000)::int8"
        noop = (
            f'("{columns.type}", "{columns.foreign_id}"::text)'
            f" IS NOT DISTINCT FROM ({NOOP_TYPE}, '{NOOP_FOREIGN_ID}'::text)"
        )
        self._driver = driver
        self._table = settings.name
        self._found = (
            f"SELECT min({event_id})::int8, max({event_id})::int8,"
            f" (extract(epoch FROM clock_timestamp()) * 1000000)::int8 FROM {table}"
        )
        self._next = (
            "SELECT count(*), max(id), min(id) FILTER (WHERE time >= $4), min(id) FILTER (WHERE noop AND time >= $5)"
            f" FROM (SELECT {event_id}::int8 AS id, {time} AS time, {noop} AS noop FROM {table}"
            f" WHERE {event_id} > $1 AND {event_id} < $2 ORDER BY {event_id} LIMIT $3) AS batch"
        )
        self._delete = (
            f"WITH deleted AS (DELETE FROM {table} WHERE {event_id} > $1 AND {event_id} <= $2 RETURNING 1)"
            " SELECT count(*) FROM deleted"
        )

    async def found(self, connection: Any) -> Found:
        return Found(*(await self._driver.fetch(connection, self._found))[0])

    async def next(
        self, connection: Any, after: int, end: int, limit: int, *, young_us: int, young_noop_us: int
    ) -> Batch:
        rows = await self._driver.fetch(connection, self._next, after, end, limit, young_us, young_noop_us)
        return Batch(*rows[0])

    async def delete(self, connection: Any, after: int, last: int) -> int | None:
        fetch = self._driver.fetch
        # A row that somebody else has deleted meanwhile is an error at any higher level.
        await fetch(connection, "BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            await fetch(connection, _LIMIT_LOCKS)
            with self._driver.errors(self._table):
                count: int = (await fetch(connection, self._delete, after, last))[0][0]
        except DatabaseError as exc:
            if exc.sqlstate not in _LOCKED:
                raise
            await fetch(connection, "ROLLBACK")
            return None
        await fetch(connection, "COMMIT")
        return count
