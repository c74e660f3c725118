"""The statements on a cursors table in PostgreSQL."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple
from typing import Any

from reflex_aio.sql.cursors.store import CursorsDialect
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import CursorsSchema

__all__ = ["PostgresCursorsDialect"]

_IDLE_TIMEOUT = "idle_in_transaction_session_timeout"
# For this transaction only. The setting 0 means that there is no timeout.
_SET_IDLE_TIMEOUT = f"""
    SELECT set_config('{_IDLE_TIMEOUT}', least(nullif(milliseconds, 0), $1::bigint)::text, true)
    FROM (SELECT (extract(epoch FROM current_setting('{_IDLE_TIMEOUT}')::interval) * 1000)::bigint) AS s (milliseconds)
"""


class PostgresCursorsDialect(CursorsDialect):
    """The cursors of one table in PostgreSQL."""

    def __init__(self, schema: CursorsSchema) -> None:
        super().__init__(schema)
        table = schema.table.quoted('"')
        name, last, updated = (f'"{column}"' for column in astuple(schema.columns))
        if schema.cursor_type == "int":
            kind, is_forward = "bigint", f"stored.{last} <= excluded.{last}"
        else:
            kind = "text"
            is_forward = (
                f"CASE WHEN stored.{last} ~ '^[0-9]+$' AND excluded.{last} ~ '^[0-9]+$'"
                f" THEN stored.{last}::numeric <= excluded.{last}::numeric ELSE true END"
            )
        insert = f"INSERT INTO {table} AS stored ({name}, {last}, {updated})"
        row = f"VALUES ($1::text, $2::text::{kind}, now())"
        update = f"UPDATE SET {last} = excluded.{last}, {updated} = excluded.{updated}"
        self._get = f"SELECT {last}::text FROM {table} WHERE {name} = $1"
        self._all = f"SELECT {name}::text, {last}::text FROM {table} ORDER BY 1"
        # A timestamp without time zone is taken to be in UTC, as is its epoch.
        set_at = f"extract(epoch FROM {updated})::float8"
        self._states = f"SELECT {name}::text, {last}::text, {set_at} FROM {table} ORDER BY 1"
        self._move = (
            f"{insert} {row} ON CONFLICT ({name}) DO {update} WHERE {is_forward} RETURNING {name}::text"
        )
        # In order of the names, so that two statements that move the same cursors do not deadlock. The timeout is set
        # before the first row is written, and for this transaction only.
        self._move_many = (
            f"{insert} SELECT name, cursor::{kind}, now()"
            " FROM unnest($1::text[], $2::text[]) AS given (name, cursor)"
            " WHERE $3::text IS NULL OR set_config('lock_timeout', $3, true) IS NOT NULL ORDER BY given.name"
            f" ON CONFLICT ({name}) DO {update} WHERE {is_forward} RETURNING {name}::text"
        )
        self._move_from_none = f"{insert} {row} ON CONFLICT ({name}) DO NOTHING RETURNING 1"
        self._move_from = (
            f"UPDATE {table} AS stored SET {last} = excluded.{last}, {updated} = now()"
            f" FROM (SELECT $2::text::{kind} AS {last}) AS excluded"
            f" WHERE stored.{name} = $1 AND stored.{last} = $3::text::{kind} AND {is_forward} RETURNING 1"
        )
        self._put = f"{insert} {row} ON CONFLICT ({name}) DO {update}"
        self._remove = f"DELETE FROM {table} WHERE {name} = $1"

    async def get(self, driver: Driver, connection: Any, name: str) -> str:
        rows = await driver.fetch(connection, self._get, name)
        return str(rows[0][0]) if rows else ""

    async def all(self, driver: Driver, connection: Any) -> dict[str, str]:
        rows = await driver.fetch(connection, self._all)
        return {row[0]: row[1] for row in rows}

    async def states(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, float | None]]:
        return [(row[0], row[1], row[2]) for row in await driver.fetch(connection, self._states)]

    async def move(self, driver: Driver, connection: Any, name: str, cursor: str) -> bool:
        return bool(await driver.fetch(connection, self._move, name, cursor))

    async def move_from(self, driver: Driver, connection: Any, name: str, cursor: str, expected: str) -> bool:
        if expected:
            return bool(await driver.fetch(connection, self._move_from, name, cursor, expected))
        return bool(await driver.fetch(connection, self._move_from_none, name, cursor))

    async def move_many(
        self, driver: Driver, connection: Any, cursors: Mapping[str, str], *, lock_timeout: float | None
    ) -> set[str]:
        timeout = None if lock_timeout is None else f"{max(1, round(lock_timeout * 1000))}ms"
        rows = await driver.fetch(connection, self._move_many, list(cursors), list(cursors.values()), timeout)
        return {row[0] for row in rows}

    async def put(self, driver: Driver, connection: Any, name: str, cursor: str) -> None:
        if cursor:
            await driver.fetch(connection, self._put, name, cursor)
        else:
            await driver.fetch(connection, self._remove, name)

    @asynccontextmanager
    async def transaction(
        self, driver: Driver, connection: Any, *, idle_timeout: float
    ) -> AsyncIterator[None]:
        async with driver.transaction(connection):
            await driver.fetch(connection, _SET_IDLE_TIMEOUT, max(1, round(idle_timeout * 1000)))
            yield
