"""The cursor store on a table that keeps the latest cursors in memory, and stores them at an interval."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Never, Self, TypeAlias

from reflex_aio.checks import check_seconds, check_text
from reflex_aio.cursor import CursorMark, is_behind
from reflex_aio.errors import CursorConflict, DatabaseError, InvalidCursor, LeaseLost
from reflex_aio.hooks import Hooks
from reflex_aio.lease import Lease
from reflex_aio.sql.cursors.flush_task import FlushTask
from reflex_aio.sql.cursors.store import TableCursorStore, check_cursor
from reflex_aio.sql.leases.store import TableLease, check_fence, hold_leases
from reflex_aio.sql.schema.names import CursorsSchema
from reflex_aio.sql.schema.table import Table
from reflex_aio.tasks import shielded

__all__ = ["WriteBehindCursorStore"]

logger = logging.getLogger(__name__)

# The share of flush_timeout for which one statement may wait for another transaction, since a flush may take several
# statements.
_LOCK_TIMEOUT_SHARE = 0.25

Rejection: TypeAlias = CursorConflict | InvalidCursor | LeaseLost
"""The reason for which a cursor was discarded."""


class _Mark(CursorMark):
    """A mark, and the cursor that was last read from it."""

    __slots__ = ("fence", "name", "read")

    def __init__(self, name: str, fence: TableLease | None) -> None:
        super().__init__()
        self.name = name
        self.fence = fence
        self.read = self.cursor


class WriteBehindCursorStore(TableCursorStore):
    """Keeps the latest cursors in memory while it is entered, and stores them every ``flush_every`` seconds.

    One task stores the cursors of all consumers in one statement. If that fails, it tries again, and no cursor is lost.
    A cursor that turns out to be behind the stored one, or whose lease is lost, is discarded: the consumer's next
    ``set``, the next ``flush``, or the exit from the store raises the :class:`~reflex_aio.errors.CursorConflict` or
    :class:`~reflex_aio.errors.LeaseLost`, once.

    The store may be entered several times at once, and each exit flushes. Cursors that cannot be stored within
    ``flush_timeout`` stay in memory, and are stored when the store is entered again. While the store is not entered,
    each cursor is stored at once.

    :param flush_every: interval at which the cursors are stored, in seconds
    :param flush_timeout: how long it may take to store them, and how long a flush waits for that, in seconds
    """

    # A cursor in memory is part of no transaction.
    has_transactions = False

    def __init__(
        self,
        table: Table[CursorsSchema],
        pool: Any,
        *,
        hooks: Hooks,
        flush_every: float,
        flush_timeout: float = 5.0,
    ) -> None:
        super().__init__(table, pool, hooks=hooks)
        self._flush_task = FlushTask(
            self._write,
            subject=f"cursors in {table.name}",
            interval=check_seconds("flush_every", flush_every),
            timeout=check_seconds("flush_timeout", flush_timeout),
        )
        self._lock_timeout = flush_timeout * _LOCK_TIMEOUT_SHARE
        self._entered = 0
        self._leaving = 0
        # The cursors that were set and are not known to be stored.
        self._cursors: dict[str, str] = {}
        # The leases of those among them that were set under one.
        self._fences: dict[str, TableLease] = {}
        # The reasons that are still to be raised, by consumer.
        self._rejections: dict[str, Rejection] = {}
        # Of the runs that do not call set for each event.
        self._marks: set[_Mark] = set()
        # Held by every writer: a flush that is under way could undo a rewind.
        self._writing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._entered += 1
        self._flush_task.start()
        if self._cursors:
            self._flush_task.mark_changed()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        self._leaving += 1
        await shielded(self._leave(error))

    async def _leave(self, error: BaseException | None) -> None:
        try:
            await self.flush()
        except Exception as exc:
            if error is None:
                raise
            # The first error is the one to raise.
            logger.error("cursors could not be stored: %s", exc)
        finally:
            self._leaving -= 1
            if not self._entered and not self._leaving:
                await self._flush_task.stop()
                self._log_rejections()

    def transaction(self, name: str, cursor: str, *, expected: str, fence: Lease | None = None) -> Never:
        """Raise NotImplementedError: a cursor in memory is moved by no transaction."""
        raise NotImplementedError(f"{self!r} has no transactions")

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, stored or not, or ``""`` if it has none."""
        self._read_marks()
        cursor = self._cursors.get(name)
        return await super().get(name) if cursor is None else cursor

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``, in memory.

        With ``expected``, the cursor is stored at once, after the one in memory.

        :param expected: move it only if it is there, ``""`` if there is none
        :param fence: move it only while this lease is held; it is compared when the cursor is stored
        :raises CursorConflict: if it would move backwards, if it is not where it is expected, or if the cursor set
            before turned out to be behind the stored one
        :raises LeaseLost: if the lease is no longer held, or that of the cursor set before was not
        :raises InvalidCursor: if ``cursor`` or ``expected`` is not of the table's type
        """
        token = None if fence is None else check_fence(fence)
        if expected is not None or not self._entered:
            await self._set_at_once(name, cursor, expected, token)
        else:
            self._set_in_memory(name, check_cursor(cursor, self._type), token)

    def _set_in_memory(self, name: str, cursor: str, fence: TableLease | None) -> None:
        if name in self._rejections:
            raise self._rejections.pop(name)
        before = self._cursors.get(name)
        if before is None:
            check_text("consumer name", name)
        elif is_behind(cursor, before):
            raise CursorConflict(consumer=name, stored=before, given=cursor)
        self._cursors[name] = cursor
        if fence is not None:
            self._fences[name] = fence
        elif name in self._fences:
            del self._fences[name]
        self._flush_task.mark_changed()

    @contextmanager
    def mark(self, name: str, *, fence: Lease | None = None) -> Iterator[CursorMark | None]:
        """Return a context that yields a mark. See :meth:`~reflex_aio.cursor.CursorStore.mark`.

        It is read whenever cursors are stored or queried. If the store is not entered, there is no mark.
        """
        check_text("consumer name", name)
        token = None if fence is None else check_fence(fence)
        if not self._entered:
            yield None
            return
        mark = _Mark(name, token)
        self._marks.add(mark)
        self._flush_task.mark_changed()
        try:
            yield mark
        finally:
            self._read_mark(mark)
            self._marks.discard(mark)

    def _read_marks(self) -> None:
        for mark in self._marks:
            self._read_mark(mark)

    def _read_mark(self, mark: _Mark) -> None:
        cursor = mark.cursor
        if cursor is mark.read or mark.refused:
            return
        mark.read = cursor
        try:
            self._set_in_memory(mark.name, check_cursor(cursor, self._type), mark.fence)
        except (CursorConflict, InvalidCursor, LeaseLost) as exc:
            self._reject(mark.name, exc)

    def _reject(self, name: str, reason: Rejection) -> None:
        """Keep the reason until the consumer's next call raises it."""
        self._rejections[name] = reason
        for mark in self._marks:
            if mark.name == name:
                mark.refused = True

    async def _set_at_once(
        self, name: str, cursor: str, expected: str | None, fence: TableLease | None
    ) -> None:
        async with self._writing:
            self._read_marks()
            if name in self._rejections:
                raise self._rejections.pop(name)
            if (before := self._cursors.get(name)) is not None:
                try:
                    await super().set(name, before, fence=self._fences.get(name))
                except (CursorConflict, LeaseLost):
                    self._remove(name, before)
                    raise
                self._remove(name, before)
            await super().set(name, cursor, expected=expected, fence=fence)

    async def rewind(self, name: str, cursor: str) -> None:
        """Set the cursor of the consumer ``name`` to any value, at once, and discard the one in memory.

        See :meth:`TableCursorStore.rewind`.
        """
        async with self._writing:
            self._read_marks()
            before = self._cursors.get(name)
            await super().rewind(name, cursor)
            self._rejections.pop(name, None)
            self._remove(name, before)

    async def flush(self) -> None:
        """Return once every cursor that was set is stored for good.

        :raises CursorConflict: if a cursor is behind the stored one
        :raises LeaseLost: if a cursor's lease is lost
        :raises ConnectionLost: if the database cannot be reached for ``flush_timeout``; the cursors are kept
        :raises DatabaseError: if it reports failures for as long; the cursors are kept
        :raises SchemaError: if the table is not as expected; the cursors are kept
        """
        if self._entered or self._leaving:
            self._read_marks()
            if self._cursors:
                await self._flush_task.flush()
            for name in self._rejections:
                raise self._rejections.pop(name)
        else:
            async with self:
                pass  # The exit flushes.

    async def all(self) -> dict[str, str]:
        """Return the stored cursors by consumer, without those in memory: the cursors that a crash would leave."""
        return await super().all()

    async def _write(self) -> None:
        """Store all cursors in memory."""
        async with self._writing:
            self._read_marks()
            if self._marks:
                # There is no notification when a mark changes: read them again after the next interval.
                self._flush_task.mark_changed()
            cursors = dict(self._cursors)
            try:
                await self._store(cursors)
            except DatabaseError:
                if len(cursors) == 1:
                    raise
                await self._store_each(cursors)

    async def _store_each(self, cursors: dict[str, str]) -> None:
        # A cursor that the database refuses must not hold back the others.
        error: DatabaseError | None = None
        for name, cursor in cursors.items():
            try:
                await self._store({name: cursor})
            except DatabaseError as exc:
                error = exc
        if error is not None:
            raise error

    async def _store(self, cursors: dict[str, str]) -> None:
        if not cursors:
            return
        fences = {name: self._fences[name] for name in cursors if name in self._fences}
        async with self._connection() as connection:
            rejections = await self._set_many(connection, cursors, fences)
        for name, cursor in cursors.items():
            if name in rejections:
                self._reject(name, rejections[name])
                # Also if a later one was set: the consumer must get the error first.
                self._remove(name, self._cursors.get(name))
            else:
                self._remove(name, cursor)
                self._hooks.cursor_set(self._table_name)

    async def _set_many(
        self, connection: Any, cursors: Mapping[str, str], fences: Mapping[str, TableLease]
    ) -> Mapping[str, CursorConflict | LeaseLost]:
        """Store cursors, and return the reasons for which some were not stored."""
        driver, dialect = self._driver, self._dialect
        # Without a limit, a statement that we no longer wait for would keep waiting in the database.
        timeout = self._lock_timeout
        if not fences:
            return await dialect.set_many(driver, connection, cursors, lock_timeout=timeout)
        async with driver.transaction(connection):
            lost = await hold_leases(driver, connection, set(fences.values()))
            rejections = {name: lost[fence] for name, fence in fences.items() if fence in lost}
            held = {name: cursor for name, cursor in cursors.items() if name not in rejections}
            return {
                **rejections,
                **await dialect.set_many(driver, connection, held, lock_timeout=timeout),
            }

    def _remove(self, name: str, cursor: str | None) -> None:
        """Remove a cursor from memory, unless a later one has been set."""
        if cursor is not None and self._cursors.get(name) == cursor:
            del self._cursors[name]
            self._fences.pop(name, None)

    def _log_rejections(self) -> None:
        """Log the rejections that no call is left to raise."""
        for reason in self._rejections.values():
            logger.error("%s", reason)
        self._rejections.clear()
