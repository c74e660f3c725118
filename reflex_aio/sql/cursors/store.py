"""The cursor store on a table that stores each cursor at once."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from reflex_aio.checks import check_seconds
from reflex_aio.cursor import CursorStore
from reflex_aio.errors import ConnectionLost, CursorConflict, DatabaseError, LeaseLost
from reflex_aio.lease import Lease
from reflex_aio.sql.cursors.dialect import CursorsDialect
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_pool
from reflex_aio.sql.leases.store import check_fence, hold_lease

if TYPE_CHECKING:
    from reflex_aio.sql.cursors.table import CursorsTable

__all__ = ["TableCursorStore"]


logger = logging.getLogger(__name__)

# A day, in seconds: every database can count it, and nobody wants to wait longer.
_LONGEST_IDLE = 86_400.0

# How often a cursor is tried to be set that locks of others are in the way of.
_TRIES = 3


class _Undone(Exception):
    """Rolls back a transaction: what was raised within is no error of the database's, though it may look like one."""


class TableCursorStore(CursorStore):
    """Keeps cursors in a table, through a pool: each is committed when ``set`` returns.

    :meth:`~reflex_aio.sql.cursors.table.CursorsTable.store` makes it. Beside what they say, its methods raise
    :class:`~reflex_aio.errors.ConnectionLost`, :class:`~reflex_aio.errors.TableNotFound`,
    :class:`~reflex_aio.errors.SchemaError` and, for all else that the database refuses,
    :class:`~reflex_aio.errors.DatabaseError`.

    :param idle_timeout: time without a statement after which the database rolls back a :meth:`transaction`, in seconds;
        ``None`` for the session's own limit
    :raises TypeError: if ``pool`` is not a pool, or ``idle_timeout`` is not a number
    :raises ValueError: if ``idle_timeout`` is out of range
    """

    has_transactions = True

    def __init__(self, table: "CursorsTable", pool: Any, *, idle_timeout: float | None = 60.0) -> None:
        self._driver = driver_of_pool(pool)
        self._table = table
        self._pool = pool
        self._idle_timeout = check_seconds("idle_timeout", idle_timeout, most=_LONGEST_IDLE, none=True)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"{self._table!r}.store({self._pool!r})"

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none."""
        async with self._connection() as connection:
            return await self._table.get(connection, name)

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``. Where it is already is no error.

        :param expected: move it only if it is there, ``""`` being nowhere
        :param fence: move it only if this lease isn't lost; of a :class:`~reflex_aio.sql.LeasesTable` in this database
        :raises CursorConflict: if it would move backwards, or isn't where it is expected
        :raises LeaseLost: if ``fence`` is lost
        :raises InvalidCursor: if ``cursor`` or ``expected`` isn't of the table's type
        :raises TypeError: if ``fence`` is none of a leases table
        """
        if fence is not None:
            check_fence(fence)
        # On connections of their own, two sets of one name could overtake each other.
        turn = self._turns.setdefault(name, asyncio.Lock())
        async with turn:
            refusal = await self._set(name, cursor, expected, fence)
        if refusal is not None:
            raise refusal

    async def _set(
        self, name: str, cursor: str, expected: str | None, fence: Lease | None
    ) -> CursorConflict | LeaseLost | None:
        for _ in range(_TRIES - 1):
            try:
                return await self._try_to_set(name, cursor, expected, fence)
            except DatabaseError as exc:
                # Nothing else was in that transaction: to begin it anew is safe.
                if not exc.lock_conflict:
                    raise
                logger.debug("%s: tried again to set the cursor of %s: %s", self._table.name, name, exc)
        return await self._try_to_set(name, cursor, expected, fence)

    async def _try_to_set(
        self, name: str, cursor: str, expected: str | None, fence: Lease | None
    ) -> CursorConflict | LeaseLost | None:
        async with self._connection() as connection:
            try:
                if fence is None:
                    await self._table.set(connection, name, cursor, expected=expected)
                else:
                    async with self._driver.transaction(connection):
                        await hold_lease(self._driver, connection, fence)
                        await self._table.set(connection, name, cursor, expected=expected)
            except (CursorConflict, LeaseLost) as exc:
                # Not raised in here: nothing is wrong with the connection.
                return exc
        return None

    @asynccontextmanager
    async def transaction(
        self, name: str, cursor: str, *, expected: str, fence: Lease | None = None
    ) -> AsyncIterator[Any]:
        """Be in a transaction that moves a cursor. See :class:`~reflex_aio.cursor.CursorStore.transaction`.

        What is raised within passes through, unless the connection is lost.
        """
        if fence is not None:
            check_fence(fence)
        theirs: BaseException | None = None
        try:
            async with self._connection() as connection, self._limited_transaction(connection):
                # First, so that of two runs at once the later one waits here, and then does nothing.
                await self._table.set(connection, name, cursor, expected=expected)
                try:
                    yield connection
                except Exception as exc:
                    if self._driver.is_closed(connection):
                        raise ConnectionLost(
                            f"{self._table.name}: the connection was lost in a transaction: {exc}"
                        ) from exc
                    theirs = exc
                    raise _Undone from exc
                if fence is not None:
                    # Last: whoever renews the lease waits for this transaction's end from here on.
                    await hold_lease(self._driver, connection, fence)
        except _Undone:
            pass
        if theirs is not None:
            raise theirs

    def _limited_transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        if self._idle_timeout is None:
            return self._driver.transaction(connection)
        dialect = dialect_part(CursorsDialect, self._driver.dialect, self._table.schema)
        return dialect.transaction(self._driver, connection, idle_timeout=self._idle_timeout)

    async def rewind(self, name: str, cursor: str) -> None:
        """Set the cursor of the consumer ``name`` to any place, also before where it is; ``""`` removes it.

        Stop the consumer first: it would go on from where it is, and move the cursor forward again.

        :raises InvalidCursor: if ``cursor`` isn't of the table's type
        """
        async with self._connection() as connection:
            await self._table.rewind(connection, name, cursor)

    async def all(self) -> dict[str, str]:
        """Return the stored cursors by consumer."""
        async with self._connection() as connection:
            return await self._table.all(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with self._driver.errors(self._table.name):
            async with self._driver.acquire(self._pool) as connection:
                yield connection
