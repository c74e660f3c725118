"""Waiting for a while, or until new events are told of."""

import asyncio

__all__ = ["TimedEvent", "wakes_within"]

# A wake-up shortens the wait, but no more than to this, in seconds.
_AT_LEAST = 0.003


class TimedEvent:
    """An event that is waited for until a certain time, by one task.

    What :class:`asyncio.Event` and :func:`asyncio.timeout_at` do together, in fewer steps, as it is on the way from
    each commit to its consumers.
    """

    __slots__ = ("_set", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        """Tell whether it is set."""
        return self._set

    def set(self) -> None:
        """Set it, and wake who waits."""
        self._set = True
        if self._waiter is not None:
            _wake(self._waiter)

    def clear(self) -> None:
        """Unset it."""
        self._set = False

    async def wait(self, until: float) -> bool:
        """Wait until it is set, at most until then, by the event loop's clock; tell whether it was set."""
        if not self._set:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_at(until, _wake, self._waiter)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self._set


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


async def wakes_within(seconds: float, woken: TimedEvent | None) -> bool:
    """Wait, and tell whether ``woken`` was set meanwhile, after a moment in which that doesn't count."""
    if woken is None:
        await asyncio.sleep(seconds)
        return False
    woken.clear()
    await asyncio.sleep(min(seconds, _AT_LEAST))
    return await woken.wait(asyncio.get_running_loop().time() + seconds - _AT_LEAST)
