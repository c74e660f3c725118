"""Writes the cursor of a running consumer to its cursor store."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from reflex_aio.cursor import CursorStore
from reflex_aio.lease import Lease

__all__ = ["CursorWriter"]

# How often the cursor is written after skipped events, in seconds.
_PERIOD = 1.0


class CursorWriter:
    """Commits a consumer's cursor, which any number of tasks may advance. If the store is slow, the latest cursor wins.

    After skipped events, the cursor is written at most once per period.

    :param store: the cursor store
    :param name: the consumer
    :param expected: the stored cursor, if it may only be moved from there; ``None`` to move it from anywhere
    :param fence: the lease that must be held to move it; ``None`` for no lease
    """

    def __init__(
        self, store: CursorStore, name: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        self._store = store
        self._name = name
        self._expected = expected
        self._fence = fence
        # The cursor to be written; "" if it is stored.
        self._pending = ""
        self._written: anyio.Event | None = None
        self.writing: bool = False
        """True while a cursor is being written."""
        self.failed: bool = False
        """True if a cursor was not written, because of an error."""
        self.stored: str = ""
        """The last cursor that was written; ``""`` before the first."""

    @property
    def reached(self) -> str:
        """The last cursor that was set or skipped to, stored or not; ``""`` before the first."""
        return self._pending or self.stored

    def set(self, cursor: str) -> Awaitable[None]:
        """Write ``cursor``, or a later one that is set while another task writes."""
        # Not a coroutine function: at a million events a second, another frame would dominate the cost.
        self._pending = cursor
        return self.write()

    def skip(self, cursor: str) -> None:
        """Let :meth:`keep_writing` write ``cursor``."""
        self._pending = cursor

    async def keep_writing(self) -> None:
        """Write the cursor after skipped events once per period, without end."""
        while True:
            await anyio.sleep(_PERIOD)
            await self.write()

    async def write(self) -> None:
        """Write the pending cursor, if there is one. After a cancellation, the next call writes it."""
        while self.writing:
            await self._wait_for_write()
        pending = self._pending
        if not pending:
            return
        self.writing = True
        try:
            await self._store.set(self._name, pending, expected=self._expected, fence=self._fence)
            if self._expected is not None:
                self._expected = pending
            self.stored = pending
            # Keep a later cursor that was set while this one was written.
            if self._pending is pending:
                self._pending = ""
        except Exception:
            # The error ends the run. A second try at its end would only report the same error twice.
            self._pending, self.failed = "", True
            raise
        finally:
            self._end_write()

    @asynccontextmanager
    async def transaction(self, cursor: str) -> AsyncIterator[Any]:
        """Commit ``cursor`` in a transaction of the store; the context yields its connection.

        The store must have transactions, and the stored cursor must be known.
        """
        assert self._expected is not None
        while self.writing:
            await self._wait_for_write()
        self.writing = True
        rolled_back = False
        try:
            async with self._store.transaction(
                self._name, cursor, expected=self._expected, fence=self._fence
            ) as connection:
                try:
                    yield connection
                except BaseException:
                    rolled_back = True
                    raise
            self._expected = self.stored = cursor
            # Events skipped so far lie before this cursor.
            self._pending = ""
        except Exception:
            if not rolled_back:
                # The stored cursor is not the expected one, or it is unknown whether the transaction was committed.
                self._pending = ""
            raise
        finally:
            self._end_write()

    async def _wait_for_write(self) -> None:
        """Wait until another task has written: two concurrent writes could reach the store in the wrong order."""
        if self._written is None:
            self._written = anyio.Event()
        await self._written.wait()

    def _end_write(self) -> None:
        self.writing = False
        if self._written is not None:
            self._written.set()
            self._written = None
