"""One connection of a notifier: it sends notifications in batches, listens, and detects when nothing arrives."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from reflex_aio.checks import check_seconds
from reflex_aio.errors import ConnectionLost
from reflex_aio.hooks import Hooks
from reflex_aio.sql.drivers.base import Driver, ListenConnection
from reflex_aio.sql.wakeups.notifier import CHANNEL, LocalNotifier, TimedEvent

__all__ = ["NotifierState", "NotifierTimeouts", "NotifySession"]

logger = logging.getLogger(__name__)

# Turns of the event loop by which the streams of this process precede a NOTIFY for the same commit. They suffice to
# send the query for a page and to handle a result that arrives immediately. Where everything shares few cores, the
# NOTIFY would delay that page by more than this delays the NOTIFY.
_HEAD_START_TURNS = 6
# A notifier is busy when more commits than this fall within the coalescing time.
_BUSY_COMMITS = 2
# An insert that was found in an open transaction this many times in a row is observed instead: the transaction may
# last.
_MOST_CHECKS = 5


@dataclass(frozen=True, slots=True)
class NotifierTimeouts:
    """The timeouts and intervals of a :class:`~reflex_aio.sql.PostgresNotifier`, in seconds.

    :param idle: how long an unused connection is kept
    :param ping: how long nothing may arrive on the connection before it is tested
    :param answer: the limit for a statement, and for the arrival of a ping
    :param coalesce: notifications within this time are sent together
    :param coalesce_busy: the same while there are many, more than two within ``coalesce``: each NOTIFY is another
        commit for the server, and wakes every listening process
    :param silent: the interval of new attempts if no notification arrives at all
    :raises TypeError: if one is not a number
    :raises ValueError: if one is not greater than 0
    """

    idle: float = 30.0
    ping: float = 10.0
    answer: float = 5.0
    coalesce: float = 0.005
    coalesce_busy: float = 0.02
    silent: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            check_seconds(name, getattr(self, name))


class _DeferredInsert:
    __slots__ = ("call", "checks", "connection", "driver")

    def __init__(self, driver: Driver, connection: Any, call: Callable[[], None]) -> None:
        self.driver, self.connection, self.call = driver, connection, call
        self.checks = 0

    def is_open(self) -> bool:
        """Return whether a transaction is open on the connection."""
        return self.driver.in_transaction(self.connection)


class NotifierState:
    """The unsent notifications and the subscribers of a notifier. It outlives each connection.

    The inserts of busy writers are *deferred*. To detect a commit, a client library has to report each statement, which
    costs several percent of a small transaction. While notifications are sent at intervals anyway, it suffices to
    check, when the next one is due, which connections are no longer in a transaction. A connection that is in one may
    have committed another before it, so that insert is announced as well, possibly once too often.

    Times are those of the event loop's clock.
    """

    def __init__(self) -> None:
        self.local = LocalNotifier()
        self.unsent: set[str] = set()
        """The payloads that the next NOTIFY sends."""
        self.deferred: dict[tuple[str, int], _DeferredInsert] = {}
        """The deferred inserts, by payload and identity of the connection, which they keep alive."""
        self.paused_until = -math.inf
        """The end of a busy notifier's pause: the next scheduled NOTIFY announces all commits before this time."""
        self.requests = 0
        """The number of notifications that were requested since the last NOTIFY."""
        self.requested_at = -math.inf
        self.unsubscribed_at = -math.inf
        self.warned_of_silence = False
        self.changed = TimedEvent()

    def request(self, payload: str, now: float) -> None:
        """Have ``payload`` sent by the next NOTIFY."""
        self.requested_at = now
        self.requests += 1
        if payload not in self.unsent:
            # Otherwise it is sent in a moment anyway: waking the sender would cost each commit of a busy writer.
            self.unsent.add(payload)
            self.changed.set()

    def defer(
        self, payload: str, driver: Driver, connection: Any, call: Callable[[], None], now: float
    ) -> None:
        """Have ``payload`` sent after the pause.

        :param connection: the underlying connection
        :param call: called after the transaction, if that outlasts the pause
        """
        self.requested_at = now
        self.requests += 1
        key = payload, id(connection)
        insert = self.deferred.get(key)
        if insert is not None:
            insert.checks = 0
            return
        self.deferred[key] = _DeferredInsert(driver, connection, call)
        if len(self.deferred) == 1:
            self.changed.set()

    def take(self) -> set[str]:
        """Return the payloads to send now. Inserts whose transactions are still open remain deferred."""
        payloads, self.unsent = self.unsent, set()
        self.requests = 0
        if self.deferred:
            deferred = {payload for payload, _ in self.deferred}
            for payload in deferred:
                # A stream of this process may have subscribed since.
                self.local.notify(payload)
            payloads |= deferred
            for key, insert in tuple(self.deferred.items()):
                insert.checks += 1
                if not insert.is_open():
                    del self.deferred[key]
                elif insert.checks == _MOST_CHECKS:
                    self._observe(key)
        return payloads

    def discard(self) -> None:
        """Discard the unsent payloads, and have the deferred inserts observed, as no NOTIFY will follow."""
        self.unsent.clear()
        for key in tuple(self.deferred):
            self._observe(key)

    def _observe(self, key: tuple[str, int]) -> None:
        insert = self.deferred.pop(key)
        if insert.is_open():
            insert.driver.after_transaction(insert.connection, key, insert.call)

    def needed_until(self, idle: float, *, listening: bool = False) -> float:
        """Return when a connection is no longer needed. Notifying does not prolong a connection that listens."""
        if self.local.subscribers:
            return math.inf
        used_at = self.unsubscribed_at if listening else max(self.unsubscribed_at, self.requested_at)
        return used_at + idle


