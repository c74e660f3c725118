"""A background task that writes what has changed in memory, at an interval, until it succeeds."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from reflex_aio.backoff import Backoff
from reflex_aio.errors import ConnectionLost, DatabaseError, ReflexError, SchemaError
from reflex_aio.tasks import Tasks

__all__ = ["FlushTask"]

logger = logging.getLogger(__name__)

_BACKOFF = Backoff(initial=0.1, maximum=5.0)

# Resolved with the error if retrying does not help.
_Waiter = asyncio.Future[SchemaError | None]


class FlushTask:
    """Calls ``write`` some time after a change, and repeats it with a backoff until it succeeds.

    :param write: writes everything that has changed
    :param subject: what is written, for log and error messages
    :param interval: how long a change may wait, in seconds
    :param timeout: how long ``write`` may take, and how long :meth:`flush` waits, in seconds
    """

    def __init__(
        self, write: Callable[[], Awaitable[None]], *, subject: str, interval: float, timeout: float
    ) -> None:
        self._write = write
        self._subject = subject
        self._interval = interval
        self._timeout = timeout
        self._tasks = Tasks()
        self._task: asyncio.Task[None] | None = None
        self._waiters: set[_Waiter] = set()
        self._last_error: Exception | None = None
        # Set while there is something to write.
        self._changed = asyncio.Event()
        # Set when it is to be written at once.
        self._due = asyncio.Event()

    def mark_changed(self) -> None:
        """Note that there is something to write. This is called for every event, and must stay cheap."""
        self._changed.set()

    def start(self) -> None:
        """Start the task unless it is running."""
        # When its loop ends, asyncio cancels this task together with others, which may still have something to write.
        if self._task is None or self._task.done() or self._task.cancelling():
            self._last_error = None
            self._task = self._tasks.start(self._run(), name=f"flush {self._subject}")

    async def stop(self) -> None:
        """Stop the task, without writing pending changes."""
        # Another task may be started before this one has ended.
        tasks, self._tasks, self._task = self._tasks, Tasks(), None
        await tasks.aclose()

    async def flush(self) -> None:
        """Wait until everything that has changed is written, and write it at once.

        :raises ConnectionLost: if the database cannot be reached within the timeout
        :raises DatabaseError: if it reports failures until the timeout
        :raises SchemaError: if the table is not as expected, at once
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
        error = waiter.result() if waiter.done() else self._timeout_error()
        if error is not None:
            raise error

    async def _run(self) -> None:
        delays, pause = _BACKOFF.delays(), self._interval
        while True:
            await self._changed.wait()
            await self._wait_until_due(pause)
            self._changed.clear()
            waiters = set(self._waiters)
            try:
                async with asyncio.timeout(self._timeout):
                    await self._write()
            except Exception as exc:
                pause = next(delays)
                self._handle_error(exc, pause)
            else:
                delays, pause, self._last_error = _BACKOFF.delays(), self._interval, None
                _resolve(waiters, None)

    async def _wait_until_due(self, seconds: float) -> None:
        """Wait until a flush is requested, at most ``seconds``."""
        timer = asyncio.get_running_loop().call_later(seconds, self._due.set)
        try:
            await self._due.wait()
        finally:
            timer.cancel()
        self._due.clear()

    def _handle_error(self, error: Exception, pause: float) -> None:
        if isinstance(error, TimeoutError):
            error = ConnectionLost(f"no answer within {self._timeout:g} s")
        unexpected = not isinstance(error, ReflexError)
        logger.warning(
            "%s: not stored, retrying in %.1f s: %s", self._subject, pause, error, exc_info=unexpected
        )
        self._last_error = error
        self._changed.set()
        if isinstance(error, SchemaError):
            _resolve(self._waiters, error)

    def _timeout_error(self) -> Exception:
        reason = f"{self._subject}: not stored within {self._timeout:g} s: {self._last_error or 'no answer'}"
        lost = self._last_error is None or isinstance(self._last_error, ConnectionLost)
        error = ConnectionLost(reason) if lost else DatabaseError(reason)
        error.__cause__ = self._last_error
        return error


def _resolve(waiters: set[_Waiter], error: SchemaError | None) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(error)
