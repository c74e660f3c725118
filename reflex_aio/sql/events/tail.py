"""One reader at the head of a table, for all streams of a process that have come that far.

Each wake-up costs one query, however many streams there are. What it finds is handed to each stream's feed, as one and
the same list; a feed that isn't emptied is cut off, and its stream reads for itself until it has caught up. So is one
whose stream stands beyond a gap that the reader waits at.
"""

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import TypeAlias

from reflex_aio.errors import StreamClosed
from reflex_aio.event import Event
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.loader import Loader, Page, Position
from reflex_aio.sql.wakeups.notifier import TimedEvent
from reflex_aio.tasks import Tasks

__all__ = ["Polling", "Subscribe", "Tail", "TailFeed"]

# The share of a pause that its end may go unnoticed.
_SHARE = 0.1


class Polling:
    """How long a reader waits before it looks again. Pure: it is told the time, in seconds of any clock.

    While events flow it is the floor. The longer nothing has happened, the longer it is: an event that comes after a
    pause is found within a tenth of that pause, and an idle table is asked once in a ceiling. With the floor at the
    ceiling that is always the period, as where wake-ups tell of events and polling is the safety net alone.

    :param floor: the shortest period, in seconds; no more than the ceiling counts
    :param ceiling: the longest period, in seconds
    """

    def __init__(self, *, floor: float, ceiling: float) -> None:
        self._floor, self._ceiling = min(floor, ceiling), ceiling
        self._happened_at = -math.inf

    def happened(self, now: float) -> None:
        """Tell that there were new events, or a wake-up."""
        self._happened_at = now

    def period(self, now: float) -> float:
        """Return how long to wait from ``now``, in seconds."""
        return min(self._ceiling, max(self._floor, (now - self._happened_at) * _SHARE))


logger = logging.getLogger(__name__)

# How many events a feed may hold before it is cut off; all feeds hold the same lists. And how many of the last ones are
# kept for streams that are about to arrive.
_KEPT = 10_000
# When a wake-up finds nothing where events become visible later than they are told of, it is looked again after the
# first of these, and then ever later, in seconds.
_LOOK_AGAIN = 0.005

Subscribe: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]
"""Given what to call on each wake-up, returns what ends the subscription."""


class _Section:
    """A piece of the stream: everything above ``start``, up to ``end``."""

    __slots__ = ("end", "events", "start", "weight")

    def __init__(self, start: Position, page: Page) -> None:
        self.start, self.end, self.events = start, page.position, page.events
        self.weight = 1 + len(self.events)


class TailFeed:
    """What a tail hands to one stream. Read by one task."""

    __slots__ = (
        "_cancelled",
        "_cut",
        "_error",
        "_filled",
        "_loop",
        "_sections",
        "_tail",
        "_weight",
        "position",
    )

    def __init__(self, tail: "Tail", position: Position) -> None:
        self._tail = tail
        self.position = position
        """Everything up to here has been taken."""
        self._loop = asyncio.get_running_loop()
        self._sections: deque[_Section] = deque()
        self._weight = 0
        self._filled: asyncio.Future[None] | None = None
        self._cut = self._cancelled = False
        self._error: Exception | None = None

    def take(self) -> Sequence[Event] | None:
        """Return the next events, none if there are none yet; ``None`` if the stream has to read for itself again.

        :raises StreamClosed: if the feed was cancelled
        :raises ReflexError: whatever ended the tail
        """
        while self._sections:
            section = self._sections.popleft()
            self._weight -= section.weight
            events = section.events
            if section.start < self.position:
                # The stream came from further on than where the tail was.
                events = [event for event in events if int(event.id) > self.position]
            self.position = section.end
            if events:
                return events
        if self._cut:
            if self._error is not None:
                # A copy for each stream: a traceback grows with every raise.
                raise copy(self._error) from self._error
            return None
        if self._cancelled:
            raise StreamClosed
        return ()

    def arrival(self) -> Awaitable[None] | None:
        """Return what is done when there may be something to :meth:`take`; ``None`` if there may be now."""
        if self._sections or self._cut or self._cancelled:
            return None
        # An asyncio.Event would do the same, at twice the price.
        self._filled = filled = self._loop.create_future()
        return filled

    def cancel(self) -> None:
        """End a read that waits, and those to come, by StreamClosed."""
        self._cancelled = True
        self._wake()

    def detach(self) -> None:
        """Take no more."""
        self._tail._detach(self)

    def _put(self, section: _Section) -> bool:
        """Hand on a section; tell if there was room for it, as there was unless nobody takes what is here."""
        if self._weight >= _KEPT:
            return False
        if section.end > self.position:
            self._sections.append(section)
            self._weight += section.weight
            if (filled := self._filled) is not None and not filled.done():
                filled.set_result(None)
        return True

    def _end(self, error: Exception | None) -> None:
        self._cut, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._filled is not None and not self._filled.done():
            self._filled.set_result(None)


