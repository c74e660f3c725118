"""The loader and the tail of a table, shared by all of its streams through one pool in a process."""

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.dialect import EventsDialect
from reflex_aio.sql.events.loader import Position
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.events.tail import Polling, Tail, TailFeed
from reflex_aio.sql.wakeups.notifier import Notifier
from reflex_aio.sql.wakeups.postgres_notifier import notifier_of

__all__ = ["SharedReader", "acquire_shared_reader"]


class SharedReader:
    """The loader and the tails of a table and pool. Get it by :func:`acquire_shared_reader`, and release it once.

    :param primary: a pool of the primary, if ``pool`` connects to a replica
    :param fill_gaps: whether missing ids are filled by noops
    """

    def __init__(
        self, settings: EventsSettings, driver: Driver, pool: Any, primary: Any, fill_gaps: bool
    ) -> None:
        self._settings = settings
        self.loader = dialect_part(EventsDialect, driver.dialect).loader(
            settings, driver, pool, primary=primary, fill_gaps=fill_gaps
        )
        # These keep the pools alive, by whose identities readers are shared.
        self._pool, self._primary = pool, primary
        self._driver = driver
        self._notifier: Notifier | None = settings.notifier
        self._opening = asyncio.Lock()
        self._opened = False
        self._users = 0
        self._forget: Callable[[], None]
        self._tails: list[Tail] = []

    def pin(self) -> PinnedConnection:
        """Return a new pinned connection of the pool, for the pages of one stream."""
        return self._pin(self._pool)

    async def open(self) -> None:
        """Prepare for reading, unless that was done already."""
        async with self._opening:
            if self._opened:
                return
            if self._notifier is None and self._settings.wakeups is not None:
                self._notifier = await self._find_notifier()
            await self.loader.open()
            self._opened = True

    def attach(self, position: Position) -> TailFeed | None:
        """Return a feed of the events after ``position``; ``None`` if the tail passed that position too long ago.

        There is one tail. Streams that stand beyond a gap at which it waits share another one, until the first has
        caught up.
        """
        for tail in self._tails:
            if tail.serves(position):
                return tail.attach(position)
        settings = self._settings
        # A user's notifier is assumed to receive the notifications of other processes.
        reliable = settings.notifier is not None or (settings.wakeups is not None and self._driver.can_listen)
        floor = settings.poll_period if reliable else settings.poll_floor
        tail = Tail(
            self.loader,
            self.pin(),
            self._subscribe,
            tails=self._tails,
            polling=Polling(floor=floor, ceiling=settings.poll_period),
            table=settings.name,
            limit=settings.page_bytes,
        )
        self._tails.append(tail)
        return tail.attach(position)

    def _pin(self, pool: Any) -> PinnedConnection:
        settings = self._settings
        return PinnedConnection(self._driver, pool, table=settings.name, timeout=settings.query_timeout)

    async def _find_notifier(self) -> Notifier:
        # A standby can neither listen nor notify. With primary, the primary's notifications wake the streams.
        async with self._pin(self._pool if self._primary is None else self._primary) as statements:
            return await statements.use(partial(notifier_of, self._driver))

    def _subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        if self._notifier is None:
            return _do_nothing
        return self._notifier.subscribe(self.loader.topic, wake)

    async def release(self) -> None:
        """Release the reader. The last user closes it."""
        self._users -= 1
        if self._users == 0:
            self._forget()
            # At the same time, as each takes a while if the server does not answer.
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


def _do_nothing() -> None:
    pass
