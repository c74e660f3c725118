"""The cursor of a consumer that is running."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from reflex_aio.cursor import CursorStore
from reflex_aio.lease import Lease

__all__ = ["MovingCursor"]

# How often the cursor moves over events that need no work, in seconds.
_PERIOD = 1.0


class MovingCursor:
    """A consumer's cursor that any number of tasks move forward; where the store is slow, the latest wins.

    It moves over events passed over too, but for these at most once in a period.

    :param store: where it is kept
    :param name: the consumer
    :param expected: where it stands, to move it from there alone; ``None`` to move it from wherever it is
    :param fence: the lease without which it can't be moved; ``None`` if it is moved without one
    """

    def __init__(
        self, store: CursorStore, name: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        self._store = store
        self._name = name
        self._expected = expected
        self._fence = fence
        # Where it has to move to; "" if it is there.
        self._wanted = ""
        self._moving = False
        self._moved: anyio.Event | None = None
        self.stored: str = ""
        """Where it has been moved to; ``""`` if it hasn't been yet."""

    def set(self, cursor: str) -> Awaitable[None]:
        """Move to ``cursor``, or beyond if that is asked for meanwhile."""
        # Not a coroutine function: at a million events a second, a further frame is what costs most.
        self._wanted = cursor
        return self.move()

    def pass_over(self, cursor: str) -> None:
        """Move to ``cursor`` before long: see :meth:`keep_moving`."""
        self._wanted = cursor

    async def keep_moving(self) -> None:
        """Move over what is passed over once in a period, without end."""
        while True:
            await anyio.sleep(_PERIOD)
            await self.move()

    async def move(self) -> None:
        """Move to where it has to be, unless it is there. After a cancellation the next call does it."""
        while self._moving:
            await self._others()
        wanted = self._wanted
        if not wanted:
            return
        self._moving = True
        try:
            await self._store.set(self._name, wanted, expected=self._expected, fence=self._fence)
            if self._expected is not None:
                self._expected = wanted
            self.stored = wanted
            # Unless more was asked for meanwhile.
            if self._wanted is wanted:
                self._wanted = ""
        except Exception:
            # It ends the run: to try once more in the end would only tell twice what is wrong.
            self._wanted = ""
            raise
        finally:
            self._let_others()

    @asynccontextmanager
    async def moving(self, cursor: str) -> AsyncIterator[Any]:
        """Be in a transaction of the store that moves to ``cursor``, and yields its connection.

        :raises TypeError: if the store has no transactions, or it isn't known where the cursor stands
        """
        if not self._store.has_transactions or self._expected is None:
            raise TypeError(
                f"{self._name}: {self._store!r} can't move its cursor in a transaction:"
                " accepted is a store as of cursors.store(pool)"
            )
        while self._moving:
            await self._others()
        self._moving = True
        undone = False
        try:
            async with self._store.transaction(
                self._name, cursor, expected=self._expected, fence=self._fence
            ) as connection:
                try:
                    yield connection
                except BaseException:
                    undone = True
                    raise
            self._expected = self.stored = cursor
            # All that was passed over lies before it.
            self._wanted = ""
        except Exception:
            if not undone:
                # The cursor isn't where it was believed to be, or nobody knows whether it was moved.
                self._wanted = ""
            raise
        finally:
            self._let_others()

    async def _others(self) -> None:
        """Wait for another task that moves: two sets at once could reach the store in the wrong order."""
        if self._moved is None:
            self._moved = anyio.Event()
        await self._moved.wait()

    def _let_others(self) -> None:
        self._moving = False
        if self._moved is not None:
            self._moved.set()
            self._moved = None
