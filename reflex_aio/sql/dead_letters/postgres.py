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
        # Qualified in ORDER BY: "id" alone is the column of the result, which is text.
        rows = (
            f"SELECT failed.{key}::text, failed.{consumer}::text, failed.{event}::text, failed.{message}::text,"
            f" failed.{status}::int, failed.{created}, failed.{updated} FROM {table} AS failed"
        )
        # The event id $2 in the column's own type, which may be an integer in a table that others have made.
        given = f"jsonb_build_object('{schema.columns.event_id}', $2::text)"
        given = f"(jsonb_populate_record(NULL::{table}, {given})).{event}"
        # Not now(), the start of the transaction: the times of two changes in one transaction must differ.
        change = f"{updated} = clock_timestamp()"
        self._insert = (
            f"INSERT INTO {table} ({consumer}, {event}, {message}, {status}, {created}, {updated})"
            f" SELECT $1::text, {given}, $3::text, $4::int, at, at FROM clock_timestamp() AS at"
            f" ON CONFLICT ({consumer}, {event}) DO NOTHING RETURNING {key}::text"
        )
        self._set_message = (
            f"UPDATE {table} SET {message} = $3::text, {change} WHERE {consumer} = $1::text AND {event} = {given}"
            f" RETURNING {key}::text, {status}::int"
        )
        self._get = f"{rows} WHERE failed.{key} = $1::text::bigint"
        self._find = (
            f"{rows} WHERE ($1::text IS NULL OR failed.{consumer} = $1 OR failed.{event}::text = $2::text)"
            f" AND ($3::int IS NULL OR failed.{status} = $3) AND failed.{key} > $4::text::bigint"
            f" ORDER BY failed.{key} LIMIT $5::bigint"
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
        swapped: str | None,
        status: int | None,
        after: str,
        limit: int,
    ) -> Sequence[Row]:
        return await driver.fetch(connection, self._find, consumer, swapped, status, after, limit)

    async def set_status(
        self, driver: Driver, connection: Any, error_id: str, status: int, unchanged_since: datetime | None
    ) -> str | None:
        rows = await driver.fetch(connection, self._set_status, error_id, status, unchanged_since)
        return rows[0][0] if rows else None
