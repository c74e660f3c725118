"""The statements on an errors table in MySQL and MariaDB."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from reflex_aio.sql.dead_letters.dialect import ErrorsDialect
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.schema.mysql import microseconds_sql, now_sql, timestamp_type
from reflex_aio.sql.schema.names import ErrorsSchema

__all__ = ["MysqlErrorsDialect"]

# Of a column that is missing or has another type, so that the statement on it explains that.
_USUAL_TYPE = "timestamp", 6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class MysqlErrorsDialect(ErrorsDialect):
    """The errors of one table in MySQL or MariaDB."""

    def __init__(self, schema: ErrorsSchema) -> None:
        columns = schema.columns
        self._schema = schema
        self._table = table = schema.table.quoted("`")
        self._key, self._message, self._created, self._updated, self._status = (
            f"`{name}`"
            for name in (
                columns.id,
                columns.error_msg,
                columns.created_at,
                columns.updated_at,
                columns.error_status,
            )
        )
        self._consumer, self._event = f"`{columns.consumer}`", f"`{columns.event_id}`"
        self._lock = (
            f"SELECT {self._key}, {self._status} FROM {table}"
            f" WHERE {self._consumer} = %s AND {self._event} = %s FOR UPDATE"
        )
        self._get_consumer = f"SELECT {self._consumer} FROM {table} WHERE {self._key} = %s LOCK IN SHARE MODE"

    async def _times(self, driver: Driver, connection: Any) -> "_Times":
        """Return the expressions for the times. They depend on the columns' types, so each call looks these up."""
        columns = self._schema.columns
        types = [
            await timestamp_type(driver, connection, self._schema.table, column)
            for column in (columns.created_at, columns.updated_at)
        ]
        created, updated = (found or _USUAL_TYPE for found in types)
        return _Times(
            created=microseconds_sql(created[0], f"failed.{self._created}"),
            updated=microseconds_sql(updated[0], f"failed.{self._updated}"),
            now_created=now_sql(*created),
            now_updated=now_sql(*updated),
        )

    async def insert(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str, status: int
    ) -> str | None:
        times = await self._times(driver, connection)
        insert = (
            f"INSERT INTO {self._table} ({self._consumer}, {self._event}, {self._message}, {self._status},"
            f" {self._created}, {self._updated}) VALUES (%s, %s, %s, %s, {times.now_created}, {times.now_updated})"
            # Changes nothing, and returns 0 as the id. An error for the duplicate key would leave a shared lock on the
            # row, and two transactions that then change it would deadlock.
            f" ON DUPLICATE KEY UPDATE {self._status} = IF(LAST_INSERT_ID(0) = 0, {self._status}, {self._status})"
        )
        [done] = await driver.fetch(connection, insert, consumer, event_id, message, status)
        return str(done[1]) if done[1] else None

    async def set_message(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str
    ) -> tuple[str, int] | None:
        rows = await driver.fetch(connection, self._lock, consumer, event_id)
        if not rows:
            return None
        error_id, status = rows[0]
        now = (await self._times(driver, connection)).now_updated
        await driver.fetch(
            connection,
            f"UPDATE {self._table} SET {self._message} = %s, {self._updated} = {now} WHERE {self._key} = %s",
            message,
            error_id,
        )
        return str(error_id), status

    async def get(self, driver: Driver, connection: Any, error_id: str) -> Row | None:
        rows = await self._rows(driver, connection, f"WHERE failed.{self._key} = %s", int(error_id))
        return rows[0] if rows else None

    async def find(
        self,
        driver: Driver,
        connection: Any,
        *,
        consumer: str | None,
        swapped: str | None,
        status: int | None,
        after: str,
        limit: int,
    ) -> Sequence[Row]:
        where = (
            f"WHERE (%s IS NULL OR failed.{self._consumer} = %s OR CAST(failed.{self._event} AS CHAR) = %s)"
            f" AND (%s IS NULL OR failed.{self._status} = %s) AND failed.{self._key} > %s"
            f" ORDER BY failed.{self._key} LIMIT %s"
        )
        values = consumer, consumer, swapped, status, status, int(after), limit
        return await self._rows(driver, connection, where, *values)

    async def _rows(self, driver: Driver, connection: Any, where: str, *values: Any) -> list[Row]:
        times = await self._times(driver, connection)
        select = (
            f"SELECT failed.{self._key}, failed.{self._consumer}, failed.{self._event}, failed.{self._message},"
            f" failed.{self._status}, {times.created}, {times.updated} FROM {self._table} AS failed {where}"
        )
        return [_row(row) for row in await driver.fetch(connection, select, *values)]

    async def set_status(
        self, driver: Driver, connection: Any, error_id: str, status: int, unchanged_since: datetime | None
    ) -> str | None:
        times, key = await self._times(driver, connection), int(error_id)
        since = None if unchanged_since is None else (unchanged_since - _EPOCH) // timedelta(microseconds=1)
        update = (
            f"UPDATE {self._table} AS failed SET {self._status} = %s, {self._updated} = {times.now_updated}"
            f" WHERE {self._key} = %s AND {self._status} <> %s AND (%s IS NULL OR {times.updated} = %s)"
        )
        [done] = await driver.fetch(connection, update, status, key, status, since, since)
        if not done[0]:
            return None
        return str((await driver.fetch(connection, self._get_consumer, key))[0][0])


class _Times(NamedTuple):
    """The expressions for the times of a row, in microseconds since 1970, and for the current time."""

    created: str
    updated: str
    now_created: str
    now_updated: str


def _row(row: Row) -> Row:
    key, consumer, event_id, message, status, created, updated = row
    times = (_EPOCH + timedelta(microseconds=int(time)) for time in (created, updated))
    return str(key), consumer, str(event_id), message, status, *times