class Tail:
    """Reads a table at its head for as long as there are feeds.

    :param loader: loads the table's pages
    :param statements: the connection to load them through
    :param subscribe: subscribes to the table's wake-ups
    :param advanced: called when the tail has come further, with nothing missing behind it
    :param polling: tells how long to wait for a wake-up before looking all the same, by the event loop's clock
    """

    def __init__(
        self,
        loader: Loader,
        statements: PinnedConnection,
        subscribe: Subscribe,
        *,
        advanced: Callable[["Tail"], None],
        polling: Polling,
        table: str,
    ) -> None:
        self._loader = loader
        self._statements = statements
        self._subscribe = subscribe
        self._advanced = advanced
        self._polling = polling
        self._table = table
        self._tasks = Tasks()
        self._reader: asyncio.Task[None] | None = None
        self._feeds: set[TailFeed] = set()
        self.position: Position = 0
        self._at_gap = False
        self._recent: deque[_Section] = deque()
        self._recent_weight = 0
        self._woken = TimedEvent()
        self._look_again = math.inf

    def serves(self, position: Position) -> bool:
        """Tell whether a stream at ``position`` is served here, rather than waiting at a gap that lies behind it."""
        return self._reader is None or not (self._at_gap and position > self.position)

    def attach(self, position: Position) -> TailFeed | None:
        """Return a feed of all that comes after ``position``; ``None`` if the tail has passed that too long ago."""
        feed = TailFeed(self, position)
        if self._reader is None:
            self.position, self._at_gap = position, False
            self._recent.clear()
            self._recent_weight = 0
            self._reader = self._tasks.start(self._read(), name=f"reflex_aio: tail of {self._table}")
        elif position < self.position:
            missed = [section for section in self._recent if section.end > position]
            if not missed or missed[0].start > position:
                return None
            if not all(map(feed._put, missed)):
                return None
        self._feeds.add(feed)
        return feed

    def disperse(self) -> None:
        """Cut off all feeds, which are served as well elsewhere."""
        for feed in tuple(self._feeds):
            self._cut_off(feed)

    async def aclose(self) -> None:
        """End the reader and give back the connection."""
        await self._tasks.aclose()
        await self._statements.aclose()

    def _cut_off(self, feed: TailFeed) -> None:
        # It keeps what it has; its stream loads the rest when it comes to it.
        feed._end(None)
        self._detach(feed)

    def _detach(self, feed: TailFeed) -> None:
        self._feeds.discard(feed)
        if not self._feeds and self._reader is not None:
            reader, self._reader = self._reader, None
            if reader is not asyncio.current_task():
                reader.cancel()

    async def _read(self) -> None:
        me = asyncio.current_task()
        # Before anything is loaded, so that no wake-up falls in between.
        unsubscribe = self._subscribe(self._woken.set)
        self._polling.happened(asyncio.get_running_loop().time())
        try:
            while self._reader is me:
                await self._advance()
        except Exception as exc:
            # Feeds that came when this was already cancelled belong to another reader.
            if self._reader is me:
                self._end(exc)
        finally:
            unsubscribe()
            if self._reader is me:
                self._reader = None

    def _end(self, error: Exception) -> None:
        logger.debug("%s: the tail ended: %r", self._table, error)
        feeds, self._feeds = self._feeds, set()
        for feed in feeds:
            feed._end(error)

    async def _advance(self) -> None:
        """Load what there is, then wait until there may be more."""
        if self._woken.is_set:
            # A page proves the head only against wake-ups from before its query was sent.
            self._woken.is_set = False
            self._look_again = _LOOK_AGAIN
            self._polling.happened(asyncio.get_running_loop().time())
        start = self.position
        page = await self._loader.load(start, self._statements)
        self._at_gap = page.gap
        if page.position > start:
            # First, as the page's events are made here, and nothing may be passed over that can't be.
            section = _Section(start, page)
            self.position = page.position
            self._polling.happened(asyncio.get_running_loop().time())
            self._hand_out(section)
        if page.gap:
            for feed in [feed for feed in self._feeds if feed.position > self.position]:
                self._cut_off(feed)
        else:
            self._advanced(self)
        if not self._feeds:
            return
        if self._loader.upkeep_due() == 0.0:
            await self._loader.upkeep()
        if page.more:
            return
        if page.gap:
            await self._loader.resolve(self.position, self._woken)
        else:
            await self._wait()

    def _hand_out(self, section: _Section) -> None:
        self._recent.append(section)
        self._recent_weight += section.weight
        while self._recent_weight > _KEPT and len(self._recent) > 1:
            self._recent_weight -= self._recent.popleft().weight
        for feed in tuple(self._feeds):
            if not feed._put(section):
                self._cut_off(feed)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        # Spread out, so that processes started together don't poll together.
        wait = self._polling.period(loop.time()) * random.uniform(0.9, 1.0)
        if self._loader.lags and self._look_again < wait:
            wait, self._look_again = self._look_again, self._look_again * 2
        look_at = loop.time() + wait
        while not self._woken.is_set:
            upkeep = self._loader.upkeep_due()
            left = look_at - loop.time()
            if left <= 0:
                return
            until = look_at if upkeep is None else min(look_at, loop.time() + upkeep)
            if not await self._woken.wait(until) and upkeep is not None and upkeep <= left:
                await self._loader.upkeep()
