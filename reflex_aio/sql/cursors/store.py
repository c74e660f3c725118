"""The cursor store on a table that commits each cursor at once, and the moves of a cursor that it is made of."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from reflex_aio.checks import check_seconds, check_text, is_storable_text, wrong_type
from reflex_aio.cursor import CursorStore, is_behind
from reflex_aio.errors import ConnectionLost, CursorConflict, DatabaseError, InvalidCursor, LeaseLost
from reflex_aio.hooks import Hooks
from reflex_aio.lease import Lease
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.leases.store import TableLease, check_fence, hold_leases
from reflex_aio.sql.schema.names import CursorsSchema, CursorType
from reflex_aio.sql.schema.table import Table, TableStore

__all__ = ["CursorsDialect", "TableCursorStore", "check_cursor"]

logger = logging.getLogger(__name__)

# A bigint.
_GREATEST = str(2**63 - 1)
# The attempts at a move that the database refuses although the stored cursor allows it.
_MOVE_TRIES = 10
# The attempts at a set that fails because of other transactions' locks.
_SET_TRIES = 3
# A day, in seconds. Every database can count that far.
_LONGEST_IDLE_TIMEOUT = 86_400.0


def check_cursor(cursor: str, type: CursorType) -> str:
    """Return a cursor in the form in which a table of that type stores it: an integer without leading zeros.

    :raises TypeError: if ``cursor`` is not a string
    :raises InvalidCursor: if it is not a cursor of that type
    """
    if not isinstance(cursor, str):
        raise wrong_type("cursor", cursor, "a str")
    if type == "str":
        if is_storable_text(cursor):
            return cursor
        raise InvalidCursor(cursor, "a string that is not empty and has neither a NUL nor a lone surrogate")
    if cursor.isascii() and cursor.isdecimal():
        if len(cursor) < len(_GREATEST) and cursor[0] != "0":
            # The usual case, up to a million times a second.
            return cursor
        value = cursor.lstrip("0") or "0"
        if not is_behind(_GREATEST, value):
            return value
    raise InvalidCursor(cursor, f"a string of digits, up to {_GREATEST}")


class CursorsDialect(ABC):
    """The cursors of one table in one database. It has no state but the texts of its statements.

    Cursors are passed as the texts of their values. Except in :meth:`put`, none moves backwards, in the order of
    :func:`~reflex_aio.cursor.is_behind`.
    """

    def __init__(self, schema: CursorsSchema) -> None:
        self._table_name = str(schema.table)

    # Statements.

    @abstractmethod
    async def get(self, driver: Driver, connection: Any, name: str) -> str:
        """Return the cursor of a consumer, or ``""`` if it has none."""

    async def latest(self, driver: Driver, connection: Any, name: str) -> str:
        """Return the latest committed cursor, also if the caller's transaction reads from an older snapshot."""
        return await self.get(driver, connection, name)

    @abstractmethod
    async def all(self, driver: Driver, connection: Any) -> dict[str, str]:
        """Return the cursors by consumer."""

    @abstractmethod
    async def states(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, float | None]]:
        """Return consumers, cursors, and the times at which they were set, in seconds since 1970, in order of names."""

    @abstractmethod
    async def move(self, driver: Driver, connection: Any, name: str, cursor: str) -> bool:
        """Move a cursor forward; return whether it was moved."""

    @abstractmethod
    async def move_from(self, driver: Driver, connection: Any, name: str, cursor: str, expected: str) -> bool:
        """Move a cursor forward if it is at ``expected``, ``""`` if there is none; return whether it was moved."""

    @abstractmethod
    async def move_many(
        self, driver: Driver, connection: Any, cursors: Mapping[str, str], *, lock_timeout: float | None
    ) -> set[str]:
        """Move the cursors that do not go backwards, in one statement, and return the names of their consumers.

        :param lock_timeout: how long to wait for another transaction that has locked a row, in seconds
        """

    @abstractmethod
    async def put(self, driver: Driver, connection: Any, name: str, cursor: str) -> None:
        """Set a cursor, forward or backwards; ``""`` removes it."""

    @abstractmethod
    def transaction(
        self, driver: Driver, connection: Any, *, idle_timeout: float
    ) -> AbstractAsyncContextManager[None]:
        """Return a context that is a transaction on ``connection``, on which none is open.

        Once the client has sent nothing for ``idle_timeout`` seconds, or for as long as the session allows if that is
        less, the server rolls back the transaction and closes the connection. After an error within the context, the
        connection may keep this timeout.
        """

    # Moves.

    async def set(
        self, driver: Driver, connection: Any, name: str, cursor: str, expected: str | None
    ) -> CursorConflict | None:
        """Move a cursor forward, and return the conflict if it cannot be moved.

        :param expected: move it only if it is there, ``""`` if there is none
        """
        for _ in range(_MOVE_TRIES):
            if expected is None:
                moved = await self.move(driver, connection, name, cursor)
            else:
                moved = await self.move_from(driver, connection, name, cursor, expected)
            if moved:
                return None
            stored = await self.latest(driver, connection, name)
            if expected is not None and stored != expected:
                return CursorConflict(consumer=name, stored=stored, given=cursor, expected=expected)
            if is_behind(cursor, stored):
                return CursorConflict(consumer=name, stored=stored, given=cursor)
            # The stored cursor has changed since it refused the move: try again.
        raise self._not_moved([name])

    async def set_many(
        self, driver: Driver, connection: Any, cursors: Mapping[str, str], *, lock_timeout: float | None
    ) -> dict[str, CursorConflict]:
        """Move cursors forward, and return the conflicts of those that would move backwards."""
        remaining = dict(cursors)
        conflicts: dict[str, CursorConflict] = {}
        if not remaining:
            return conflicts
        for _ in range(_MOVE_TRIES):
            for name in await self.move_many(driver, connection, remaining, lock_timeout=lock_timeout):
                del remaining[name]
            for name, cursor in list(remaining.items()):
                stored = await self.latest(driver, connection, name)
                # If it is not behind, the stored cursor was rewound since it refused the move: try again.
                if is_behind(cursor, stored):
                    conflicts[name] = CursorConflict(consumer=name, stored=stored, given=cursor)
                    del remaining[name]
            if not remaining:
                return conflicts
        raise self._not_moved(remaining)

    def _not_moved(self, names: Iterable[str]) -> DatabaseError:
        return DatabaseError(
            f"{self._table_name}: the database does not move the cursor of {', '.join(names)}, although it would not"
            " move backwards: is there a trigger or a policy on the table?"
        )


