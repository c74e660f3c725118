"""The statements on an errors table in MySQL and MariaDB."""

from collections.abc import Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import Any

from reflex_aio.sql.dead_letters.dialect import ErrorsDialect
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.schema.names import ErrorsSchema

__all__ = ["MysqlErrorsDialect"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class MysqlErrorsDialect(ErrorsDialect):
    """The errors of one table in MySQL or MariaDB."""

    def __init__(self, schema: ErrorsSchema) -> None:
        table = schema.table.quoted("`")
        key, consumer, event, message, created, updated, status = (
            f"`{column}`" for column in astuple(schema.columns)
        )
        rows = (
            f"SELECT {key}, {consumer}, {event}, {message}, {status},"
            f" {_microseconds(created)}, {_microseconds(updated)} FROM {table}"
        )
        # The start of the statement, not of the transaction: the times of two changes in one transaction must differ.
        change = f"{updated} = NOW(6)"
        self._insert = (
            f"INSERT INTO {table} ({consumer}, {event}, {message}, {status}, {created}, {updated})"
            " VALUES (%s, %s, %s, %s, NOW(6), NOW(6))"
            # Changes nothing, and returns 0 as the id. An error for the duplicate key would leave a shared lock on the
            # row, and two transactions that then change it would deadlock.
            f" ON DUPLICATE KEY UPDATE {status} = IF(LAST_INSERT_ID(0) = 0, {status}, {status})"
        )
        self._lock = f"SELECT {key}, {status} FROM {table} WHERE {consumer} = %s AND {event} = %s FOR UPDATE"
        self._set_message = f"UPDATE {table} SET {message} = %s, {change} WHERE {key} = %s"
        self._get = f"{rows} WHERE {key} = %s"
        self._find = (
            f"{rows} WHERE (%s IS NULL OR {consumer} = %s) AND (%s IS NULL OR {status} = %s)"
            f" AND {key} > %s ORDER BY {key} LIMIT %s"
        )
        self._set_status = (
            f"UPDATE {table} SET {status} = %s, {change} WHERE {key} = %s AND {status} <> %s"
            f" AND (%s IS NULL OR {_microseconds(updated)} = %s)"
        )
        self._consumer = f"SELECT {consumer} FROM {table} WHERE {key} = %s LOCK IN SHARE MODE"

    async def insert(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str, status: int
    ) -> str | None:
        [done] = await driver.fetch(connection, self._insert, consumer, event_id, message, status)
        return str(done[1]) if done[1] else None

    async def set_message(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str
    ) -> tuple[str, int] | None:
        rows = await driver.fetch(connection, self._lock, consumer, event_id)
        if not rows:
            return None
        error_id, status = rows[0]
        await driver.fetch(connection, self._set_message, message, error_id)
        return str(error_id), status

    async def get(self, driver: Driver, connection: Any, error_id: str) -> Row | None:
        rows = await driver.fetch(connection, self._get, int(error_id))
        return _row(rows[0]) if rows else None

    async def find(
        self,
        driver: Driver,
        connection: Any,
        *,
        consumer: str | None,
        status: int | None,
        after: str,
        limit: int,
    ) -> Sequence[Row]:
        values = consumer, consumer, status, status, int(after), limit
        return [_row(row) for row in await driver.fetch(connection, self._find, *values)]

    async def set_status(
        self, driver: Driver, connection: Any, error_id: str, status: int, unchanged_since: datetime | None
    ) -> str | None:
        key = int(error_id)
        since = None if unchanged_since is None else (unchanged_since - _EPOCH) // timedelta(microseconds=1)
        [done] = await driver.fetch(connection, self._set_status, status, key, status, since, since)
        if not done[0]:
            return None
        return str((await driver.fetch(connection, self._consumer, key))[0][0])


def _microseconds(column: str) -> str:
    # The client library would return a time in the session's time zone.
    return f"CAST(UNIX_TIMESTAMP({column}) * 1000000 AS SIGNED)"


def _row(row: Row) -> Row:
    key, consumer, event_id, message, status, created, updated = row
    times = (_EPOCH + timedelta(microseconds=time) for time in (created, updated))
    return str(key), consumer, event_id, message, status, *times
