"""The statements on a cursors table in MySQL and MariaDB."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import astuple
from typing import Any

from reflex_aio.sql.cursors.store import CursorsDialect, check_cursor
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import CursorsSchema

__all__ = ["MysqlCursorsDialect"]

_LOCK_TIMEOUT = "innodb_lock_wait_timeout"
# Statements that find a row return through LAST_INSERT_ID(x) whether they moved its cursor. The number of changed rows
# does not show that, because it depends on the connection's flags and on the precision of updated_at.
_UNMOVED, _MOVED = 1, 2
# wait_timeout is in force within transactions too. MariaDB also has a setting for transactions only, MySQL has not.
_SET_IDLE_TIMEOUT = (
    "SET @reflex_aio_wait_timeout = @@SESSION.wait_timeout,"
    " SESSION wait_timeout = LEAST(@@SESSION.wait_timeout, %s)"
)
_RESTORE_IDLE_TIMEOUT = "SET SESSION wait_timeout = @reflex_aio_wait_timeout"


class MysqlCursorsDialect(CursorsDialect):
    """The cursors of one table in MySQL or MariaDB."""

    def __init__(self, schema: CursorsSchema) -> None:
        super().__init__(schema)
        self._type = schema.cursor_type
        table = schema.table.quoted("`")
        name, last, updated = (f"`{column}`" for column in astuple(schema.columns))
        # Passed as a number if the column contains numbers: compared with a string, it would be rounded to a double.
        given = f"VALUES({last})" if self._type == "int" else f"CAST(VALUES({last}) AS BINARY)"
        stored = last if self._type == "int" else f"CAST({last} AS BINARY)"
        self._get = f"SELECT {last} FROM {table} WHERE {name} = %s"
        # Not from the snapshot of the caller's transaction at REPEATABLE READ, since a move reads newer rows than that.
        self._latest = f"{self._get} LOCK IN SHARE MODE"
        self._all = f"SELECT {name}, {last} FROM {table} ORDER BY CAST({name} AS BINARY)"
        self._states = (
            f"SELECT {name}, {last}, CAST(UNIX_TIMESTAMP({updated}) AS DOUBLE) FROM {table}"
            f" ORDER BY CAST({name} AS BINARY)"
        )
        insert = f"INSERT INTO {table} ({name}, {last}, {updated}) VALUES"
        self._row = "(%s, %s, CURRENT_TIMESTAMP(6))"
        is_forward = self._is_forward(stored, given)
        # Assignments are evaluated from left to right: the cursor comes last, as the others compare its old value.
        self._move = (
            f"{insert} {{}} ON DUPLICATE KEY UPDATE"
            f" {updated} = IF(LAST_INSERT_ID(IF({is_forward}, {_MOVED}, {_UNMOVED})) = {_MOVED},"
            f" VALUES({updated}), {updated}),"
            f" {last} = IF({is_forward}, VALUES({last}), {last})"
        )
        self._get_many = f"SELECT {name}, {last} FROM {table} WHERE {name} IN ({{}})"
        self._move_from_none = (
            f"{insert} {self._row} ON DUPLICATE KEY UPDATE"
            f" {updated} = IF(LAST_INSERT_ID({_UNMOVED}) = {_UNMOVED}, {updated}, {updated})"
        )
        argument = "%s" if self._type == "int" else "CAST(%s AS BINARY)"
        self._move_from = (
            f"UPDATE {table}"
            f" SET {updated} = IF(LAST_INSERT_ID({_MOVED}) = {_MOVED}, CURRENT_TIMESTAMP(6), NULL), {last} = %s"
            f" WHERE {name} = %s AND {stored} = {argument} AND {self._is_forward(stored, argument)}"
        )
        self._put = (
            f"{insert} {self._row} ON DUPLICATE KEY UPDATE"
            f" {updated} = VALUES({updated}), {last} = VALUES({last})"
        )
        self._remove = f"DELETE FROM {table} WHERE {name} = %s"

    def _is_forward(self, stored: str, given: str) -> str:
        """Return the condition that a cursor is not behind the stored one; true unless both are numbers."""
        if self._type == "int":
            return f"{stored} <= {given}"
        # Not as numbers: a DECIMAL may have too few digits.
        before, after = (f"TRIM(LEADING '0' FROM {cursor})" for cursor in (stored, given))
        ordered = f"(LENGTH({before}) < LENGTH({after}) OR LENGTH({before}) = LENGTH({after}) AND {before} <= {after})"
        # Not with "$", which also matches before a newline at the end. Neither cursor is ever empty.
        return f"IF({stored} REGEXP '[^0-9]' OR {given} REGEXP '[^0-9]', TRUE, {ordered})"

    def _value(self, cursor: str) -> int | str:
        return int(cursor) if self._type == "int" else cursor

    async def get(self, driver: Driver, connection: Any, name: str) -> str:
        rows = await driver.fetch(connection, self._get, name)
        return str(rows[0][0]) if rows else ""

    async def latest(self, driver: Driver, connection: Any, name: str) -> str:
        rows = await driver.fetch(connection, self._latest, name)
        return str(rows[0][0]) if rows else ""

    async def all(self, driver: Driver, connection: Any) -> dict[str, str]:
        return {row[0]: str(row[1]) for row in await driver.fetch(connection, self._all)}

    async def states(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, float | None]]:
        return [(row[0], str(row[1]), row[2]) for row in await driver.fetch(connection, self._states)]

    async def move(self, driver: Driver, connection: Any, name: str, cursor: str) -> bool:
        done = await self._upsert(driver, connection, {name: cursor})
        return bool(done[1] != _UNMOVED)

    async def move_from(self, driver: Driver, connection: Any, name: str, cursor: str, expected: str) -> bool:
        value = self._value(cursor)
        if not expected:
            done = (await driver.fetch(connection, self._move_from_none, name, value))[0]
            return bool(done[1] != _UNMOVED)
        before = self._value(check_cursor(expected, self._type))
        # The condition that the cursor moves forward contains the value once or several times.
        compared = [value] * self._is_forward("", "%s").count("%s")
        done = (await driver.fetch(connection, self._move_from, value, name, before, *compared))[0]
        return bool(done[1] == _MOVED)

    async def move_many(
        self, driver: Driver, connection: Any, cursors: Mapping[str, str], *, lock_timeout: float | None
    ) -> set[str]:
        async with _lock_timeout(driver, connection, lock_timeout):
            if len(cursors) == 1:
                done = await self._upsert(driver, connection, cursors)
                return set() if done[1] == _UNMOVED else set(cursors)
            # One number cannot report on several rows. They stay locked until they are read.
            async with driver.transaction(connection):
                await self._upsert(driver, connection, cursors)
                statement = self._get_many.format(", ".join(["%s"] * len(cursors)))
                rows = await driver.fetch(connection, statement, *cursors)
        stored = {row[0]: str(row[1]) for row in rows}
        return {name for name, cursor in cursors.items() if stored.get(name) == cursor}

    async def _upsert(self, driver: Driver, connection: Any, cursors: Mapping[str, str]) -> Sequence[Any]:
        # In order of the names, so that two statements that move the same cursors do not deadlock.
        values = [value for name in sorted(cursors) for value in (name, self._value(cursors[name]))]
        statement = self._move.format(", ".join([self._row] * len(cursors)))
        return (await driver.fetch(connection, statement, *values))[0]

    async def put(self, driver: Driver, connection: Any, name: str, cursor: str) -> None:
        if cursor:
            await driver.fetch(connection, self._put, name, self._value(cursor))
        else:
            await driver.fetch(connection, self._remove, name)

    @asynccontextmanager
    async def transaction(
        self, driver: Driver, connection: Any, *, idle_timeout: float
    ) -> AsyncIterator[None]:
        await driver.fetch(connection, _SET_IDLE_TIMEOUT, math.ceil(idle_timeout))
        async with driver.transaction(connection):
            yield
        # Not restored after an error: the connection is then closed rather than returned to its pool.
        await driver.fetch(connection, _RESTORE_IDLE_TIMEOUT)


@asynccontextmanager
async def _lock_timeout(driver: Driver, connection: Any, seconds: float | None) -> AsyncIterator[None]:
    """Limit how long statements wait for locked rows; ``None`` for as long as the session's setting allows."""
    if seconds is None:
        yield
        return
    before = (await driver.fetch(connection, f"SELECT @@SESSION.{_LOCK_TIMEOUT}"))[0][0]
    limit = f"SET SESSION {_LOCK_TIMEOUT} = %s"
    await driver.fetch(connection, limit, max(1, int(seconds)))
    try:
        yield
    except Exception:
        # The connection may belong to the caller, who continues to use it. If it is lost, the first error is raised.
        with suppress(Exception):
            await driver.fetch(connection, limit, before)
        raise
    await driver.fetch(connection, limit, before)
