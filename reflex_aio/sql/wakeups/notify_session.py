"""One link's life: it sends what is to be told, hears what others tell, and notices when nothing is heard."""

import asyncio
import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from reflex_aio.errors import ConnectionLost
from reflex_aio.hooks import Hooks
from reflex_aio.sql.drivers.base import Driver, ListenConnection
from reflex_aio.sql.wakeups.notifier import CHANNEL, LocalNotifier, TimedEvent

__all__ = ["DeferredInserts", "NotifierTimeouts", "NotifySession", "Traffic"]

# A connection that has been in a transaction so many times in a row is watched: it may stay in it for long.
_LOOKS = 5


class _Insert:
    __slots__ = ("call", "connection", "driver", "looks")

    def __init__(self, driver: Driver, connection: Any, call: Callable[[], None]) -> None:
        self.driver, self.connection, self.call = driver, connection, call
        self.looks = 0


class DeferredInserts:
    """What was inserted on which connections, by the payload that tells of it."""

    def __init__(self) -> None:
        # The connections are held, so their identities are theirs alone.
        self._inserts: dict[tuple[str, int], _Insert] = {}

    def __len__(self) -> int:
        return len(self._inserts)

    def add(self, payload: str, driver: Driver, connection: Any, call: Callable[[], None]) -> bool:
        """Remember an insert; tell if it is the only one.

        :param connection: what ``driver.fixed`` returns
        :param call: called after the transaction, should it last
        """
        key = payload, id(connection)
        insert = self._inserts.get(key)
        if insert is not None:
            insert.looks = 0
            return False
        self._inserts[key] = _Insert(driver, connection, call)
        return len(self._inserts) == 1

    def take(self) -> set[str]:
        """Return what may be told now; remember what may have to be told again."""
        payloads = set()
        for key, insert in tuple(self._inserts.items()):
            payloads.add(key[0])
            insert.looks += 1
            if not insert.driver.in_transaction(insert.connection):
                del self._inserts[key]
            elif insert.looks == _LOOKS:
                self._watch(key)
        return payloads

    def watch(self) -> None:
        """Have all that is left watched, as nobody will look."""
        for key in tuple(self._inserts):
            self._watch(key)

    def _watch(self, key: tuple[str, int]) -> None:
        insert = self._inserts.pop(key)
        if insert.driver.in_transaction(insert.connection):
            insert.driver.after_transaction(insert.connection, key, insert.call)


logger = logging.getLogger(__name__)

# Turns of the event loop that streams of this process, woken by the same commit, are ahead of other processes: as many
# as it takes to ask for a page and to handle the answer, if that is there at once. Where all share few cores, NOTIFY
# would hold up that page by more than this holds up the NOTIFY.
_TURNS = 6
# There is much to tell when more commits than this fall within the time that notifications are coalesced in.
_MANY = 2


@dataclass(frozen=True, slots=True)
class NotifierTimeouts:
    """How long a notifier waits for what, in seconds.

    :param idle: a link that nobody needs is kept for so long
    :param ping: a link on which nothing is heard for so long is tested
    :param answer: a statement, or a ping on its way back, may take so long
    :param coalesce: notifications that follow within this time are sent together
    :param coalesce_busy: the same while there are many, more than two within ``coalesce``: each one that is sent is
        another commit for the server, and wakes every process that listens
    :param silent: a link that hears nothing is tried anew after this time
    :raises ValueError: if one isn't greater than 0
    """

    idle: float = 30.0
    ping: float = 10.0
    answer: float = 5.0
    coalesce: float = 0.005
    coalesce_busy: float = 0.02
    silent: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} is not a number of seconds greater than 0")


