"""The tail of a table: one reader at its head, for all streams of a process that have caught up.

Each wake-up takes one query, however many streams there are. The events are delivered to the feed of each stream, as
the same list. A feed that is not emptied is detached, and its stream reads pages of its own until it has caught up. So
is the feed of a stream whose position is beyond a gap at which the tail waits.
"""

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import NamedTuple, TypeAlias

from reflex_aio.errors import StreamClosed
from reflex_aio.event import Event, size_of
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.loader import Loader, Position
from reflex_aio.sql.wakeups.notifier import TimedEvent
from reflex_aio.tasks import Tasks

__all__ = ["Polling", "Subscribe", "Tail", "TailFeed"]

logger = logging.getLogger(__name__)

# What a section takes in memory without its events, roughly, in bytes.
_SECTION_SIZE = 400
# If events become visible later than their wake-ups, and a wake-up finds none, the table is read again after this time,
# and then at increasing intervals, in seconds.
_FIRST_RETRY = 0.005
# The share of an idle time by which the discovery of its end may be delayed.
_IDLE_SHARE = 0.1

Subscribe: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]
"""A function that calls its argument on each wake-up, and returns a function that ends the subscription."""


class Polling:
    """The intervals at which a table is polled. It has no clock of its own; times are in seconds of any clock.

    While events arrive, the interval is the floor. It grows with the time since the last event: the event after a pause
    is found within a tenth of the pause, and an idle table is polled once per ceiling. A floor equal to the ceiling
    keeps the interval constant, for tables whose wake-ups are reliable and polling is only a safety net.

    :param floor: the shortest interval, in seconds; limited to the ceiling
    :param ceiling: the longest interval, in seconds
    """

    def __init__(self, *, floor: float, ceiling: float) -> None:
        self._floor, self._ceiling = min(floor, ceiling), ceiling
        self.active_at = -math.inf
        """The time of the last event or wake-up. The reader assigns it."""

    def interval(self, now: float) -> float:
        """Return the interval from ``now`` to the next poll, in seconds."""
        return min(self._ceiling, max(self._floor, (now - self.active_at) * _IDLE_SHARE))


class _Section(NamedTuple):
    """A part of the stream: all events after ``start``, up to ``end``."""

    start: Position
    end: Position
    events: Sequence[Event]
    size: int
    """The size of the events in memory, in bytes."""


class TailFeed:
    """The events that a tail has delivered to one stream, in whose task they are taken."""

    __slots__ = (
        "_arrived",
        "_cancelled",
        "_detached",
        "_error",
        "_loop",
        "_sections",
        "_size",
        "_tail",
        "position",
    )

    def __init__(self, tail: "Tail", position: Position) -> None:
        self._tail = tail
        self.position = position
        """The id up to which everything has been taken."""
        self._loop = asyncio.get_running_loop()
        self._sections: deque[_Section] = deque()
        self._size = 0
        self._arrived: asyncio.Future[None] | None = None
        self._detached = self._cancelled = False
        self._error: Exception | None = None

    def take(self) -> Sequence[Event] | None:
        """Return the next events, empty if none have arrived; ``None`` if the feed has ended and the stream must read.

        :raises StreamClosed: if the feed was cancelled
        :raises ReflexError: the error that ended the tail
        """
        while self._sections:
            section = self._sections.popleft()
            self._size -= section.size
            events = section.events
            if section.start < self.position:
                # The stream was ahead of the tail when it attached.
                events = [event for event in events if int(event.id) > self.position]
            self.position = section.end
            if events:
                return events
        if self._detached:
            if self._error is not None:
                # A copy for each stream, as each raise extends the traceback.
                raise copy(self._error) from self._error
            return None
        if self._cancelled:
            raise StreamClosed
        return ()

    def arrival(self) -> Awaitable[None] | None:
        """Return an awaitable that is done when :meth:`take` may return something; ``None`` if it may already."""
        if self._sections or self._detached or self._cancelled:
            return None
        # asyncio.Event would do the same at twice the cost.
        self._arrived = arrived = self._loop.create_future()
        return arrived

    def cancel(self) -> None:
        """Make the waiting read, and all later ones, raise StreamClosed."""
        self._cancelled = True
        self._wake()

    def detach(self) -> None:
        """Detach the feed from its tail."""
        self._tail._detach(self)

    def _put(self, section: _Section) -> bool:
        """Add a section; return whether there was room, as there is unless the stream does not take its events."""
        # A single section of any size has room: an event may be larger than the limit.
        if self._size and self._size + section.size > self._tail.limit:
            return False
        if section.end > self.position:
            self._sections.append(section)
            self._size += section.size
            if (arrived := self._arrived) is not None and not arrived.done():
                arrived.set_result(None)
        return True

    def _end(self, error: Exception | None) -> None:
        self._detached, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)


