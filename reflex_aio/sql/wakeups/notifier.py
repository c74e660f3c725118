"""How streams learn of new events: the protocol, and the notifier that stays within the process."""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol, runtime_checkable

__all__ = ["CHANNEL", "LocalNotifier", "Notifier", "TimedEvent", "payload_of", "wakes_within"]

logger = logging.getLogger(__name__)

CHANNEL = "reflex_aio"
"""The one channel of NOTIFY for all tables of a database."""

# Longer ones are hashed, in the trigger's DDL too. PostgreSQL refuses payloads of 8,000 bytes and more.
_PAYLOAD_MAX = 200


@runtime_checkable
class Notifier(Protocol):
    """Tells streams that a table may have new events.

    Implement it to wake streams by means of your own, such as a message broker, and give it to
    ``EventsTable(..., notifier=)``. Tables are named ``schema.table``. Both methods are called from the event
    loop. Streams poll as well: a notification that is lost costs time, but no event.
    """

    def notify(self, table: str) -> None:
        """Tell that there may be new events in ``table``. Must not block or raise; any call is harmless."""
        ...

    def subscribe(self, table: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` on each notification for ``table`` from now on, of other processes too.

        ``wake`` is called in the event loop of the caller; it doesn't block.

        :return: the function that ends the subscription; calling it again does nothing
        """
        ...


class LocalNotifier:
    """Wakes the streams of one event loop when events are inserted in that loop.

    For a service that is alone with its database, and for tests. Other processes find the events by polling.
    """

    def __init__(self) -> None:
        self._wakes: dict[str, dict[object, Callable[[], None]]] = {}

    @property
    def subscribed(self) -> bool:
        """Whether there is any subscription."""
        return bool(self._wakes)

    def wakes(self, table: str) -> bool:
        """Tell whether anybody has subscribed to ``table``."""
        return table in self._wakes

    def notify(self, table: str) -> None:
        """Wake the subscribers of ``table``, before this returns."""
        for wake in tuple(self._wakes.get(table, {}).values()):
            try:
                wake()
            except Exception:
                # The writer is not to blame, and the other subscribers are to be woken.
                logger.exception("a subscriber of %s failed to wake", table)

    def notify_all(self) -> None:
        """Wake every subscriber: anything may have happened."""
        for table in tuple(self._wakes):
            self.notify(table)

    def subscribe(self, table: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` on each notification for ``table`` from now on; return what ends the subscription."""
        key = object()
        self._wakes.setdefault(table, {})[key] = wake

        def unsubscribe() -> None:
            wakes = self._wakes.get(table, {})
            wakes.pop(key, None)
            if not wakes:
                self._wakes.pop(table, None)

        return unsubscribe


@lru_cache(maxsize=256)
def payload_of(table: str) -> str:
    """Return what is sent on :data:`CHANNEL` for ``schema.table``: the name itself, or its hash if long."""
    encoded = table.encode()
    if len(encoded) <= _PAYLOAD_MAX:
        return table
    return "md5:" + hashlib.md5(encoded, usedforsecurity=False).hexdigest()


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
