"""The cursor store on a table that keeps the latest cursors in memory, and stores them now and then."""

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reflex_aio.cursor import CursorMark, is_behind
from reflex_aio.errors import CursorConflict, DatabaseError, InvalidCursor, LeaseLost
from reflex_aio.lease import Lease
from reflex_aio.sql.cursors.flush_task import Flusher
from reflex_aio.sql.cursors.store import TableCursorStore
from reflex_aio.sql.cursors.values import check_consumer, check_cursor
from reflex_aio.sql.leases.store import check_fence, lost_leases
from reflex_aio.tasks import shielded

if TYPE_CHECKING:
    from reflex_aio.sql.cursors.table import CursorsTable

__all__ = ["WriteBehindCursorStore"]

logger = logging.getLogger(__name__)

# The share of flush_timeout that one statement may wait for another transaction: a flush may take several.
_LOCK_SHARE = 0.25


class _Mark(CursorMark):
    """A mark that is looked at.

    :ivar taken: the cursor that was there the last time
    """

    __slots__ = ("fence", "name", "taken")

    def __init__(self, name: str, fence: Lease | None) -> None:
        super().__init__()
        self.name = name
        self.fence = fence
        self.taken = self.cursor


class WriteBehindCursorStore(TableCursorStore):
    """Keeps the latest cursors in memory while it is entered, and stores them every ``flush_every`` seconds.

    One task stores the cursors of all consumers in one statement. If that fails it tries again, and nothing
    is lost. A cursor that turns out to be behind the stored one, or whose lease is lost, is given up: the next
    ``set`` of that consumer, or the next ``flush`` or leaving, raises its
    :class:`~reflex_aio.errors.CursorConflict` or :class:`~reflex_aio.errors.LeaseLost`, once.

    It may be entered several times at once, and each leaving flushes. What can't be stored within
    ``flush_timeout`` stays in memory, and is stored when the store is entered again. While the store isn't
    entered, each cursor is stored at once.

    :param flush_every: how often to store the cursors, in seconds
    :param flush_timeout: how long storing them may take, and how long those who wait for it do, in seconds
    """

    # A cursor in memory is not part of any transaction.
    has_transactions = False

    def __init__(
        self, table: "CursorsTable", pool: Any, *, flush_every: float, flush_timeout: float = 5.0
    ) -> None:
        super().__init__(table, pool)
        for what, seconds in (("flush_every", flush_every), ("flush_timeout", flush_timeout)):
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                told = f"{what} {seconds!r} is a {type(seconds).__name__}"
                raise TypeError(f"{told}: accepted is a number of seconds above 0")
            if not 0 < seconds < math.inf:
                raise ValueError(f"{what} {seconds} is out of range: accepted is a number of seconds above 0")
        self._flusher = Flusher(
            self._write, what=f"cursors in {table.name}", every=flush_every, timeout=flush_timeout
        )
        self._lock_timeout = flush_timeout * _LOCK_SHARE
        self._entered = 0
        self._leaving = 0
        # What was set and isn't known to be stored.
        self._cursors: dict[str, str] = {}
        # The leases of those that were set under one.
        self._fences: dict[str, Lease] = {}
        self._refusals: dict[str, CursorConflict | InvalidCursor | LeaseLost] = {}
        # Of those who don't set each cursor.
        self._marks: set[_Mark] = set()
        # Held by whoever writes: a flush under way could undo a rewind.
        self._writing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._entered += 1
        self._flusher.start()
        if self._cursors:
            self._flusher.changed()
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
                await self._flusher.stop()
                self._log_refusals()

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, stored or not, or ``""`` if it has none."""
        self._look()
        cursor = self._cursors.get(name)
        return await super().get(name) if cursor is None else cursor

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``, in memory.

        With ``expected`` it is stored at once, after the one in memory.

        :param expected: move it only if it is there, ``""`` being nowhere
        :raises CursorConflict: if it would move backwards, if it isn't where it is expected, or if the one
            set before turned out to be behind the stored one
        :raises InvalidCursor: if ``cursor`` or ``expected`` isn't of the table's type
        """
        if fence is not None:
            check_fence(fence)
        if expected is not None or not self._entered:
            await self._set_now(name, cursor, expected, fence)
        else:
            self._keep(name, check_cursor(cursor, self._table.cursor_type), fence)

    def _keep(self, name: str, cursor: str, fence: Lease | None) -> None:
        if name in self._refusals:
            raise self._refusals.pop(name)
        before = self._cursors.get(name)
        if before is None:
            check_consumer(name)
        elif is_behind(cursor, before):
            raise CursorConflict(consumer=name, stored=before, given=cursor)
        self._cursors[name] = cursor
        if fence is not None:
            self._fences[name] = fence
        elif name in self._fences:
            del self._fences[name]
        self._flusher.changed()

    @contextmanager
    def mark(self, name: str, *, fence: Lease | None = None) -> Iterator[CursorMark | None]:
        """Be in a context that yields a mark. See :class:`~reflex_aio.cursor.CursorStore`.

        It is looked at whenever cursors are stored or asked for. If the store isn't entered, there is none.
        """
        check_consumer(name)
        if fence is not None:
            check_fence(fence)
        if not self._entered:
            yield None
            return
        mark = _Mark(name, fence)
        self._marks.add(mark)
        self._flusher.changed()
        try:
            yield mark
        finally:
            self._look_at(mark)
            self._marks.discard(mark)

    def _look(self) -> None:
        for mark in self._marks:
            self._look_at(mark)

    def _look_at(self, mark: _Mark) -> None:
        cursor = mark.cursor
        if cursor is mark.taken or mark.refused:
            return
        mark.taken = cursor
        try:
            self._keep(mark.name, check_cursor(cursor, self._table.cursor_type), mark.fence)
        except (CursorConflict, InvalidCursor, LeaseLost) as exc:
            self._refuse(mark.name, exc)

    def _refuse(self, name: str, refusal: CursorConflict | InvalidCursor | LeaseLost) -> None:
        """Keep a refusal for the consumer to hear of."""
        self._refusals[name] = refusal
        for mark in self._marks:
            if mark.name == name:
                mark.refused = True

    async def _set_now(self, name: str, cursor: str, expected: str | None, fence: Lease | None) -> None:
        async with self._writing:
            self._look()
            if name in self._refusals:
                raise self._refusals.pop(name)
            if (before := self._cursors.get(name)) is not None:
                try:
                    await super().set(name, before, fence=self._fences.get(name))
                except (CursorConflict, LeaseLost):
                    self._forget(name, before)
                    raise
                self._forget(name, before)
            await super().set(name, cursor, expected=expected, fence=fence)

    async def rewind(self, name: str, cursor: str) -> None:
        """Set the cursor of the consumer ``name`` to any place, at once, and forget the one in memory.

        See :meth:`TableCursorStore.rewind`.
        """
        async with self._writing:
            self._look()
            before = self._cursors.get(name)
            await super().rewind(name, cursor)
            self._refusals.pop(name, None)
            self._forget(name, before)

    async def flush(self) -> None:
        """Return once every cursor that was set is stored for good.

        :raises CursorConflict: if one is behind the stored one
        :raises ConnectionLost: if the database can't be reached for ``flush_timeout``; the cursors are kept
        :raises DatabaseError: if it refuses them for as long; the cursors are kept
        :raises SchemaError: if the table isn't as expected; the cursors are kept
        """
        if self._entered or self._leaving:
            self._look()
            if self._cursors:
                await self._flusher.flush()
            for name in self._refusals:
                raise self._refusals.pop(name)
        else:
            async with self:
                pass  # Leaving flushes.

    async def all(self) -> dict[str, str]:
        """Return the stored cursors by consumer, without those in memory: what is after a crash."""
        return await super().all()

    async def _write(self) -> None:
        """Store all cursors."""
        async with self._writing:
            self._look()
            if self._marks:
                # Nobody tells when they change: look again.
                self._flusher.changed()
            cursors = dict(self._cursors)
            try:
                await self._store(cursors)
            except DatabaseError:
                if len(cursors) == 1:
                    raise
                await self._store_each(cursors)

    async def _store_each(self, cursors: dict[str, str]) -> None:
        # One cursor that the database refuses holds back none of the others.
        failure: DatabaseError | None = None
        for name, cursor in cursors.items():
            try:
                await self._store({name: cursor})
            except DatabaseError as exc:
                failure = exc
        if failure is not None:
            raise failure

    async def _store(self, cursors: dict[str, str]) -> None:
        if not cursors:
            return
        fences = {name: self._fences[name] for name in cursors if name in self._fences}
        async with self._connection() as connection:
            refusals = await self._set_many(connection, cursors, fences)
        for name, cursor in cursors.items():
            if name in refusals:
                self._refuse(name, refusals[name])
                # A later one too: its consumer is to hear of the refusal first.
                self._forget(name, self._cursors.get(name))
            else:
                self._forget(name, cursor)

    async def _set_many(
        self, connection: Any, cursors: Mapping[str, str], fences: Mapping[str, Lease]
    ) -> Mapping[str, CursorConflict | LeaseLost]:
        """Store the cursors but for those that are refused, and return why these are."""
        # A statement that we give up waiting for would wait on in the database.
        timeout = self._lock_timeout
        if not fences:
            return await self._table.set_many(connection, cursors, lock_timeout=timeout)
        async with self._driver.transaction(connection):
            lost = await lost_leases(self._driver, connection, set(fences.values()))
            refusals = {name: lost[fence] for name, fence in fences.items() if fence in lost}
            held = {name: cursor for name, cursor in cursors.items() if name not in refusals}
            return {**refusals, **await self._table.set_many(connection, held, lock_timeout=timeout)}

    def _forget(self, name: str, cursor: str | None) -> None:
        """Drop a cursor that was dealt with, unless a later one has been set."""
        if cursor is not None and self._cursors.get(name) == cursor:
            del self._cursors[name]
            self._fences.pop(name, None)

    def _log_refusals(self) -> None:
        """Log the refusals of those who have left without hearing of them."""
        for refusal in self._refusals.values():
            logger.error("%s", refusal)
        self._refusals.clear()