class NotifySession:
    """Sends and receives the notifications of a notifier on one connection.

    Everything runs in one task, as the connection runs one statement at a time.

    :param notify_separately: sends a payload over another connection
    """

    def __init__(
        self,
        connection: ListenConnection,
        state: NotifierState,
        timeouts: NotifierTimeouts,
        *,
        notify_separately: Callable[[str], Awaitable[None]],
        hooks: Hooks,
    ) -> None:
        self._connection, self._state, self._timeouts, self._hooks = connection, state, timeouts, hooks
        self._notify_separately = notify_separately
        # The payload of a table has a dot, or begins with "md5:", so this is not a table's.
        self._ping = f"ping:{token_hex(8)}"
        self._listening = False
        self._received_at = -math.inf
        self._pinged_at: float | None = None
        self._silent_since: float | None = None
        self._sent_at = -math.inf
        self._pause = timeouts.coalesce
        self._lost = False
        self.worked = False
        """True if a notification was sent or received."""

    async def run(self) -> None:
        """Send and receive until the connection is no longer needed, or is to be replaced.

        :raises ConnectionLost: if it was lost
        :raises CannotNotify: if the server has no notifications
        :raises TimeoutError: if a statement exceeded its limit
        :raises Exception: other exceptions of the client library
        """
        self._connection.on_lost(self._on_lost)
        try:
            await self._run()
        finally:
            self._state.paused_until = -math.inf

    async def _run(self) -> None:
        state, now = self._state, asyncio.get_running_loop().time
        while True:
            state.changed.is_set = False
            if self._lost:
                raise ConnectionLost("the server closed the connection")
            if state.local.subscribers and not self._listening:
                await self._listen()
            if (state.unsent or state.deferred) and now() >= self._sent_at + self._pause:
                if not state.unsent.isdisjoint(state.local.subscribers):
                    for _ in range(_HEAD_START_TURNS):
                        await asyncio.sleep(0)
                self._pause = self._next_pause(now() - self._sent_at)
                busy = self._pause > self._timeouts.coalesce
                # Commits while this NOTIFY is under way are announced after the pause that follows.
                state.paused_until = math.inf if busy else -math.inf
                await self._send()
                self._sent_at = now()
                if busy:
                    state.paused_until = self._sent_at + self._pause
            if self._listening:
                await self._check_silence(now())
            due_at = self._due_at()
            if due_at is None:
                return
            await state.changed.wait(due_at)

    def _due_at(self) -> float | None:
        """Return the time of the next thing to do, as far as it is known; ``None`` if the connection can be closed."""
        state, timeouts = self._state, self._timeouts
        if state.unsent or state.deferred:
            due_at = self._sent_at + self._pause
        else:
            due_at = state.needed_until(timeouts.idle, listening=self._listening)
            if self._silent_since is not None:
                due_at = min(due_at, self._silent_since + timeouts.silent)
            if due_at <= asyncio.get_running_loop().time():
                return None
        if self._pinged_at is not None:
            return min(due_at, self._pinged_at + timeouts.answer)
        if self._listening and self._silent_since is None:
            return min(due_at, self._received_at + timeouts.ping)
        return due_at

    def _next_pause(self, seconds: float) -> float:
        """Return the pause after the NOTIFY that is sent now, ``seconds`` after the last one."""
        least, most = self._timeouts.coalesce, self._timeouts.coalesce_busy
        busy = self._state.requests * least > _BUSY_COMMITS * seconds
        return max(least, min(self._pause * 2, most) if busy else self._pause / 2)

    async def _send(self) -> None:
        payloads = self._state.take()
        try:
            await self._connection.notify(CHANNEL, sorted(payloads), timeout=self._timeouts.answer)
        except BaseException:
            self._state.unsent |= payloads
            raise
        self.worked = True

    async def _listen(self) -> None:
        async with asyncio.timeout(self._timeouts.answer):
            await self._connection.listen(CHANNEL, self._received)
        self._listening = True
        # Notifications before this moment did not arrive.
        self._state.local.notify_all()
        self._pinged_at = asyncio.get_running_loop().time()
        if self._connection.direct:
            await self._send_ping()
        else:
            # A pooler may happen to run our ping on the one server connection that still has our LISTEN, and forward
            # the notification. Only one that another connection has sent proves anything.
            await self._notify_separately(self._ping)

    async def _send_ping(self) -> None:
        await self._connection.notify(CHANNEL, [self._ping], timeout=self._timeouts.answer)

    async def _check_silence(self, now: float) -> None:
        """Send a ping if it is due; act if the last one has not arrived in time."""
        if self._pinged_at is None:
            if self._silent_since is None and now >= self._received_at + self._timeouts.ping:
                self._pinged_at = now
                await self._send_ping()
        elif now >= self._pinged_at + self._timeouts.answer:
            if self._received_at > -math.inf:
                raise ConnectionLost("no notification arrives any more on the connection that listens")
            self._pinged_at, self._silent_since = None, now
            self._hooks.listener_silent()
            if not self._state.warned_of_silence:
                self._state.warned_of_silence = True
                logger.warning(
                    "no notification arrives after LISTEN, as behind a pooler in transaction mode: streams poll for the"
                    " events of other processes. EventsTable(..., notifier=PostgresNotifier(connect=...)) wakes them"
                    " immediately, if connect connects to the server itself"
                )

    def _received(self, payload: str, own: bool) -> None:
        if payload == self._ping:
            if self._received_at == -math.inf:
                self._hooks.listener_ready()
            self.worked = True
            self._pinged_at = self._silent_since = None
            self._received_at = asyncio.get_running_loop().time()
            self._state.changed.set()
        elif not own:
            # The subscribers of this process were notified before our own notifications were sent.
            if self._received_at > -math.inf:
                self._received_at = asyncio.get_running_loop().time()
            self._state.local.notify(payload)

    def _on_lost(self) -> None:
        self._lost = True
        self._state.changed.set()
