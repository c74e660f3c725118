"""The streams of an events table through a pool, each of which reads pages of its own until the tail feeds it."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from reflex_aio.errors import InvalidCursor, StreamClosed
from reflex_aio.event import Event
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.dialect import EventsDialect
from reflex_aio.sql.events.loader import Page, Position
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.events.shared_reader import SharedReader, acquire_shared_reader
from reflex_aio.sql.events.tail import TailFeed
from reflex_aio.stream import EventStream, StreamOptions
from reflex_aio.tasks import Tasks

__all__ = ["ReadAhead", "TableSource"]

_GREATEST_ID = 2**63 - 1


class TableSource:
    """Streams the events of a table through a pool. See :meth:`reflex_aio.sql.EventsTable.source`."""

    def __init__(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, primary: Any, fill_gaps: bool
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._pool = pool
        self._primary = primary
        self._fill_gaps = fill_gaps

    def __repr__(self) -> str:
        return f"<source of {self._settings.name}>"

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``. See :class:`~reflex_aio.stream.Source`.

        :raises InvalidCursor: if ``after`` is not an event id
        :raises ValueError: if ``lag`` is out of range
        """
        return _TableStream(self, _position(after), StreamOptions(from_head, to_head, lag))

    async def head(self) -> str:
        """Return the cursor of the newest event, or ``""`` if there is none.

        :raises ReflexError: if the query fails
        """
        settings = self._settings
        statement = dialect_part(EventsDialect, self._driver.dialect).head(settings)
        async with PinnedConnection(
            self._driver, self._pool, table=settings.name, timeout=settings.query_timeout
        ) as statements:
            rows = await statements.fetch(statement)
        return _cursor(rows[0][0] or 0)

    def _reader(self) -> SharedReader:
        return acquire_shared_reader(self._settings, self._driver, self._pool, self._primary, self._fill_gaps)


class ReadAhead:
    """Loads pages for one reader, the next one while the last one is consumed.

    A consumer that never waits lets no other task run until it has consumed its page. So if a page was waited for, the
    next one is requested as soon as it has arrived, before the reader continues.

    :param load: loads the page after a position
    :param name: the name of the tasks that load
    """

    def __init__(self, load: Callable[[Position], Awaitable[Page]], *, name: str) -> None:
        self._load = load
        self._name = name
        self._tasks = Tasks()
        self._next: asyncio.Task[Page] | None = None
        self._next_after: Position = 0
        self._following: asyncio.Task[Page] | None = None
        self._awaited = False

    async def page(self, position: Position, *, batch: bool = False) -> Page:
        """Return the page after ``position``, the end of the last one. See :meth:`Page.decode` for ``batch``.

        If this is cancelled, the page that is being loaded is left to the next call. After an error it is loaded again.
        """
        if self._next is None or self._next_after != position:
            # A page that was loaded after another position must not be taken for this one.
            self._next, self._next_after, self._following = self._start(position), position, None
        self._awaited = True
        try:
            page = await asyncio.shield(self._next)
        finally:
            self._awaited = False
        # Decoded here: the next page has been requested, and after a decoding error this page is returned again.
        before = page.position
        page.decode(batch=batch)
        if page.position != before and self._following is not None:
            # The page ends before a row that is no event. The following page begins with it.
            self._following.cancel()
            self._following = None
        self._next, self._next_after, self._following = self._following, page.position, None
        if page.more and self._next is None:
            self._next = self._start(page.position)
        return page

    async def aclose(self) -> None:
        """Stop loading."""
        await self._tasks.aclose()

    def _start(self, position: Position) -> asyncio.Task[Page]:
        loading = self._tasks.start(self._load_ahead(position), name=self._name, awaited=True)
        loading.add_done_callback(self._forget_failed)
        return loading

    async def _load_ahead(self, position: Position) -> Page:
        page = await self._load(position)
        # Only if this page is waited for: the following one may arrive before the reader continues, and its own
        # successor would take its place.
        if page.more and self._awaited and asyncio.current_task() is self._next:
            # Started before the reader continues, as tasks run in the order in which they become ready.
            self._following = self._start(page.position)
        return page

    def _forget_failed(self, loading: asyncio.Task[Page]) -> None:
        if loading.cancelled() or loading.exception() is not None:
            if self._next is loading:
                self._next = None
            if self._following is loading:
                self._following = None


