"""The protocol of notifiers, the notifier within one event loop, and the event that streams wait for."""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol, runtime_checkable

__all__ = ["CHANNEL", "LocalNotifier", "Notifier", "TimedEvent", "payload_of", "wait_for_wakeup"]

logger = logging.getLogger(__name__)

CHANNEL = "reflex_aio"
"""The NOTIFY channel, the same for all tables of a database."""

# Longer payloads are hashed, also by the trigger's function. PostgreSQL refuses payloads of 8,000 bytes and more.
_LONGEST_PAYLOAD = 200
# The least wait of wait_for_wakeup, in seconds.
_SHORTEST_WAIT = 0.003


@runtime_checkable
class Notifier(Protocol):
    """Notifies streams that a table may have new events.

    Implement it to wake streams by other means, such as a message broker, and pass it to
    ``EventsTable(..., notifier=)``. Tables are named ``schema.table``. Both methods are called in the event loop.
    Streams also poll: a lost notification costs time, but no event.
    """

    def notify(self, table: str) -> None:
        """Notify the subscribers that ``table`` may have new events. Must not block or raise. Any call is harmless."""
        ...

    def subscribe(self, table: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` on each notification for ``table`` from now on, also those of other processes.

        ``wake`` must be called in the caller's event loop; it does not block.

        :return: a function that ends the subscription. Further calls of it have no effect
        """
        ...


class LocalNotifier:
    """A notifier within one event loop, for a service that is alone with its database, and for tests.

    Streams in other processes find the events by polling.
    """

    def __init__(self) -> None:
        self.subscribers: dict[str, dict[object, Callable[[], None]]] = {}
        """The functions to call, by table. Change them with :meth:`subscribe` only."""

    def notify(self, table: str) -> None:
        """Wake the subscribers of ``table`` before returning."""
        for wake in tuple(self.subscribers.get(table, {}).values()):
            try:
                wake()
            except Exception:
                # The writer must not fail because of a subscriber, and the other subscribers must be woken.
                logger.exception("a subscriber of %s raised an error in its wake function", table)

    def notify_all(self) -> None:
        """Wake all subscribers, as notifications may have been lost."""
        for table in tuple(self.subscribers):
            self.notify(table)

    def subscribe(self, table: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` on each notification for ``table`` from now on; return a function to end this."""
        key = object()
        self.subscribers.setdefault(table, {})[key] = wake

        def unsubscribe() -> None:
            wakes = self.subscribers.get(table, {})
            wakes.pop(key, None)
            if not wakes:
                self.subscribers.pop(table, None)

        return unsubscribe


class TimedEvent:
    """An event that one task waits for, until a deadline.

    It combines :class:`asyncio.Event` and :func:`asyncio.timeout_at` in fewer steps, as it is on the way of every
    commit to its consumers.
    """

    __slots__ = ("_waiter", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        """True if the event is set. Assign ``False`` to clear it."""
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Set the event and wake the waiting task."""
        self.is_set = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self, until: float) -> bool:
        """Wait for the event, at most until the time ``until`` of the event loop's clock; return whether it is set."""
        if not self.is_set:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_at(until, _expire, self._waiter)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return self.is_set


def _expire(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


async def wait_for_wakeup(seconds: float, woken: TimedEvent | None) -> bool:
    """Clear ``woken`` and wait for it, for ``seconds`` at most; return whether it was set.

    A wake-up does not end the first few milliseconds of the wait, so that many of them cause no busy loop.
    """
    if woken is None:
        await asyncio.sleep(seconds)
        return False
    woken.is_set = False
    await asyncio.sleep(min(seconds, _SHORTEST_WAIT))
    return await woken.wait(asyncio.get_running_loop().time() + seconds - _SHORTEST_WAIT)


@lru_cache(maxsize=256)
def payload_of(table: str) -> str:
    """Return the payload on :data:`CHANNEL` for ``schema.table``: the name itself, or the hash of a long name."""
    encoded = table.encode()
    if len(encoded) <= _LONGEST_PAYLOAD:
        return table
    return "md5:" + hashlib.md5(encoded, usedforsecurity=False).hexdigest()