class Tail:
    """Loads pages at the head of a table while a feed is attached, and delivers them to the feeds.

    :param statements: the connection to load them through
    :param subscribe: subscribes to the wake-ups of the table
    :param tails: all tails of the table, in the order of their creation, including this one once it is added
    :param polling: the interval of polls without a wake-up, by the event loop's clock
    :param limit: the size of the events that a feed may contain before it is detached (all feeds contain the same
        lists), and of the recent events that are kept for streams that are about to catch up, in bytes
    """

    def __init__(
        self,
        loader: Loader,
        statements: PinnedConnection,
        subscribe: Subscribe,
        *,
        tails: "Sequence[Tail]",
        polling: Polling,
        table: str,
        limit: int,
    ) -> None:
        self._loader = loader
        self._statements = statements
        self._subscribe = subscribe
        self._tails = tails
        self._polling = polling
        self._table = table
        self.limit = limit
        self._tasks = Tasks()
        self._reader: asyncio.Task[None] | None = None
        self._feeds: set[TailFeed] = set()
        self.position: Position = 0
        self._at_gap = False
        self._recent: deque[_Section] = deque()
        self._recent_size = 0
        self._woken = TimedEvent()
        self._retry_after = math.inf

    def serves(self, position: Position) -> bool:
        """Return whether a stream at ``position`` need not wait here for a gap that lies behind it."""
        return self._reader is None or not (self._at_gap and position > self.position)

    def attach(self, position: Position) -> TailFeed | None:
        """Return a feed of the events after ``position``; ``None`` if the tail passed that position too long ago."""
        feed = TailFeed(self, position)
        if self._reader is None:
            self.position, self._at_gap = position, False
            self._recent.clear()
            self._recent_size = 0
            self._reader = self._tasks.start(self._read(), name=f"reflex_aio: tail of {self._table}")
        elif position < self.position:
            missed = [section for section in self._recent if section.end > position]
            if not missed or missed[0].start > position:
                return None
            if not all(map(feed._put, missed)):
                return None
        self._feeds.add(feed)
        return feed

    async def aclose(self) -> None:
        """Stop reading and release the connection."""
        await self._tasks.aclose()
        await self._statements.aclose()

    def _end_feed(self, feed: TailFeed) -> None:
        # The feed keeps the events that it contains. Its stream then reads pages of its own.
        feed._end(None)
        self._detach(feed)

    def _detach(self, feed: TailFeed) -> None:
        self._feeds.discard(feed)
        if not self._feeds and self._reader is not None:
            reader, self._reader = self._reader, None
            if reader is not asyncio.current_task():
                reader.cancel()

    async def _read(self) -> None:
        reader = asyncio.current_task()
        # Subscribe before loading: a wake-up in between must not be lost.
        unsubscribe = self._subscribe(self._woken.set)
        self._polling.active_at = asyncio.get_running_loop().time()
        try:
            while self._reader is reader:
                await self._advance()
        except Exception as exc:
            # Feeds that were attached after this task was cancelled belong to another reader.
            if self._reader is reader:
                self._fail(exc)
        finally:
            unsubscribe()
            if self._reader is reader:
                self._reader = None

    def _fail(self, error: Exception) -> None:
        logger.debug("%s: the tail has ended: %r", self._table, error)
        feeds, self._feeds = self._feeds, set()
        for feed in feeds:
            feed._end(error)

    async def _advance(self) -> None:
        """Load and deliver a page, then wait until there may be another."""
        loader, woken, polling = self._loader, self._woken, self._polling
        now = asyncio.get_running_loop().time
        if woken.is_set:
            # Clear before loading: the page only shows the commits of wake-ups from before its query was sent.
            woken.is_set = False
            self._retry_after = _FIRST_RETRY
            polling.active_at = now()
        start = self.position
        page = await loader.load(start, self._statements)
        # Decode before the position moves: events that cannot be decoded must not be passed.
        events = page.decode() if page.position > start else ()
        self._at_gap = page.gap
        if page.position > start:
            section = _Section(start, page.position, events, _SECTION_SIZE + size_of(events))
            self.position = page.position
            polling.active_at = now()
            self._deliver(section)
        if page.gap:
            for feed in [feed for feed in self._feeds if feed.position > self.position]:
                self._end_feed(feed)
        elif len(self._tails) > 1:
            self._take_over()
        if not self._feeds:
            return
        gaps = loader.gaps
        if time.monotonic() >= gaps.due_at:
            await gaps.upkeep()
        if page.more:
            return
        if page.gap:
            await gaps.resolve(self.position, woken)
        else:
            await self._wait()

    def _deliver(self, section: _Section) -> None:
        self._recent.append(section)
        self._recent_size += section.size
        while self._recent_size > self.limit:
            self._recent_size -= self._recent.popleft().size
        for feed in tuple(self._feeds):
            if not feed._put(section):
                self._end_feed(feed)

    def _take_over(self) -> None:
        """Detach the feeds of later tails that this one has reached: their streams will attach here."""
        for other in self._tails[self._tails.index(self) + 1 :]:
            if other.position <= self.position:
                for feed in tuple(other._feeds):
                    other._end_feed(feed)

    async def _wait(self) -> None:
        """Wait for a wake-up or the next poll. Meanwhile, do the upkeep of gaps."""
        loop, gaps = asyncio.get_running_loop(), self._loader.gaps
        # With jitter, so that processes that were started together do not poll together.
        wait = self._polling.interval(loop.time()) * random.uniform(0.9, 1.0)
        if self._loader.lags and self._retry_after < wait:
            wait, self._retry_after = self._retry_after, self._retry_after * 2
        poll_at = loop.time() + wait
        while not self._woken.is_set:
            left = poll_at - loop.time()
            if left <= 0:
                return
            upkeep_in = max(0.0, gaps.due_at - time.monotonic())
            if not await self._woken.wait(min(poll_at, loop.time() + upkeep_in)) and upkeep_in <= left:
                await gaps.upkeep()
