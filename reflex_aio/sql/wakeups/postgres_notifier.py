"""The notifier of PostgreSQL: it wakes the streams of this process directly, and those of others by NOTIFY.

An event loop has one notifier for each server, database and user. It starts with the first insert or stream, on a
connection of its own, and stops when it was idle for a while, or when the loop ends.
"""

import asyncio
import contextvars
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self
from weakref import WeakKeyDictionary, WeakSet

from reflex_aio.backoff import Backoff
from reflex_aio.hooks import Hooks, installed
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.sql.drivers.base import CannotNotify, Driver, ListenConnection
from reflex_aio.sql.wakeups.notifier import CHANNEL, LocalNotifier, Notifier, TimedEvent, payload_of
from reflex_aio.sql.wakeups.notify_session import NotifierState, NotifierTimeouts, NotifySession
from reflex_aio.tasks import Tasks

__all__ = ["PostgresNotifier", "close_notifiers", "generation", "notifier_of"]

logger = logging.getLogger(__name__)

# The limit for opening a connection, also by the user's own function, in seconds.
_CONNECT_TIMEOUT = 15.0

# The limit for the last notifications when the loop or the notifier ends, in seconds.
_LAST_NOTIFY_TIMEOUT = 1.0

# A notifier that was cancelled restarts after this time if it is still needed, in seconds. A loop that continues gets
# it back. A loop that ends cancels every task once, and a task started immediately would be left behind in it.
_RESTART_DELAY = 1.0