@dataclass(slots=True)
class Traffic:
    """What a notifier has to tell, and who wants to hear; it outlives each link. Times are the event loop's."""

    local: LocalNotifier = field(default_factory=LocalNotifier)
    unsent: set[str] = field(default_factory=set)
    unwatched: DeferredInserts = field(default_factory=DeferredInserts)
    rests_until: float = -math.inf
    """While there is much to tell: what is inserted before then is told of later than then."""
    told: int = 0
    told_at: float = -math.inf
    left_at: float = -math.inf
    warned: bool = False
    changed: TimedEvent = field(default_factory=TimedEvent)

    @property
    def pending(self) -> bool:
        """Whether there is something to tell, or somebody who wants to hear."""
        return self.has_unsent or self.local.subscribed

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to tell, or may soon be."""
        return bool(self.unsent or self.unwatched)

    def is_told_later(self, now: float) -> bool:
        """Tell whether what is inserted now is looked for soon, but not at once."""
        # Where the rest is over and somebody waits to be looked at, the sender is about to begin.
        return now < self.rests_until or (self.rests_until > -math.inf and bool(self.unwatched))

    def tell(self, payload: str, now: float) -> None:
        self.told_at = now
        self.told += 1
        if payload not in self.unsent:
            # Otherwise it is to be sent in a moment anyway: waking the sender would cost each commit of a busy writer.
            self.unsent.add(payload)
            self.changed.set()

    def tell_if_committed(
        self, payload: str, driver: Driver, connection: Any, call: Callable[[], None], now: float
    ) -> None:
        """Tell when the rest is over, and once more by ``call`` if the transaction of ``connection`` isn't."""
        self.told_at = now
        self.told += 1
        if self.unwatched.add(payload, driver, connection, call):
            self.changed.set()

    def take(self) -> set[str]:
        """Return what there is to tell now."""
        late = self.unwatched.take()
        for payload in late:
            # Somebody in this process may have subscribed since.
            self.local.notify(payload)
        taken = self.unsent | late
        self.unsent.clear()
        self.told = 0
        return taken

    def end(self) -> None:
        """Leave nothing to be told."""
        self.unsent.clear()
        self.unwatched.watch()

    def needed_until(self, idle: float, *, listening: bool = False) -> float:
        """Return when a link is of no more use. One that only listens is none to those who only tell."""
        if self.local.subscribed:
            return math.inf
        return (self.left_at if listening else max(self.left_at, self.told_at)) + idle