class _Rollback(Exception):
    """Rolls back a transaction after an exception of the caller's, which is not to be translated."""


class TableCursorStore(TableStore[CursorsDialect], CursorStore):
    """Keeps cursors in a table, through a pool. Each cursor is committed when :meth:`set` returns.

    :meth:`CursorsTable.store <reflex_aio.sql.CursorsTable.store>` makes it. Its methods also raise
    :class:`~reflex_aio.errors.ConnectionLost`, :class:`~reflex_aio.errors.TableNotFound`,
    :class:`~reflex_aio.errors.SchemaError` and, for any other failure that the database reports,
    :class:`~reflex_aio.errors.DatabaseError`.

    :param hooks: called when a cursor was set
    :param idle_timeout: how long the client may send nothing in a :meth:`transaction` before the server rolls it back,
        in seconds; ``None`` for as long as the session allows
    :raises TypeError: if ``pool`` is not a pool, or ``idle_timeout`` is not a number
    :raises ValueError: if ``idle_timeout`` is out of range
    """

    fence_type: ClassVar[type[Lease] | None] = TableLease
    has_transactions = True

    def __init__(
        self, table: Table[CursorsSchema], pool: Any, *, hooks: Hooks, idle_timeout: float | None = 60.0
    ) -> None:
        super().__init__(table, pool, CursorsDialect)
        self._table_name = table.name
        self._type = table.schema.cursor_type
        self._hooks = hooks
        self._idle_timeout = check_seconds(
            "idle_timeout", idle_timeout, most=_LONGEST_IDLE_TIMEOUT, none=True
        )
        # By consumer. A lock is dropped when no set of the consumer is under way.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none."""
        check_text("consumer name", name)
        async with self._connection() as connection:
            return await self._dialect.get(self._driver, connection, name)

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``. Setting the stored cursor again is no error.

        :param expected: move it only if it is there, ``""`` if there is none
        :param fence: move it only while this lease of a :class:`~reflex_aio.sql.LeasesTable` in this database is held
        :raises CursorConflict: if it would move backwards, or is not where it is expected
        :raises LeaseLost: if ``fence`` is no longer held
        :raises InvalidCursor: if ``cursor`` or ``expected`` is not of the table's type
        :raises TypeError: if ``fence`` is not a lease of a leases table
        """
        token = None if fence is None else check_fence(fence)
        check_text("consumer name", name)
        cursor = check_cursor(cursor, self._type)
        if expected:
            expected = check_cursor(expected, self._type)
        # Two sets of one consumer would otherwise use two connections, on which one could overtake the other.
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            for remaining in reversed(range(_SET_TRIES)):
                try:
                    error = await self._try_set(name, cursor, expected, token)
                    break
                except DatabaseError as exc:
                    # Safe to repeat, since the transaction contained nothing else.
                    if not (exc.lock_conflict and remaining):
                        raise
                    logger.debug("%s: retrying to set the cursor of %s: %s", self._table_name, name, exc)
        if error is not None:
            raise error
        self._hooks.cursor_set(self._table_name)

    async def _try_set(
        self, name: str, cursor: str, expected: str | None, token: TableLease | None
    ) -> CursorConflict | LeaseLost | None:
        """Set a cursor, and return the error if it is refused. Raised here, it would cost the connection."""
        driver = self._driver
        with self._errors:
            async with driver.acquire(self._pool) as connection:
                if token is None:
                    return await self._dialect.set(driver, connection, name, cursor, expected)
                async with driver.transaction(connection):
                    if lost := await hold_leases(driver, connection, [token]):
                        return lost[token]
                    return await self._dialect.set(driver, connection, name, cursor, expected)

    @asynccontextmanager
    async def transaction(
        self, name: str, cursor: str, *, expected: str, fence: Lease | None = None
    ) -> AsyncIterator[Any]:
        """Return a transaction that moves a cursor. See :meth:`~reflex_aio.cursor.CursorStore.transaction`.

        Exceptions raised within the context are passed on as they are, unless the connection is lost.
        """
        token = None if fence is None else check_fence(fence)
        check_text("consumer name", name)
        cursor = check_cursor(cursor, self._type)
        expected = expected and check_cursor(expected, self._type)
        raised: BaseException | None = None
        clock = asyncio.get_running_loop().time
        # For the statements of this method, not for those of the caller.
        limit = asyncio.timeout(self._driver.statement_timeout)
        try:
            async with self._connection(limit) as connection, self._begin(connection):
                # First, so that the later one of two concurrent runs waits here, and then does nothing.
                conflict = await self._dialect.set(self._driver, connection, name, cursor, expected)
                if conflict is not None:
                    raise conflict
                self._hooks.cursor_set(self._table_name)
                try:
                    limit.reschedule(None)
                    try:
                        yield connection
                    finally:
                        limit.reschedule(clock() + self._driver.statement_timeout)
                except Exception as exc:
                    if self._driver.is_closed(connection):
                        raise ConnectionLost(
                            f"{self._table_name}: the connection was lost in a transaction: {exc}"
                        ) from exc
                    raised = exc
                    raise _Rollback from exc
                # Last: from here on, a renewal of the lease waits for the end of this transaction.
                if token is not None and (lost := await hold_leases(self._driver, connection, [token])):
                    raise lost[token]
        except _Rollback:
            pass
        if raised is not None:
            raise raised

    def _begin(self, connection: Any) -> AbstractAsyncContextManager[None]:
        if self._idle_timeout is None:
            return self._driver.transaction(connection)
        return self._dialect.transaction(self._driver, connection, idle_timeout=self._idle_timeout)

    async def rewind(self, name: str, cursor: str) -> None:
        """Set the cursor of the consumer ``name`` to any value, also backwards; ``""`` removes it.

        Stop the consumer first: otherwise it continues from its position, and moves the cursor forward again.

        :raises InvalidCursor: if ``cursor`` is not of the table's type
        """
        check_text("consumer name", name)
        cursor = cursor and check_cursor(cursor, self._type)
        async with self._connection() as connection:
            await self._dialect.put(self._driver, connection, name, cursor)
        self._hooks.cursor_set(self._table_name)

    async def all(self) -> dict[str, str]:
        """Return the stored cursors by consumer."""
        async with self._connection() as connection:
            return await self._dialect.all(self._driver, connection)
