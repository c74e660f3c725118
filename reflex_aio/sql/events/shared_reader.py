"""What all streams of one table through one pool share in this process: the loader and the tail."""

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.dialect import EventsDialect, EventsSettings
from reflex_aio.sql.events.loader import Position
from reflex_aio.sql.events.tail import Polling, Tail, TailFeed
from reflex_aio.sql.wakeups.notifier import Notifier
from reflex_aio.sql.wakeups.postgres_notifier import notifier_of

__all__ = ["SharedReader", "acquire_shared_reader"]


class SharedReader:
    """A table as read through one pool. Shared: acquire it by :func:`acquire_shared_reader`, release each.

    :param primary: a pool of the primary, if ``pool`` leads to a standby
    :param fill_gaps: whether missing ids are taken by noops
    """

    def __init__(
        self, settings: EventsSettings, driver: Driver, pool: Any, primary: Any, fill_gaps: bool
    ) -> None:
        self.settings = settings
        dialect = dialect_part(EventsDialect, driver.dialect)
        self.loader = dialect.loader(settings, driver, pool, primary=primary, fill_gaps=fill_gaps)
        # Held strongly, as what is shared goes by their identities.
        self._pool, self._primary = pool, primary
        self._driver = driver
        self._notifier: Notifier | None = settings.notifier
        self._opening = asyncio.Lock()
        self._opened = False
        self._users = 0
        self._forget: Callable[[], None]
        self._tails: list[Tail] = []

    def borrow(self) -> PinnedConnection:
        """Return a new way to run statements on the pool."""
        settings = self.settings
        return PinnedConnection(self._driver, self._pool, table=settings.name, timeout=settings.query_timeout)

    async def open(self) -> None:
        """Make ready to read; at once if that was done already."""
        async with self._opening:
            if self._opened:
                return
            if self._notifier is None and self.settings.wakeups is not None:
                self._notifier = await self._hub()
            await self.loader.open()
            self._opened = True

    def attach(self, position: Position) -> TailFeed | None:
        """Return a feed of what comes after ``position`` from the table's tail; ``None`` if that is past it already.

        There is one tail, but for streams that stand beyond a gap at which it waits: these get another one, until the
        first has come as far.
        """
        for tail in self._tails:
            if tail.serves(position):
                return tail.attach(position)
        settings = self.settings
        tail = Tail(
            self.loader,
            self.borrow(),
            self._subscribe,
            advanced=self._merge,
            polling=self._polling(),
            table=settings.name,
        )
        self._tails.append(tail)
        return tail.attach(position)

    def _polling(self) -> Polling:
        settings = self.settings
        # A notifier of the user's is taken to hear of other processes.
        told = settings.notifier is not None or (settings.wakeups is not None and self._driver.can_listen)
        floor = settings.poll_period if told else settings.poll_floor
        return Polling(floor=floor, ceiling=settings.poll_period)

    def _merge(self, tail: Tail) -> None:
        for other in self._tails[self._tails.index(tail) + 1 :]:
            if other.position <= tail.position:
                other.disperse()

    async def _hub(self) -> Notifier:
        # A standby can neither listen nor notify: with primary, it is the primary's notifications that wake.
        pool = self._pool if self._primary is None else self._primary
        statements = PinnedConnection(
            self._driver, pool, table=self.settings.name, timeout=self.settings.query_timeout
        )
        async with statements:
            return await statements.use(lambda connection: notifier_of(self._driver, connection))

    def _subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        if self._notifier is None:
            return _nothing
        return self._notifier.subscribe(self.loader.topic, wake)

    async def release(self) -> None:
        """Let go of the reader; whoever is the last closes it."""
        self._users -= 1
        if self._users == 0:
            self._forget()
            # At the same time, as a server that doesn't answer makes each take a while.
            await asyncio.gather(*(tail.aclose() for tail in self._tails), self.loader.aclose())


_readers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, SharedReader]] = WeakKeyDictionary()


def acquire_shared_reader(
    settings: EventsSettings, driver: Driver, pool: Any, primary: Any, fill_gaps: bool
) -> SharedReader:
    """Return this event loop's reader of a table through a pool, for one more user."""
    readers = _readers.setdefault(asyncio.get_running_loop(), {})
    key = (settings.key, id(pool), id(primary), fill_gaps)
    reader = readers.get(key)
    if reader is None or reader.loader.obsolete:
        reader = readers[key] = SharedReader(settings, driver, pool, primary, fill_gaps)
        reader._forget = partial(_forget, readers, key, reader)
    reader._users += 1
    return reader


def _forget(readers: dict[Hashable, SharedReader], key: Hashable, reader: SharedReader) -> None:
    if readers.get(key) is reader:
        del readers[key]


def _nothing() -> None:
    pass
