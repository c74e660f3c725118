"""The cursors table: where the consumers of a database keep their cursors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from reflex_aio.cursor import is_behind
from reflex_aio.errors import CursorConflict, DatabaseError
from reflex_aio.hooks import Hooks, installed
from reflex_aio.sql.cursors.dialect import CursorsDialect
from reflex_aio.sql.cursors.store import TableCursorStore
from reflex_aio.sql.cursors.values import check_consumer, check_cursor
from reflex_aio.sql.cursors.write_behind import WriteBehindCursorStore
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.sql.schema.dialect import SchemaDialect
from reflex_aio.sql.schema.names import CursorColumns, CursorsSchema, CursorType, Name
from reflex_aio.sql.schema.table import Table

__all__ = ["CursorState", "CursorsTable"]

# How often a cursor that was not moved is found where it could have been, before we give up.
_TRIES = 10


@dataclass(frozen=True, slots=True)
class CursorState:
    """A row of a cursors table: where a consumer is."""

    consumer: str
    cursor: str
    updated_at: datetime | None
    """When the cursor was last set, an aware datetime in UTC; ``None`` if the row doesn't tell."""


class CursorsTable(Table[CursorsSchema]):
    """A table with a row for each consumer: its name, and the cursor of the last event that it consumed.

    Cursors go forward only. Integers are compared by their values; so are strings that have digits only. Of
    other strings no order is known: they can be set to anything, and ``expected=`` is what guards them.

    The methods run on a connection of the caller's, in its transaction if there is one. What the client
    library raises there passes through, but for missing tables and columns.

    :param name: ``table`` or ``schema.table``; case counts
    :param columns: what its columns are called
    :param cursor_type: ``"int"``, as of events in tables, or ``"str"``
    :param hooks: told what happens; by default those installed for the process
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if a name or the cursor type isn't accepted
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
    def schema(self) -> CursorsSchema:
        """The table's name, columns and type of cursors, as the dialects read them."""
        return self._schema

    @property
    def columns(self) -> CursorColumns:
        """What its columns are called."""
        return self._schema.columns

    @property
    def cursor_type(self) -> CursorType:
        """What its cursors are."""
        return self._schema.cursor_type

    async def as_found(self, connection: Any) -> "CursorsTable":
        """Return a table object with the type of cursors that the real table has.

        :raises TypeError: if it isn't a connection
        :raises TableNotFound: if there is no such table
        """
        driver = driver_of_connection(connection)
        dialect = dialect_part(SchemaDialect, driver.dialect)
        found = (await dialect.described(driver, connection, self._schema)).columns.get(
            self.columns.last_event_id
        )
        integers = next(
            column.types
            for column in dialect.expected(replace(self._schema, cursor_type="int"))
            if column.name == self.columns.last_event_id
        )
        return self.replace(cursor_type="int" if found is None or found.type in integers else "str")

    # The cursors.

    async def get(self, connection: Any, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none.

        :raises TypeError: if it isn't a connection
        """
        driver = driver_of_connection(connection)
        dialect = dialect_part(CursorsDialect, driver.dialect, self._schema)
        with driver.errors(self.name, schema_only=True):
            return await dialect.get(driver, connection, check_consumer(name))

    async def all(self, connection: Any) -> dict[str, str]:
        """Return the cursors by consumer.

        :raises TypeError: if it isn't a connection
        """
        driver = driver_of_connection(connection)
        dialect = dialect_part(CursorsDialect, driver.dialect, self._schema)
        with driver.errors(self.name, schema_only=True):
            return await dialect.all(driver, connection)

    async def states(self, connection: Any) -> list[CursorState]:
        """Return where the consumers are, and since when, in the order of their names.

        :raises TypeError: if it isn't a connection
        """
        driver = driver_of_connection(connection)
        dialect = dialect_part(CursorsDialect, driver.dialect, self._schema)
        with driver.errors(self.name, schema_only=True):
            rows = await dialect.states(driver, connection)
        return [
            CursorState(name, cursor, None if set_at is None else datetime.fromtimestamp(set_at, UTC))
            for name, cursor, set_at in rows
        ]

    async def set(self, connection: Any, name: str, cursor: str, *, expected: str | None = None) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``. Where it is already is no error.

        :param expected: move it only if it is there, ``""`` being nowhere
        :raises CursorConflict: if it would move backwards, or isn't where it is expected
        :raises InvalidCursor: if ``cursor`` or ``expected`` isn't of this table's type
        :raises TypeError: if it isn't a connection
        """
        if expected is not None:
            await self._set_from(connection, name, cursor, expected)
        elif conflicts := await self.set_many(connection, {name: cursor}):
            raise conflicts[name]

    async def set_many(
        self, connection: Any, cursors: Mapping[str, str], *, lock_timeout: float | None = None
    ) -> dict[str, CursorConflict]:
        """Move the cursors of several consumers forward, in one statement.

        :param lock_timeout: how long the database may wait for another transaction that holds one of them, in
            seconds; it stays in force to the end of the caller's transaction, if there is one
        :return: the conflicts of the consumers whose cursor would move backwards; all others are moved
        :raises InvalidCursor: if one isn't of this table's type; then none is moved
        :raises TypeError: if it isn't a connection
        """
        driver = driver_of_connection(connection)
        dialect = dialect_part(CursorsDialect, driver.dialect, self._schema)
        left = {
            check_consumer(name): check_cursor(cursor, self.cursor_type) for name, cursor in cursors.items()
        }
        conflicts: dict[str, CursorConflict] = {}
        with driver.errors(self.name, schema_only=True):
            for _ in range(_TRIES):
                for name in await dialect.move(driver, connection, left, lock_timeout=lock_timeout):
                    del left[name]
                    self._hooks.cursor_set(self.name)
                for name, cursor in list(left.items()):
                    stored = await dialect.newest(driver, connection, name)
                    # Otherwise it was rewound since it was refused: try again.
                    if is_behind(cursor, stored):
                        conflicts[name] = CursorConflict(consumer=name, stored=stored, given=cursor)
                        del left[name]
                if not left:
                    return conflicts
        raise self._not_moved(left)

    async def _set_from(self, connection: Any, name: str, cursor: str, expected: str) -> None:
        driver = driver_of_connection(connection)
        dialect = dialect_part(CursorsDialect, driver.dialect, self._schema)
        check_consumer(name)
        cursor = check_cursor(cursor, self.cursor_type)
        expected = expected and check_cursor(expected, self.cursor_type)
        with driver.errors(self.name, schema_only=True):
            for _ in range(_TRIES):
                if await dialect.move_from(driver, connection, name, cursor, expected):
                    self._hooks.cursor_set(self.name)
                    return
                stored = await dialect.newest(driver, connection, name)
                if stored != expected:
                    raise CursorConflict(consumer=name, stored=stored, given=cursor, expected=expected)
                if is_behind(cursor, stored):
                    raise CursorConflict(consumer=name, stored=stored, given=cursor)
                # Otherwise it came to where it is expected since it was refused: try again.
        raise self._not_moved([name])

    async def rewind(self, connection: Any, name: str, cursor: str) -> None:
        """Set the cursor of the consumer ``name`` to any place, also before where it is.

        Stop the consumer first: it would go on from where it is, and move the cursor forward again.

        :param cursor: the cursor, or ``""`` for the beginning, which removes the row
        :raises InvalidCursor: if it isn't of this table's type
        :raises TypeError: if it isn't a connection
        """
        driver = driver_of_connection(connection)
        dialect = dialect_part(CursorsDialect, driver.dialect, self._schema)
        cursor = cursor and check_cursor(cursor, self.cursor_type)
        with driver.errors(self.name, schema_only=True):
            await dialect.put(driver, connection, check_consumer(name), cursor)
        self._hooks.cursor_set(self.name)

    def store(
        self,
        pool: Any,
        *,
        flush_every: float | None = None,
        flush_timeout: float = 5.0,
        idle_timeout: float | None = 60.0,
    ) -> TableCursorStore:
        """Return the store that keeps its cursors here, through a pool.

        :param flush_every: instead of storing each cursor at once, keep the latest in memory and store them
            so often, in seconds. A crash then repeats the events of that long. See
            :class:`~reflex_aio.sql.cursors.write_behind.WriteBehindCursorStore`
        :param flush_timeout: with ``flush_every``: how long storing them may take, in seconds
        :param idle_timeout: without ``flush_every``: for atomic consumers, the time without a statement after which the
            database rolls back a transaction, in seconds, so that a process that is paused in its handler does not
            block the others. MySQL and MariaDB count whole seconds. ``None`` for the session's own limit
        :raises TypeError: if it isn't a pool, or a duration no number
        :raises ValueError: if a duration is out of its range
        """
        if flush_every is None:
            return TableCursorStore(self, pool, idle_timeout=idle_timeout)
        return WriteBehindCursorStore(self, pool, flush_every=flush_every, flush_timeout=flush_timeout)

    def _not_moved(self, names: Iterable[str]) -> DatabaseError:
        return DatabaseError(
            f"{self.name}: the cursor of {', '.join(names)} is not ahead, and yet the database does not"
            " move it: is there a trigger or a policy on the table?"
        )
