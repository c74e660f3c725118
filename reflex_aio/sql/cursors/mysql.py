"""MySQL and MariaDB: reading and moving cursors."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import astuple
from typing import Any

from reflex_aio.sql.cursors.dialect import CursorsDialect
from reflex_aio.sql.cursors.values import check_cursor
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import CursorsSchema

__all__ = ["MysqlCursorsDialect"]

_LOCK_TIMEOUT = "innodb_lock_wait_timeout"
# What LAST_INSERT_ID(x) is made to return by statements that have found a row: whether they moved its cursor. How many
# rows were changed doesn't tell, as that depends on the connection's flags and on the precision of updated_at.
_STAYED, _MOVED = 1, 2
# In force within transactions too. MariaDB has a setting for these alone, which MySQL hasn't.
_LIMIT_IDLE = (
    "SET @reflex_aio_wait_timeout = @@SESSION.wait_timeout,"
    " SESSION wait_timeout = LEAST(@@SESSION.wait_timeout, %s)"
)
_RESTORE_IDLE = "SET SESSION wait_timeout = @reflex_aio_wait_timeout"


class MysqlCursorsDialect(CursorsDialect):
    """The cursors of one table."""

    def __init__(self, schema: CursorsSchema) -> None:
        self._type = schema.cursor_type
        table = schema.table.quoted("`")
        name, last, updated = (f"`{column}`" for column in astuple(schema.columns))
        # Given as a number where the column holds numbers: compared with a string, it would be rounded to a double.
        given = "VALUES({})" if self._type == "int" else "CAST(VALUES({}) AS BINARY)"
        stored = last if self._type == "int" else f"CAST({last} AS BINARY)"
        self._get = f"SELECT {last} FROM {table} WHERE {name} = %s"
        # Not as of the caller's snapshot, at REPEATABLE READ, beyond which a move looks.
        self._newest = f"{self._get} LOCK IN SHARE MODE"
        self._all = f"SELECT {name}, {last} FROM {table} ORDER BY CAST({name} AS BINARY)"
        self._states = (
            f"SELECT {name}, {last}, CAST(UNIX_TIMESTAMP({updated}) AS DOUBLE) FROM {table}"
            f" ORDER BY CAST({name} AS BINARY)"
        )
        insert = f"INSERT INTO {table} ({name}, {last}, {updated}) VALUES"
        row = "(%s, %s, CURRENT_TIMESTAMP(6))"
        forward = self._is_forward(stored, given.format(last))
        # Assignments are made from left to right: the cursor's comes last, as the others look at the one before.
        self._move = (
            f"{insert} {{}} ON DUPLICATE KEY UPDATE"
            f" {updated} = IF(LAST_INSERT_ID(IF({forward}, {_MOVED}, {_STAYED})) = {_MOVED},"
            f" VALUES({updated}), {updated}),"
            f" {last} = IF({forward}, VALUES({last}), {last})"
        )
        self._row = row
        self._several = f"SELECT {name}, {last} FROM {table} WHERE {name} IN ({{}})"
        self._begin = (
            f"{insert} {row} ON DUPLICATE KEY UPDATE"
            f" {updated} = IF(LAST_INSERT_ID({_STAYED}) = {_STAYED}, {updated}, {updated})"
        )
        argument = "%s" if self._type == "int" else "CAST(%s AS BINARY)"
        self._move_from = (
            f"UPDATE {table}"
            f" SET {updated} = IF(LAST_INSERT_ID({_MOVED}) = {_MOVED}, CURRENT_TIMESTAMP(6), NULL), {last} = %s"
            f" WHERE {name} = %s AND {stored} = {argument} AND {self._is_forward(stored, argument)}"
        )
        self._put = (
            f"{insert} {row} ON DUPLICATE KEY UPDATE {updated} = VALUES({updated}), {last} = VALUES({last})"
        )
        self._remove = f"DELETE FROM {table} WHERE {name} = %s"

    def _is_forward(self, stored: str, given: str) -> str:
        """Return the condition that a cursor isn't behind the stored one; of others than numbers it isn't known."""
        if self._type == "int":
            return f"{stored} <= {given}"
        # There may be more digits than a DECIMAL has.
        before, after = (f"TRIM(LEADING '0' FROM {cursor})" for cursor in (stored, given))
        ordered = f"(LENGTH({before}) < LENGTH({after}) OR LENGTH({before}) = LENGTH({after}) AND {before} <= {after})"
        # No "$", which also matches before a newline at the end. Neither is ever empty.
        return f"IF({stored} REGEXP '[^0-9]' OR {given} REGEXP '[^0-9]', TRUE, {ordered})"

    def _value(self, cursor: str) -> int | str:
        return int(cursor) if self._type == "int" else cursor

    async def get(self, driver: Driver, connection: Any, name: str) -> str:
        rows = await driver.fetch(connection, self._get, name)
        return str(rows[0][0]) if rows else ""

    async def newest(self, driver: Driver, connection: Any, name: str) -> str:
        rows = await driver.fetch(connection, self._newest, name)
        return str(rows[0][0]) if rows else ""

    async def all(self, driver: Driver, connection: Any) -> dict[str, str]:
        return {row[0]: str(row[1]) for row in await driver.fetch(connection, self._all)}

    async def states(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, float | None]]:
        return [(row[0], str(row[1]), row[2]) for row in await driver.fetch(connection, self._states)]

    async def move(
        self, driver: Driver, connection: Any, cursors: Mapping[str, str], *, lock_timeout: float | None
    ) -> set[str]:
        if not cursors:
            return set()
        async with _waiting(driver, connection, lock_timeout):
            if len(cursors) == 1:
                done = await self._upsert(driver, connection, cursors)
                return set() if done[1] == _STAYED else set(cursors)
            # One number can't tell of several rows. They stay locked until they are read.
            async with driver.transaction(connection):
                await self._upsert(driver, connection, cursors)
                statement = self._several.format(", ".join(["%s"] * len(cursors)))
                rows = await driver.fetch(connection, statement, *cursors)
        stored = {row[0]: str(row[1]) for row in rows}
        return {name for name, cursor in cursors.items() if stored.get(name) == cursor}

    async def _upsert(self, driver: Driver, connection: Any, cursors: Mapping[str, str]) -> Sequence[Any]:
        # In the order of names: two statements that move the same cursors don't deadlock.
        values = [value for name in sorted(cursors) for value in (name, self._value(cursors[name]))]
        statement = self._move.format(", ".join([self._row] * len(cursors)))
        return (await driver.fetch(connection, statement, *values))[0]

    async def move_from(self, driver: Driver, connection: Any, name: str, cursor: str, expected: str) -> bool:
        value = self._value(cursor)
        if not expected:
            done = (await driver.fetch(connection, self._begin, name, value))[0]
            return bool(done[1] != _STAYED)
        before = self._value(check_cursor(expected, self._type))
        done = (await driver.fetch(connection, self._move_from, value, name, before, *self._compared(value)))[
            0
        ]
        return bool(done[1] == _MOVED)

    def _compared(self, value: int | str) -> list[int | str]:
        """Return the value once for each place that the condition of going forward has for it."""
        return [value] * self._is_forward("", "%s").count("%s")

    async def put(self, driver: Driver, connection: Any, name: str, cursor: str) -> None:
        if cursor:
            await driver.fetch(connection, self._put, name, self._value(cursor))
        else:
            await driver.fetch(connection, self._remove, name)

    @asynccontextmanager
    async def transaction(
        self, driver: Driver, connection: Any, *, idle_timeout: float
    ) -> AsyncIterator[None]:
        await driver.fetch(connection, _LIMIT_IDLE, math.ceil(idle_timeout))
        async with driver.transaction(connection):
            yield
        # After an error the connection isn't given back to its pool, but closed.
        await driver.fetch(connection, _RESTORE_IDLE)


@asynccontextmanager
async def _waiting(driver: Driver, connection: Any, seconds: float | None) -> AsyncIterator[None]:
    """Let statements wait for rows that others have locked for so long, rather than as long as the session says."""
    if seconds is None:
        yield
        return
    before = (await driver.fetch(connection, f"SELECT @@SESSION.{_LOCK_TIMEOUT}"))[0][0]
    limit = f"SET SESSION {_LOCK_TIMEOUT} = %s"
    await driver.fetch(connection, limit, max(1, int(seconds)))
    try:
        yield
    except Exception:
        # The connection may be the caller's, who goes on with it. Where it is lost, what led here is told.
        with suppress(Exception):
            await driver.fetch(connection, limit, before)
        raise
    await driver.fetch(connection, limit, before)