class NotifySession:
    """What is done over one link. All in one task: a link takes one statement at a time.

    :param ask: sends a payload over another connection than ``link``
    """

    def __init__(
        self,
        link: ListenConnection,
        traffic: Traffic,
        timeouts: NotifierTimeouts,
        *,
        ask: Callable[[str], Awaitable[None]],
        hooks: Hooks,
    ) -> None:
        self._link, self._traffic, self._timeouts, self._hooks = link, traffic, timeouts, hooks
        self._ask_elsewhere = ask
        # A table's payload has a dot, or begins with "md5:": no table is called this.
        self._ping = f"ping:{secrets.token_hex(8)}"
        self._listening = False
        self._heard_at = -math.inf
        self._asked_at: float | None = None
        self._silent_since: float | None = None
        self._sent_at = -math.inf
        self._rest = timeouts.coalesce
        self._lost = False
        self.worked = False
        """Whether the link has proved to be of use."""

    async def run(self) -> None:
        """Return when the link isn't needed any more, or another one is to be tried.

        :raises ConnectionLost: if it was lost
        :raises CannotNotify: if the server doesn't send notifications
        :raises TimeoutError: if a statement took too long
        :raises Exception: what else the client library raises
        """
        self._link.on_lost(self._on_lost)
        try:
            await self._go_on()
        finally:
            self._traffic.rests_until = -math.inf

    async def _go_on(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            self._traffic.changed.clear()
            if self._lost:
                raise ConnectionLost("the server ended the connection")
            if self._traffic.local.subscribed and not self._listening:
                await self._listen()
            if self._traffic.has_unsent and now() >= self._sent_at + self._rest:
                await self._let_streams_read()
                self._rest = self._rest_after(now() - self._sent_at)
                busy = self._rest > self._timeouts.coalesce
                # What is inserted while this is sent is told of after the rest that follows.
                self._traffic.rests_until = math.inf if busy else -math.inf
                await self._send()
                self._sent_at = now()
                if busy:
                    self._traffic.rests_until = self._sent_at + self._rest
            if self._listening:
                await self._test(now())
            until = self._due()
            if until is None:
                return
            await self._traffic.changed.wait(until)

    def _due(self) -> float | None:
        """Return when there is something to do next, as far as is known; None if the link is done with."""
        times = []
        if self._traffic.has_unsent:
            times.append(self._sent_at + self._rest)
        else:
            done_at = self._traffic.needed_until(self._timeouts.idle, listening=self._listening)
            if self._silent_since is not None:
                done_at = min(done_at, self._silent_since + self._timeouts.silent)
            if done_at <= asyncio.get_running_loop().time():
                return None
            times.append(done_at)
        if self._asked_at is not None:
            times.append(self._asked_at + self._timeouts.answer)
        elif self._listening and self._silent_since is None:
            times.append(self._heard_at + self._timeouts.ping)
        return min(times)

    def _rest_after(self, seconds: float) -> float:
        """Return how long to rest after what is sent now, so many seconds after the last time."""
        least = self._timeouts.coalesce
        many = self._traffic.told * least > _MANY * seconds
        return max(least, min(self._rest * 2, self._timeouts.coalesce_busy) if many else self._rest / 2)

    async def _let_streams_read(self) -> None:
        if any(map(self._traffic.local.wakes, self._traffic.unsent)):
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    async def _send(self) -> None:
        sending = self._traffic.take()
        try:
            await self._link.notify(CHANNEL, sorted(sending), timeout=self._timeouts.answer)
        except BaseException:
            self._traffic.unsent |= sending
            raise
        self.worked = True

    async def _listen(self) -> None:
        async with asyncio.timeout(self._timeouts.answer):
            await self._link.listen(CHANNEL, self._heard)
        self._listening = True
        # What was told before this moment was told to nobody.
        self._traffic.local.notify_all()
        self._asked_at = asyncio.get_running_loop().time()
        if self._link.direct:
            await self._ask()
        else:
            # A pooler may happen to run our ping on the one server connection that has our LISTEN still, and
            # to hand on the answer: only what another connection says proves anything.
            await self._ask_elsewhere(self._ping)

    async def _ask(self) -> None:
        await self._link.notify(CHANNEL, [self._ping], timeout=self._timeouts.answer)

    async def _test(self, now: float) -> None:
        """Ping when it is time, and judge what comes back."""
        if self._asked_at is None:
            if self._silent_since is None and now >= self._heard_at + self._timeouts.ping:
                self._asked_at = now
                await self._ask()
        elif now >= self._asked_at + self._timeouts.answer:
            if self._heard_at > -math.inf:
                raise ConnectionLost("the connection that listens has fallen silent")
            self._asked_at, self._silent_since = None, now
            self._hooks.listener_silent()
            if not self._traffic.warned:
                self._traffic.warned = True
                logger.warning(
                    "nothing is heard through LISTEN, as behind a pooler in transaction mode: streams find"
                    " events of other processes by polling."
                    " EventsTable(..., notifier=PostgresNotifier(connect=...)) wakes them at once, where connect goes"
                    " to the server itself"
                )

    def _heard(self, payload: str, own: bool) -> None:
        if payload == self._ping:
            if self._heard_at == -math.inf:
                self._hooks.listener_ready()
            self.worked = True
            self._asked_at = self._silent_since = None
            self._heard_at = asyncio.get_running_loop().time()
            self._traffic.changed.set()
        elif not own:
            # Our own were told in this process before they were sent.
            if self._heard_at > -math.inf:
                self._heard_at = asyncio.get_running_loop().time()
            self._traffic.local.notify(payload)

    def _on_lost(self) -> None:
        self._lost = True
        self._traffic.changed.set()
