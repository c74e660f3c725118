"""The cursor store on a table that keeps the latest cursors in memory, and stores them now and then."""

import asyncio
import logging
import math
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reflex_aio.backoff import Backoff
from reflex_aio.errors import ConnectionLost, CursorConflict, DatabaseError, ReflexError, SchemaError
from reflex_aio.sql.cursor_store import TableCursorStore
from reflex_aio.sql.cursor_values import check_consumer, check_cursor, is_behind
from reflex_aio.tasks import Tasks, shielded

if TYPE_CHECKING:
    from reflex_aio.sql.cursors import CursorsTable

__all__ = ["WriteBehindCursorStore"]

logger = logging.getLogger(__name__)

_BACKOFF = Backoff(initial=0.1, maximum=5.0)

# The share of the time for a flush that one statement may wait for others' transactions: it may take several.
_LOCK_SHARE = 0.25

# A flush that somebody waits for, and what went wrong with it for good.
_Waiter = asyncio.Future[SchemaError | None]


class WriteBehindCursorStore(TableCursorStore):
    """Keeps the latest cursors in memory while it is entered, and stores them every ``flush_every`` seconds.

    One task stores the cursors of all consumers in one statement. If that fails it tries again, and nothing
    is lost. A cursor that turns out to be behind the stored one is given up: the next ``set`` of that consumer,
    or the next ``flush`` or leaving, raises its :class:`~reflex_aio.errors.CursorConflict`, once.

    It may be entered several times at once, and each leaving flushes. What can't be stored within
    ``flush_timeout`` stays in memory, and is stored when the store is entered again. While the store isn't
    entered, each cursor is stored at once.

    :param flush_every: how often to store the cursors, in seconds
    :param flush_timeout: how long storing them may take, and how long those who wait for it do, in seconds
    """

    def __init__(
        self, table: "CursorsTable", pool: Any, *, flush_every: float, flush_timeout: float = 5.0
    ) -> None:
        super().__init__(table, pool)
        for what, seconds in (("flush_every", flush_every), ("flush_timeout", flush_timeout)):
            if not 0 < seconds < math.inf:
                raise ValueError(f"{what} {seconds} is out of range: accepted is a number of seconds above 0")
        self._flush_every = flush_every
        self._flush_timeout = flush_timeout
        self._entered = 0
        self._leaving = 0
        self._tasks = Tasks()
        self._flusher: asyncio.Task[None] | None = None
        # What was set and isn't known to be stored.
        self._cursors: dict[str, str] = {}
        self._conflicts: dict[str, CursorConflict] = {}
        self._failure: Exception | None = None
        self._waiters: set[_Waiter] = set()
        # Whether there is something to store, and whether that is to be done now.
        self._changed = asyncio.Event()
        self._due = asyncio.Event()
        # Held by whoever writes: a flush under way could undo a rewind.
        self._writing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._entered += 1
        self._start_flusher()
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
                await self._stop()

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, stored or not, or ``""`` if it has none."""
        cursor = self._cursors.get(name)
        return await super().get(name) if cursor is None else cursor

    async def set(self, name: str, cursor: str, *, expected: str | None = None) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``, in memory.

        With ``expected`` it is stored at once, after the one in memory.

        :param expected: move it only if it is there, ``""`` being nowhere
        :raises CursorConflict: if it would move backwards, if it isn't where it is expected, or if the one
            set before turned out to be behind the stored one
        :raises InvalidCursor: if ``cursor`` or ``expected`` isn't of the table's type
        """
        if expected is not None or not self._entered:
            await self._set_now(name, cursor, expected)
        else:
            self._keep(name, check_cursor(cursor, self._table.cursor_type))

    def _keep(self, name: str, cursor: str) -> None:
        if name in self._conflicts:
            raise self._conflicts.pop(name)
        before = self._cursors.get(name)
        if before is None:
            check_consumer(name)
        elif is_behind(cursor, before):
            raise CursorConflict(consumer=name, stored=before, given=cursor)
        self._cursors[name] = cursor
        self._changed.set()

    async def _set_now(self, name: str, cursor: str, expected: str | None) -> None:
        async with self._writing:
            if name in self._conflicts:
                raise self._conflicts.pop(name)
            if (before := self._cursors.get(name)) is not None:
                try:
                    await super().set(name, before)
                except CursorConflict:
                    self._forget(name, before)
                    raise
                self._forget(name, before)
            await super().set(name, cursor, expected=expected)

    async def rewind(self, name: str, cursor: str) -> None:
        """Set the cursor of the consumer ``name`` to any place, at once, and forget the one in memory.

        See :meth:`TableCursorStore.rewind`.
        """
        async with self._writing:
            before = self._cursors.get(name)
            await super().rewind(name, cursor)
            self._conflicts.pop(name, None)
            self._forget(name, before)

    async def flush(self) -> None:
        """Return once every cursor that was set is stored for good.

        :raises CursorConflict: if one is behind the stored one
        :raises ConnectionLost: if the database can't be reached for ``flush_timeout``; the cursors are kept
        :raises DatabaseError: if it refuses them for as long; the cursors are kept
        :raises SchemaError: if the table isn't as expected; the cursors are kept
        """
        if self._entered or self._leaving:
            if self._cursors:
                await self._flush()
            for name in self._conflicts:
                raise self._conflicts.pop(name)
        else:
            async with self:
                pass  # Leaving flushes.

    async def all(self) -> dict[str, str]:
        """Return the stored cursors by consumer, without those in memory: what is after a crash."""
        return await super().all()

    # The flusher, and those who wait for it.

    def _start_flusher(self) -> None:
        # It may have been cancelled from outside, as asyncio.run does with every task when it ends.
        if self._flusher is None or self._flusher.done() or self._flusher.cancelling():
            self._flusher = self._tasks.start(self._keep_flushing(), name=f"flush {self._table!r}")

    async def _stop(self) -> None:
        for conflict in self._conflicts.values():
            logger.error("%s", conflict)
        self._conflicts.clear()
        # Another one may be started, by entering again, before this one has ended.
        tasks, self._tasks, self._flusher = self._tasks, Tasks(), None
        await tasks.aclose()

    async def _keep_flushing(self) -> None:
        delays, pause = _BACKOFF.delays(), self._flush_every
        while True:
            await self._changed.wait()
            await self._until_due(pause)
            self._changed.clear()
            try:
                async with asyncio.timeout(self._flush_timeout):
                    await self._write()
            except Exception as exc:
                pause = next(delays)
                self._failed(exc, pause)
            else:
                delays, pause, self._failure = _BACKOFF.delays(), self._flush_every, None

    async def _until_due(self, seconds: float) -> None:
        """Wait until somebody asks for a flush, at most so long."""
        timer = asyncio.get_running_loop().call_later(seconds, self._due.set)
        try:
            await self._due.wait()
        finally:
            timer.cancel()
        self._due.clear()

    def _failed(self, error: Exception, pause: float) -> None:
        if isinstance(error, TimeoutError):
            error = ConnectionLost(f"{self._table.name}: no answer within {self._flush_timeout:g} s")
        unforeseen = not isinstance(error, ReflexError)
        logger.warning("cursors not stored, trying again in %.1f s: %s", pause, error, exc_info=unforeseen)
        self._failure = error
        self._changed.set()
        if isinstance(error, SchemaError):
            self._answer(self._waiters, error)

    async def _write(self) -> None:
        """Store all cursors, and answer those who asked for that before it began."""
        async with self._writing:
            waiters, cursors = set(self._waiters), dict(self._cursors)
            try:
                await self._store(cursors)
            except DatabaseError:
                if len(cursors) == 1:
                    raise
                await self._store_each(cursors)
            self._answer(waiters, None)

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
        async with self._connection() as connection:
            # A statement that we give up waiting for would wait on in the database.
            conflicts = await self._table.set_many(
                connection, cursors, lock_timeout=self._flush_timeout * _LOCK_SHARE
            )
        for name, cursor in cursors.items():
            if name in conflicts:
                self._conflicts[name] = conflicts[name]
                # A later one too: its consumer is to hear of the conflict first.
                self._cursors.pop(name, None)
            else:
                self._forget(name, cursor)

    def _forget(self, name: str, cursor: str | None) -> None:
        """Drop a cursor that was dealt with, unless a later one has been set."""
        if cursor is not None and self._cursors.get(name) == cursor:
            del self._cursors[name]

    def _answer(self, waiters: Iterable[_Waiter], result: SchemaError | None) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(result)

    async def _flush(self) -> None:
        """Have what is in memory now stored, and wait for that, within bounds."""
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        self._changed.set()
        self._due.set()
        self._start_flusher()
        try:
            await asyncio.wait([waiter], timeout=self._flush_timeout)
        finally:
            self._waiters.discard(waiter)
        failure = waiter.result() if waiter.done() else self._too_late()
        if failure is not None:
            raise failure

    def _too_late(self) -> Exception:
        reason = f"{self._table.name}: cursors could not be stored within {self._flush_timeout:g} s"
        if self._failure is None or isinstance(self._failure, ConnectionLost):
            error: Exception = ConnectionLost(f"{reason}: {self._failure or 'no answer'}")
        else:
            error = DatabaseError(f"{reason}: {self._failure}")
        error.__cause__ = self._failure
        return error
