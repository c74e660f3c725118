"""The cursors table, in which the consumers of a database keep their cursors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from reflex_aio.checks import check_text
from reflex_aio.errors import CursorConflict
from reflex_aio.hooks import Hooks, installed
from reflex_aio.sql.cursors.store import CursorsDialect, TableCursorStore, check_cursor
from reflex_aio.sql.cursors.write_behind import WriteBehindCursorStore
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import CursorColumns, CursorsSchema, CursorType, Name
from reflex_aio.sql.schema.table import SchemaDialect, Table

__all__ = ["CursorState", "CursorsTable"]


@dataclass(frozen=True, slots=True)
class CursorState:
    """A row of a cursors table: the position of a consumer."""

    consumer: str
    cursor: str
    updated_at: datetime | None
    """The time at which the cursor was last set, an aware datetime in UTC; ``None`` if the row has none."""


class CursorsTable(Table[CursorsSchema]):
    """A table with a row for each consumer: its name, and the cursor of the last event that it consumed.

    Cursors only move forward. Integers are compared by value, and so are strings that consist of digits. Other strings
    have no known order: they can be set to anything, and only ``expected=`` guards them.

    The methods run on the caller's connection, in its transaction if there is one. Exceptions of the client library are
    passed on as they are, except for missing tables and columns.

    :param name: ``table`` or ``schema.table``; case is significant
    :param columns: the names of the columns
    :param cursor_type: ``"int"``, as the ids of an events table, or ``"str"``
    :param hooks: called when a cursor was set; by default the hooks installed for the process
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if a name or the cursor type is not accepted
    """

    def __init__(
        self,
        name: str,
        *,
        columns: CursorColumns | None = None,
        cursor_type: CursorType = "int",
        hooks: Hooks | None = None,
    ) -> None:
        super().__init__(
            CursorsSchema(Name.parse(name), CursorColumns() if columns is None else columns, cursor_type),
            locals(),
        )
        self._hooks = installed() if hooks is None else hooks

    @property
    def columns(self) -> CursorColumns:
        """The names of the columns."""
        return self.schema.columns

    @property
    def cursor_type(self) -> CursorType:
        """The type of the cursors."""
        return self.schema.cursor_type

    async def as_found(self, connection: Any) -> "CursorsTable":
        """Return a table object with the type of cursors that the table in the database has.

        :raises TypeError: if ``connection`` is not a connection
        :raises TableNotFound: if there is no such table
        """
        driver = driver_of_connection(connection)
        dialect, column = dialect_part(SchemaDialect, driver.dialect), self.columns.last_event_id
        found = (await dialect.described(driver, connection, self.schema)).columns.get(column)
        expected = dialect.expected(replace(self.schema, cursor_type="int"))
        integers = next(wanted.types for wanted in expected if wanted.name == column)
        return self.replace(cursor_type="int" if found is None or found.type in integers else "str")

    async def get(self, connection: Any, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none.

        :raises TypeError: if ``connection`` is not a connection
        """
        driver, dialect = self._parts(connection)
        with driver.errors(self.name, schema_only=True):
            return await dialect.get(driver, connection, check_text("consumer name", name))

    async def all(self, connection: Any) -> dict[str, str]:
        """Return the cursors by consumer.

        :raises TypeError: if ``connection`` is not a connection
        """
        driver, dialect = self._parts(connection)
        with driver.errors(self.name, schema_only=True):
            return await dialect.all(driver, connection)

    async def states(self, connection: Any) -> list[CursorState]:
        """Return the cursors of all consumers with the times at which they were set, in order of the names.

        :raises TypeError: if ``connection`` is not a connection
        """
        driver, dialect = self._parts(connection)
        with driver.errors(self.name, schema_only=True):
            rows = await dialect.states(driver, connection)
        return [
            CursorState(name, cursor, None if set_at is None else datetime.fromtimestamp(set_at, UTC))
            for name, cursor, set_at in rows
        ]

    async def set(self, connection: Any, name: str, cursor: str, *, expected: str | None = None) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``. Setting the stored cursor again is no error.

        :param expected: move it only if it is there, ``""`` if there is none
        :raises CursorConflict: if it would move backwards, or is not where it is expected
        :raises InvalidCursor: if ``cursor`` or ``expected`` is not of this table's type
        :raises TypeError: if ``connection`` is not a connection
        """
        driver, dialect = self._parts(connection)
        check_text("consumer name", name)
        cursor = check_cursor(cursor, self.cursor_type)
        if expected:
            expected = check_cursor(expected, self.cursor_type)
        with driver.errors(self.name, schema_only=True):
            conflict = await dialect.set(driver, connection, name, cursor, expected)
        if conflict is not None:
            raise conflict
        self._hooks.cursor_set(self.name)

    async def set_many(
        self, connection: Any, cursors: Mapping[str, str], *, lock_timeout: float | None = None
    ) -> dict[str, CursorConflict]:
        """Move the cursors of several consumers forward, in one statement.

        :param lock_timeout: how long the database may wait for another transaction that has locked a row, in seconds.
            It remains in force until the end of the caller's transaction, if there is one
        :return: the conflicts of the consumers whose cursor would move backwards; all others are moved
        :raises InvalidCursor: if a cursor is not of this table's type; then none is moved
        :raises TypeError: if ``connection`` is not a connection
        """
        driver, dialect = self._parts(connection)
        checked = {
            check_text("consumer name", name): check_cursor(cursor, self.cursor_type)
            for name, cursor in cursors.items()
        }
        with driver.errors(self.name, schema_only=True):
            conflicts = await dialect.set_many(driver, connection, checked, lock_timeout=lock_timeout)
        for _ in range(len(checked) - len(conflicts)):
            self._hooks.cursor_set(self.name)
        return conflicts

    async def rewind(self, connection: Any, name: str, cursor: str) -> None:
        """Set the cursor of the consumer ``name`` to any value, also backwards.

        Stop the consumer first: otherwise it continues from its position, and moves the cursor forward again.

        :param cursor: the cursor, or ``""`` for the beginning, which deletes the row
        :raises InvalidCursor: if ``cursor`` is not of this table's type
        :raises TypeError: if ``connection`` is not a connection
        """
        driver, dialect = self._parts(connection)
        cursor = cursor and check_cursor(cursor, self.cursor_type)
        with driver.errors(self.name, schema_only=True):
            await dialect.put(driver, connection, check_text("consumer name", name), cursor)
        self._hooks.cursor_set(self.name)

    def store(
        self,
        pool: Any,
        *,
        flush_every: float | None = None,
        flush_timeout: float = 5.0,
        idle_timeout: float | None = 60.0,
    ) -> TableCursorStore:
        """Return a cursor store that keeps its cursors in this table, through ``pool``.

        :param flush_every: keep the latest cursors in memory and store them at this interval, in seconds, instead of
            storing each at once. After a crash, the events of that interval are repeated. See
            :class:`~reflex_aio.sql.cursors.write_behind.WriteBehindCursorStore`
        :param flush_timeout: with ``flush_every``, how long it may take to store the cursors, in seconds
        :param idle_timeout: without ``flush_every``, how long the handler of an atomic consumer may send nothing to the
            database before the server rolls back its transaction, in seconds. A process that is stopped in its handler
            then does not hold up the others. MySQL and MariaDB count whole seconds. ``None`` for as long as the session
            allows
        :raises TypeError: if ``pool`` is not a pool, or a duration is not a number
        :raises ValueError: if a duration is out of range
        """
        if flush_every is None:
            return TableCursorStore(self, pool, hooks=self._hooks, idle_timeout=idle_timeout)
        return WriteBehindCursorStore(
            self, pool, hooks=self._hooks, flush_every=flush_every, flush_timeout=flush_timeout
        )

    def _parts(self, connection: Any) -> tuple[Driver, CursorsDialect]:
        driver = driver_of_connection(connection)
        return driver, dialect_part(CursorsDialect, driver.dialect, self.schema)
