"""The notifier of a database: it wakes the streams of this process, and tells and hears other processes.

An event loop has one notifier per server, database and user. It starts by itself with the first insert or stream,
on a connection of its own, and rests when it has had nothing to do for a while, or when the loop ends.
"""

import asyncio
import contextvars
import logging
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
from reflex_aio.sql.wakeups.notify_session import NotifierTimeouts, NotifySession, Traffic
from reflex_aio.tasks import Tasks

__all__ = ["PostgresNotifier", "close_notifiers", "generation", "notifier_of"]

logger = logging.getLogger(__name__)

# Seconds that opening a connection may take, whoever opens it.
_CONNECT_TIMEOUT = 15.0

# Seconds for the last notifications of a loop or notifier that ends.
_FAREWELL_TIMEOUT = 1.0

# A notifier that was cancelled starts again after so many seconds, if still needed. A loop that lives on gets it
# back; one that ends cancels every task once, and a new task would be left behind in it.
_RESTART_DELAY = 1.0


class PostgresNotifier:
    """The notifier of one database: wakes streams of this process at once, and those of others by NOTIFY.

    Tables use a notifier that makes itself, with the parameters of the connections that they are given. Make one
    where that won't do, as behind a pooler in transaction mode, or where only you can get a fresh password::

        async with PostgresNotifier(lambda: asyncpg.connect(direct_dsn)) as notifier:
            users = EventsTable("users", notifier=notifier)

    While it is entered, it also serves the tables that name no notifier, on connections to the same address,
    database and user as its own. A pooler's address is not that of the server behind it: there, name it.

    A notifier belongs to one event loop at a time. It is for speed alone: whatever happens to it, streams poll.

    :param connect: opens a connection that belongs to no pool: an async function of nothing
    :param timeouts: how long is waited for what
    :param backoff: the delays between tries to connect; by default up to 5 seconds, as streams poll meanwhile
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
        self._traffic = Traffic()
        self._tasks = Tasks()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._restart: asyncio.TimerHandle | None = None
        self._closed = False
        self._refused = False
        self._key: Hashable = None
        _everywhere.add(self)

    async def __aenter__(self) -> Self:
        """Connect once, to find out for whom this is the notifier.

        :raises Exception: what ``connect`` raises
        """
        async with self._connected() as link:
            driver = driver_of_connection(link.connection)
            self._key = await _key_of(driver, link.connection)
        self._closed = False
        _notifiers_here().setdefault(self._key, []).append(self)
        _changed()
        return self

    async def __aexit__(self, *_: object) -> None:
        _notifiers_here()[self._key].remove(self)
        _changed()
        self._key = None
        await self.aclose()

    def notify(self, table: str) -> None:
        """Wake the streams of ``table``, here before this returns, in other processes within milliseconds."""
        payload = payload_of(table)
        loop = self._bind()
        self._traffic.local.notify(payload)
        self._traffic.tell(payload, loop.time())
        self._start()

    def notify_if_committed(
        self, table: str, driver: Driver, connection: Any, call: Callable[[], None]
    ) -> bool:
        """Tell of what was inserted on ``connection`` when the next notification is due, if that is soon enough.

        :param connection: what ``driver.fixed`` returns
        :param call: called after the transaction, should it last
        :return: whether it will be told; if not, the transaction has to be watched
        """
        traffic, loop = self._traffic, asyncio.get_running_loop()
        now = loop.time()
        if not traffic.is_told_later(now) or loop is not self._loop:
            return False
        payload = payload_of(table)
        if traffic.local.wakes(payload):
            # Streams of this process are woken at once.
            return False
        traffic.tell_if_committed(payload, driver, connection, call, now)
        return True

    def subscribe(self, table: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` on each notification for ``table`` from now on; return the function that ends this.

        What happens until the connection listens is made up for by a call then, as after each reconnect.
        """
        loop = self._bind()
        traffic = self._traffic
        leave = traffic.local.subscribe(payload_of(table), wake)
        traffic.changed.set()
        self._start()

        def unsubscribe() -> None:
            leave()
            traffic.left_at = loop.time()
            traffic.changed.set()

        return unsubscribe

    async def aclose(self) -> None:
        """Send what is still to be sent, within a second, and close the connection.

        Subscribers are still woken from within this event loop; other processes find events by polling.
        """
        self._closed = True
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        await self._tasks.aclose()

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, and belong to it from now on.

        :raises RuntimeError: if the notifier is in use in another loop
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed() and (self._keeper or self._restart):
                raise RuntimeError(
                    "this notifier is in use in another event loop: a loop needs a notifier of its own"
                )
            self._forget()
            self._loop = loop
        return loop

    def _start(self) -> None:
        if self._keeper is None and self._restart is None and not self._closed:
            self._traffic.changed = TimedEvent()
            # In an empty context: the notifier outlives the request that happens to start it.
            self._keeper = contextvars.Context().run(
                self._tasks.start, self._keep(), name="reflex_aio notifier"
            )

    def _needed(self, now: float) -> bool:
        return self._traffic.needed_until(self._timeouts.idle) > now

    async def _keep(self) -> None:
        """Have a link as long as it is needed."""
        loop = asyncio.get_running_loop()
        delays = self._backoff.delays()
        failing = False
        try:
            while self._needed(loop.time()):
                exchange: NotifySession | None = None
                try:
                    async with self._connected() as link:
                        exchange = NotifySession(
                            link, self._traffic, self._timeouts, ask=self._tell_elsewhere, hooks=self._hooks
                        )
                        failing = False
                        await exchange.run()
                except CannotNotify as error:
                    failing = True
                    await self._rest_refused(error)
                except Exception as error:
                    if not self._traffic.pending:
                        # Missed by nobody: a server that ends with its last client's work done is no trouble.
                        logger.debug("an idle link has ended: %s", error)
                        return
                    failing = True
                    if exchange is not None and exchange.worked:
                        delays = self._backoff.delays()
                    await self._rest(error, next(delays))
        except asyncio.CancelledError:
            if self._traffic.has_unsent and not failing:
                await self._farewell()
            if not self._closed and self._needed(loop.time()):
                self._restart = loop.call_later(_RESTART_DELAY, self._restarted)
            raise
        finally:
            self._traffic.end()
            self._keeper = None

    def _restarted(self) -> None:
        self._restart = None
        self._start()

    async def _rest(self, error: Exception, delay: float) -> None:
        if self._traffic.has_unsent:
            self._hooks.notify_failed(error)
        if self._traffic.local.subscribed:
            self._hooks.listener_lost(error, delay)
        logger.warning("wake-ups are down, retrying in %.1f s: %s", delay, str(error) or type(error).__name__)
        await asyncio.sleep(delay)

    async def _rest_refused(self, error: CannotNotify) -> None:
        self._traffic.end()
        if not self._refused:
            self._refused = True
            logger.warning("this server can't wake streams, which poll: %s", error)
        # It may be promoted.
        await asyncio.sleep(self._timeouts.silent)

    async def _farewell(self) -> None:
        with suppress(Exception):
            async with asyncio.timeout(_FAREWELL_TIMEOUT), self._connected() as link:
                await link.notify(CHANNEL, sorted(self._traffic.take()), timeout=_FAREWELL_TIMEOUT)

    async def _tell_elsewhere(self, payload: str) -> None:
        async with asyncio.timeout(self._timeouts.answer), self._connected() as link:
            await link.notify(CHANNEL, [payload], timeout=self._timeouts.answer)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[ListenConnection]:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            connection = await self._connect()
            link = await driver_of_connection(connection).listen_connection(connection)
        try:
            yield link
        finally:
            await link.close()

    def _forget(self) -> None:
        """Leave behind what belongs to a loop that ended, or to the process that this one was forked from."""
        if self._keeper is not None:
            # Kept alive on purpose: to finalize the parent's connection here would disturb it there.
            _left_behind.append((self._tasks, self._keeper))
        self._tasks = Tasks()
        self._loop = self._keeper = self._restart = None
        self._traffic = Traffic()