class _TableStream(EventStream):
    """Reads pages of its own until it has caught up, and is then fed by the tail that all streams share."""

    def __init__(self, source: TableSource, position: Position, options: StreamOptions) -> None:
        super().__init__(_cursor(position))
        self._source = source
        self._options = options
        self._position = position
        self._table = source._settings.name
        self._hooks = source._settings.hooks
        self._ahead = ReadAhead(self._load, name=f"reflex_aio: page of {self._table}")
        self._reader: SharedReader | None = None
        self._head: Position | None = None
        self._fed_by: TailFeed | None = None
        # Streams that delay events, or end at the head, read all pages for themselves.
        self._joins_tail = not options.to_head and not options.lag
        # Where the last page ended at a gap.
        self._gap: Position | None = None
        self._caught_up = False
        # The events that are not yet as old as lag.
        self._young: deque[Event] = deque()

    async def _open(self) -> str:
        options = self._options
        if self._reader is None:
            self._reader = self._source._reader()
            self._statements = self._reader.pin()
        await self._reader.open()
        loader = self._reader.loader
        if options.from_head or options.to_head:
            head = await loader.head(options.lag)
            if options.from_head:
                self._position = head
            if options.to_head:
                self._head = head
        if not options.from_head:
            await loader.gaps.check(self._position, replaced=False)
        elif self._joins_tail:
            self._fed_by = self._reader.attach(self._position)
        return _cursor(self._position)

    async def _read(self) -> Sequence[Event] | None:
        assert self._reader is not None
        while self._fed_by is None:
            if self._young:
                return await self._aged()
            if self._head is not None and self._position >= self._head:
                return ()
            page = await self._ahead.page(self._position, batch=self._in_batches)
            self._hooks.page_read(self._table, shared=False)
            self._position = page.position
            if self._joins_tail and not page.more and not page.gap:
                self._fed_by = self._reader.attach(self._position)
                if self._fed_by is not None:
                    self._statements.release_soon()
            events = page.decode()
            if self._head is not None and events and int(events[-1].id) > self._head:
                events = [event for event in events if int(event.id) <= self._head]
            if events and self._options.lag:
                self._young.extend(events)
            elif events:
                return events
        return None

    def _take_fed(self) -> Sequence[Event] | None:
        feed = self._fed_by
        assert feed is not None
        try:
            events = feed.take()
        except StreamClosed:
            # _close() still has to detach the feed.
            raise
        except Exception:
            # The next read begins with a page of its own, and possibly a new tail.
            self._leave(feed)
            raise
        if events:
            self._hooks.page_read(self._table, shared=True)
        elif events is None:
            self._leave(feed)
        return events

    def _leave(self, feed: TailFeed) -> None:
        self._position, self._fed_by = feed.position, None

    async def _load(self, position: Position) -> Page:
        assert self._reader is not None
        loader = self._reader.loader
        if self._gap == position or (self._caught_up and self._head is not None):
            # The newest rows may have been deleted. Then no page of a stream that ends at the head shows the gap.
            await loader.gaps.resolve(position)
        elif self._caught_up:
            await asyncio.sleep(min(self._options.lag or 0.0, self._source._settings.poll_period))
        elif time.monotonic() >= loader.gaps.due_at:
            await loader.gaps.upkeep()
        page = await loader.load(position, self._statements)
        # Set here, as the next page may be requested before this one is consumed.
        self._gap = page.position if page.gap else None
        if not self._joins_tail:
            # Decoding may end the page before its last row.
            self._caught_up = not (page.gap or page.more or page.decode() or page.more)
            if self._head is not None and page.position >= self._head:
                # No further page is needed.
                page.more = False
        return page

    async def _aged(self) -> Sequence[Event]:
        """Wait until the first of the young events is old enough, and return those that are."""
        lag, settings = self._options.lag or 0.0, self._source._settings
        clock = settings.clock
        aged: list[Event] = []
        while not aged:
            due = self._young[0].timestamp_us / 1_000_000 + lag
            # In bounded steps, as the clock may be adjusted meanwhile.
            await asyncio.sleep(min(max(0.0, due - clock()), settings.poll_period))
            newest = (clock() - lag) * 1_000_000
            while self._young and self._young[0].timestamp_us <= newest:
                aged.append(self._young.popleft())
        return aged

    async def _close(self) -> None:
        if self._fed_by is not None:
            self._fed_by.detach()
        await self._ahead.aclose()
        if self._reader is not None:
            await asyncio.gather(self._statements.aclose(), self._reader.release())


def _cursor(position: Position) -> str:
    return str(position) if position else ""


def _position(cursor: str) -> Position:
    if cursor == "":
        return 0
    # Longer texts are no ids either, and int() takes quadratic time.
    if (
        isinstance(cursor, str)
        and cursor.isascii()
        and cursor.isdecimal()
        and len(cursor) <= len(str(_GREATEST_ID))
    ):
        position = int(cursor)
        if position <= _GREATEST_ID:
            return position
    raise InvalidCursor(cursor, f'an event id, from "0" to "{_GREATEST_ID}", or "" for the beginning')
