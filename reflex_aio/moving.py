"""The cursor of a consumer that is running."""

from collections.abc import Awaitable

import anyio

from reflex_aio.cursor import CursorStore

__all__ = ["MovingCursor"]

# How often the cursor moves over events that need no work, in seconds.
_PERIOD = 1.0


class MovingCursor:
    """A consumer's cursor that any number of tasks move forward; where the store is slow, the latest wins.

    It moves over events passed over too, but for these at most once in a period.

    :param store: where it is kept
    :param name: the consumer
    """

    def __init__(self, store: CursorStore, name: str) -> None:
        self._store = store
        self._name = name
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
            # Two sets at once could reach the store in the wrong order.
            if self._moved is None:
                self._moved = anyio.Event()
            await self._moved.wait()
        wanted = self._wanted
        if not wanted:
            return
        self._moving = True
        try:
            await self._store.set(self._name, wanted)
            self.stored = wanted
            # Unless more was asked for meanwhile.
            if self._wanted is wanted:
                self._wanted = ""
        except Exception:
            # It ends the run: to try once more in the end would only tell twice what is wrong.
            self._wanted = ""
            raise
        finally:
            self._moving = False
            if self._moved is not None:
                self._moved.set()
                self._moved = None