class PostgresNotifier:
    """The notifier of one database: it wakes streams of this process directly, and those of others by NOTIFY.

    Tables create one by themselves, with the parameters of the connections that are passed to them. Create one where
    these do not suffice, such as behind a pooler in transaction mode, or where passwords expire::

        async with PostgresNotifier(lambda: asyncpg.connect(direct_dsn)) as notifier:
            users = EventsTable("users", notifier=notifier)

    While it is entered, it also serves the tables without a ``notifier``, on connections to the same address, database
    and user as its own. The address of a pooler differs from that of the server behind it: pass ``notifier`` then.

    A notifier belongs to one event loop at a time. It only reduces latency: if it fails, streams poll.

    :param connect: an async function without arguments that opens a connection outside any pool
    :param timeouts: its timeouts and intervals
    :param backoff: the delays between attempts to connect; by default up to 5 seconds, as streams poll meanwhile
    :param hooks: receive its metrics; by default those installed for the process
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        *,
        timeouts: NotifierTimeouts | None = None,
        backoff: Backoff | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        self._connect = connect
        self._timeouts = NotifierTimeouts() if timeouts is None else timeouts
        self._backoff = Backoff(maximum=5.0) if backoff is None else backoff
        self._hooks = installed() if hooks is None else hooks
        self._state = NotifierState()
        self._tasks = Tasks()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: asyncio.Task[None] | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._closed = False
        self._reported_refusal = False
        self._key: Hashable = None
        _all.add(self)

    async def __aenter__(self) -> Self:
        """Connect once, to find out which server, database and user this notifier serves.

        :raises Exception: the exceptions of ``connect``
        """
        async with self._connected() as listening:
            driver = driver_of_connection(listening.connection)
            self._key = await _key_of(driver, listening.connection)
        self._closed = False
        _notifiers_of_loop().setdefault(self._key, []).append(self)
        _invalidate()
        return self

    async def __aexit__(self, *_: object) -> None:
        _notifiers_of_loop()[self._key].remove(self)
        _invalidate()
        self._key = None
        await self.aclose()

    def notify(self, table: str) -> None:
        """Wake the streams of ``table``: those of this process before returning, others within milliseconds."""
        payload = payload_of(table)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        self._state.local.notify(payload)
        self._state.request(payload, loop.time())
        if self._running is None:
            self._start()

    def defer(self, table: str, driver: Driver, connection: Any, call: Callable[[], None]) -> bool:
        """Announce an insert on ``connection`` with the next scheduled NOTIFY, if one follows soon.

        :param connection: the underlying connection
        :param call: called after the transaction, if that outlasts the pause before the NOTIFY
        :return: whether it will be announced; if not, the end of the transaction must be observed
        """
        state, loop = self._state, asyncio.get_running_loop()
        now = loop.time()
        # After the pause, if there are deferred inserts, the NOTIFY that checks them is about to be sent.
        paused = now < state.paused_until or (state.paused_until > -math.inf and bool(state.deferred))
        if not paused or loop is not self._loop:
            return False
        payload = payload_of(table)
        if payload in state.local.subscribers:
            # The streams of this process are woken immediately after the commit.
            return False
        state.defer(payload, driver, connection, call, now)
        return True

    def subscribe(self, table: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` on each notification for ``table`` from now on; return a function that ends the subscription.

        Once the connection listens, also after each reconnect, ``wake`` is called in case notifications were missed.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        state = self._state
        unsubscribe_local = state.local.subscribe(payload_of(table), wake)
        state.changed.set()
        self._start()

        def unsubscribe() -> None:
            unsubscribe_local()
            state.unsubscribed_at = loop.time()
            state.changed.set()

        return unsubscribe

    async def aclose(self) -> None:
        """Send the unsent notifications, within a second, and close the connection.

        Subscribers are still woken by notifications from this event loop; other processes find events by polling.
        """
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        await self._tasks.aclose()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to ``loop`` from now on.

        :raises RuntimeError: if the notifier is in use in another loop
        """
        if self._loop is not None and not self._loop.is_closed() and (self._running or self._restart):
            raise RuntimeError("this notifier is in use in another event loop: create one for each loop")
        self._abandon()
        self._loop = loop

    def _start(self) -> None:
        if self._running is None and self._restart is None and not self._closed:
            self._state.changed = TimedEvent()
            # In an empty context: the notifier outlives the request that happens to start it.
            self._running = contextvars.Context().run(
                self._tasks.start, self._run(), name="reflex_aio: notifier"
            )

    def _is_needed(self, now: float) -> bool:
        return self._state.needed_until(self._timeouts.idle) > now

    async def _run(self) -> None:
        """Keep a connection while it is needed."""
        loop = asyncio.get_running_loop()
        delays = self._backoff.delays()
        failing = False
        try:
            while self._is_needed(loop.time()):
                session: NotifySession | None = None
                try:
                    async with self._connected() as listening:
                        session = NotifySession(
                            listening,
                            self._state,
                            self._timeouts,
                            notify_separately=self._notify_separately,
                            hooks=self._hooks,
                        )
                        failing = False
                        await session.run()
                except CannotNotify as error:
                    failing = True
                    await self._wait_for_promotion(error)
                except Exception as error:
                    if not (self._state.unsent or self._state.deferred or self._state.local.subscribers):
                        # Harmless: a server may stop as soon as its last client has nothing left to do.
                        logger.debug("an idle connection of the notifier has ended: %s", error)
                        return
                    failing = True
                    if session is not None and session.worked:
                        delays = self._backoff.delays()
                    await self._wait_to_reconnect(error, next(delays))
        except asyncio.CancelledError:
            if (self._state.unsent or self._state.deferred) and not failing:
                await self._send_last()
            if not self._closed and self._is_needed(loop.time()):
                self._restart = loop.call_later(_RESTART_DELAY, self._restarted)
            raise
        finally:
            self._state.discard()
            self._running = None

    def _restarted(self) -> None:
        self._restart = None
        self._start()

    async def _wait_to_reconnect(self, error: Exception, delay: float) -> None:
        if self._state.unsent or self._state.deferred:
            self._hooks.notify_failed(error)
        if self._state.local.subscribers:
            self._hooks.listener_lost(error, delay)
        reason = str(error) or type(error).__name__
        logger.warning("the notifier has no connection, retrying in %.1f s: %s", delay, reason)
        await asyncio.sleep(delay)

    async def _wait_for_promotion(self, error: CannotNotify) -> None:
        self._state.discard()
        if not self._reported_refusal:
            self._reported_refusal = True
            logger.warning("this server has no notifications, so streams poll: %s", error)
        # A standby may be promoted.
        await asyncio.sleep(self._timeouts.silent)

    async def _send_last(self) -> None:
        with suppress(Exception):
            async with asyncio.timeout(_LAST_NOTIFY_TIMEOUT), self._connected() as listening:
                await listening.notify(CHANNEL, sorted(self._state.take()), timeout=_LAST_NOTIFY_TIMEOUT)

    async def _notify_separately(self, payload: str) -> None:
        async with asyncio.timeout(self._timeouts.answer), self._connected() as listening:
            await listening.notify(CHANNEL, [payload], timeout=self._timeouts.answer)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[ListenConnection]:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            connection = await self._connect()
            listening = await driver_of_connection(connection).listen_connection(connection)
        try:
            yield listening
        finally:
            await listening.close()

    def _abandon(self) -> None:
        """Abandon the objects of an event loop that has ended, or of the process that this one was forked from."""
        if self._running is not None:
            # Kept alive on purpose: finalizing the parent's connection here would disturb the parent.
            _abandoned.append((self._tasks, self._running))
        self._tasks = Tasks()
        self._loop = self._running = self._restart = None
        self._state = NotifierState()


