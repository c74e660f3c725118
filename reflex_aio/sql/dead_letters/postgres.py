"""The statements on an errors table in PostgreSQL."""

from collections.abc import Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Any

from reflex_aio.sql.dead_letters.dialect import ErrorsDialect
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.schema.names import ErrorsSchema

__all__ = ["PostgresErrorsDialect"]


class PostgresErrorsDialect(ErrorsDialect):
    """The errors of one table in PostgreSQL."""

    def __init__(self, schema: ErrorsSchema) -> None:
        table = schema.table.quoted('"')
        key, consumer, event, message, created, updated, status = (
            f'"{column}"' for column in astuple(schema.columns)
        )
        rows = (
            f"SELECT {key}::text, {consumer}::text, {event}::text, {message}::text, {status}::int,"
            f" {created}, {updated} FROM {table}"
        )
        # Not now(), the start of the transaction: the times of two changes in one transaction must differ.
        change = f"{updated} = clock_timestamp()"
        self._insert = (
            f"INSERT INTO {table} ({consumer}, {event}, {message}, {status}, {created}, {updated})"
            " SELECT $1::text, $2::text, $3::text, $4::int, at, at FROM clock_timestamp() AS at"
            f" ON CONFLICT ({consumer}, {event}) DO NOTHING RETURNING {key}::text"
        )
        self._set_message = (
            f"UPDATE {table} SET {message} = $3::text, {change} WHERE {consumer} = $1 AND {event} = $2"
            f" RETURNING {key}::text, {status}::int"
        )
        self._get = f"{rows} WHERE {key} = $1::text::bigint"
        self._find = (
            f"{rows} WHERE ($1::text IS NULL OR {consumer} = $1) AND ($2::int IS NULL OR {status} = $2)"
            f" AND {key} > $3::text::bigint ORDER BY {key} LIMIT $4::bigint"
        )
        self._set_status = (
            f"UPDATE {table} SET {status} = $2::int, {change} WHERE {key} = $1::text::bigint"
            f" AND {status} <> $2::int AND ($3::timestamptz IS NULL OR {updated} = $3)"
            f" RETURNING {consumer}::text"
        )

    async def insert(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str, status: int
    ) -> str | None:
        rows = await driver.fetch(connection, self._insert, consumer, event_id, message, status)
        return rows[0][0] if rows else None

    async def set_message(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, message: str
    ) -> tuple[str, int] | None:
        rows = await driver.fetch(connection, self._set_message, consumer, event_id, message)
        return (rows[0][0], rows[0][1]) if rows else None

    async def get(self, driver: Driver, connection: Any, error_id: str) -> Row | None:
        rows = await driver.fetch(connection, self._get, error_id)
        return rows[0] if rows else None

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
        return await driver.fetch(connection, self._find, consumer, status, after, limit)

    async def set_status(
        self, driver: Driver, connection: Any, error_id: str, status: int, unchanged_since: datetime | None
    ) -> str | None:
        rows = await driver.fetch(connection, self._set_status, error_id, status, unchanged_since)
        return rows[0][0] if rows else None
