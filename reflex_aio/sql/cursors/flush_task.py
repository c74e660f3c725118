"""Writing now and then what has changed in memory, in one background task."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from reflex_aio.backoff import Backoff
from reflex_aio.errors import ConnectionLost, DatabaseError, ReflexError, SchemaError
from reflex_aio.tasks import Tasks

__all__ = ["Flusher"]

logger = logging.getLogger(__name__)

_BACKOFF = Backoff(initial=0.1, maximum=5.0)

# One who waits for a flush, and gets what is wrong with it for good.
_Waiter = asyncio.Future[SchemaError | None]


class Flusher:
    """Calls ``write`` some time after each change, and again until it succeeds.

    :param write: writes all that has changed
    :param what: what is written, for messages
    :param every: how long a change may wait, in seconds
    :param timeout: how long ``write`` may take, and how long those who ask for it wait, in seconds
    """

    def __init__(
        self, write: Callable[[], Awaitable[None]], *, what: str, every: float, timeout: float
    ) -> None:
        self._write = write
        self._what = what
        self._every = every
        self._timeout = timeout
        self._tasks = Tasks()
        self._task: asyncio.Task[None] | None = None
        self._waiters: set[_Waiter] = set()
        self._failure: Exception | None = None
        # Whether there is something to write, and whether that is to be done now.
        self._changed = asyncio.Event()
        self._due = asyncio.Event()

    def changed(self) -> None:
        """Tell that there is something to write. Costs next to nothing."""
        self._changed.set()

    def start(self) -> None:
        """Begin to write what has changed; to be called again does no harm."""
        # Asyncio cancels every task when its loop ends, this one too, and others still have something to write.
        if self._task is None or self._task.done() or self._task.cancelling():
            self._failure = None
            self._task = self._tasks.start(self._keep_writing(), name=f"flush {self._what}")

    async def stop(self) -> None:
        """Write no more, not even what has changed already."""
        # Another one may be started before this one has ended.
        tasks, self._tasks, self._task = self._tasks, Tasks(), None
        await tasks.aclose()

    async def flush(self) -> None:
        """Return once all that has changed before is written.

        :raises ConnectionLost: if the database can't be reached in time
        :raises DatabaseError: if it refuses for as long
        :raises SchemaError: if the table isn't as expected, at once
        """
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        self._changed.set()
        self._due.set()
        self.start()
        try:
            await asyncio.wait([waiter], timeout=self._timeout)
        finally:
            self._waiters.discard(waiter)
        failure = waiter.result() if waiter.done() else self._too_late()
        if failure is not None:
            raise failure

    async def _keep_writing(self) -> None:
        delays, pause = _BACKOFF.delays(), self._every
        while True:
            await self._changed.wait()
            await self._until_due(pause)
            self._changed.clear()
            waiters = set(self._waiters)
            try:
                async with asyncio.timeout(self._timeout):
                    await self._write()
            except Exception as exc:
                pause = next(delays)
                self._failed(exc, pause)
            else:
                delays, pause, self._failure = _BACKOFF.delays(), self._every, None
                _answer(waiters, None)

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
            error = ConnectionLost(f"no answer within {self._timeout:g} s")
        unforeseen = not isinstance(error, ReflexError)
        logger.warning(
            "%s: not stored, trying again in %.1f s: %s", self._what, pause, error, exc_info=unforeseen
        )
        self._failure = error
        self._changed.set()
        if isinstance(error, SchemaError):
            _answer(self._waiters, error)

    def _too_late(self) -> Exception:
        reason = f"{self._what}: not stored within {self._timeout:g} s: {self._failure or 'no answer'}"
        lost = self._failure is None or isinstance(self._failure, ConnectionLost)
        error = ConnectionLost(reason) if lost else DatabaseError(reason)
        error.__cause__ = self._failure
        return error


def _answer(waiters: set[_Waiter], failure: SchemaError | None) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(failure)