async def notifier_of(driver: Driver, connection: Any) -> Notifier:
    """Return this event loop's notifier for the server, database and user of ``connection``.

    It is a :class:`LocalNotifier` if the database has no notifications. This takes no round trip, except for the first
    call with a connection.
    """
    key = await _key_of(driver, connection)
    if not driver.can_listen:
        local_notifiers = _local_notifiers.setdefault(asyncio.get_running_loop(), {})
        if key not in local_notifiers:
            local_notifiers[key] = LocalNotifier()
        return local_notifiers[key]
    notifiers = _notifiers_of_loop().setdefault(key, [])
    if not notifiers:
        connect = await driver.connector(connection)
        # Another task may have created one meanwhile.
        if not notifiers:
            notifiers.append(PostgresNotifier(connect))
    return notifiers[-1]


async def close_notifiers() -> None:
    """Close the notifiers of this event loop that tables created by themselves. New ones are created when needed."""
    for notifiers in tuple(_notifiers_of_loop().values()):
        for notifier in tuple(notifiers):
            if notifier._key is None:
                notifiers.remove(notifier)
                _invalidate()
                await notifier.aclose()


async def _key_of(driver: Driver, connection: Any) -> Hashable:
    return driver.name, await driver.server(connection)


def _notifiers_of_loop() -> dict[Hashable, list[PostgresNotifier]]:
    """Return the running loop's notifiers by server, database and user. Of several, the last one is used."""
    loop = asyncio.get_running_loop()
    notifiers = _notifiers.get(loop)
    if notifiers is None:
        for other in tuple(_notifiers):
            if other.is_closed():
                # A notifier refers to its loop, which would keep both in the mapping.
                _notifiers.pop(other, None)
        notifiers = _notifiers[loop] = {}
    return notifiers


def _invalidate() -> None:
    global generation  # noqa: PLW0603
    generation += 1


def _after_fork() -> None:
    _abandoned.append(dict(_notifiers))
    _notifiers.clear()
    _invalidate()
    for notifier in tuple(_all):
        notifier._abandon()


generation = 0
"""A number that changes whenever :func:`notifier_of` may return another notifier for a connection than before. It is an
attribute rather than a function, as it is read for each insert."""

_notifiers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, list[PostgresNotifier]]] = (
    WeakKeyDictionary()
)
_local_notifiers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, LocalNotifier]] = (
    WeakKeyDictionary()
)
_all: WeakSet[PostgresNotifier] = WeakSet()
_abandoned: list[object] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