async def notifier_of(driver: Driver, connection: Any) -> Notifier:
    """Return this event loop's notifier for where ``connection`` is connected, and as whom.

    Where the database carries no notifications, the notifier that stays within the process takes its place. Costs no
    round trip but for the first time that a connection is met.
    """
    key = await _key_of(driver, connection)
    if not driver.can_listen:
        locals_here = _locals.setdefault(asyncio.get_running_loop(), {})
        if key not in locals_here:
            locals_here[key] = LocalNotifier()
        return locals_here[key]
    notifiers = _notifiers_here().setdefault(key, [])
    if not notifiers:
        connect = await driver.connector(connection)
        if not notifiers:
            notifiers.append(PostgresNotifier(connect))
    return notifiers[-1]


async def close_notifiers() -> None:
    """Close the notifiers of this event loop, but for those that are entered; new ones are made when needed."""
    for notifiers in tuple(_notifiers_here().values()):
        for notifier in tuple(notifiers):
            if notifier._key is None:
                notifiers.remove(notifier)
                _changed()
                await notifier.aclose()


async def _key_of(driver: Driver, connection: Any) -> Hashable:
    return driver.name, await driver.server(connection)


def _notifiers_here() -> dict[Hashable, list[PostgresNotifier]]:
    """The running loop's notifiers by whom they are for. Of several the last one serves."""
    loop = asyncio.get_running_loop()
    notifiers = _notifiers.get(loop)
    if notifiers is None:
        for other in tuple(_notifiers):
            if other.is_closed():
                # A notifier refers to its loop, which keeps both in the mapping.
                _notifiers.pop(other, None)
        notifiers = _notifiers[loop] = {}
    return notifiers


def generation() -> int:
    """Return a number that changes when :func:`notifier_of` may return something else for a connection than before."""
    return _generation


def _changed() -> None:
    global _generation  # noqa: PLW0603
    _generation += 1


def _forked() -> None:
    _left_behind.append(dict(_notifiers))
    _notifiers.clear()
    _changed()
    for notifier in tuple(_everywhere):
        notifier._forget()


_notifiers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, list[PostgresNotifier]]] = (
    WeakKeyDictionary()
)
_locals: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, LocalNotifier]] = WeakKeyDictionary()
_everywhere: WeakSet[PostgresNotifier] = WeakSet()
_left_behind: list[object] = []
_generation = 0

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
