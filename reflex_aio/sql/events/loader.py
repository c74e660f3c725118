"""Loading the events of a table page by page: what is common to all databases.

The layers of a stream, from the consumer down. A wake-up enters at the tail, a page of events leaves at the top::

    EventStream             async for, read_page, close (reflex_aio/stream.py)
    TableStream             pages of its own until it has caught up, then the tail's; lag, to_head (source.py)
      ReadAhead             requests the next page while this one is consumed (source.py)
      TailFeed              the events that the tail has delivered to this stream (tail.py)
    Tail                    one reader at the head for all streams; waits for wake-ups, and polls (tail.py)
    SharedReader            one loader and tail for each table and pool in a process (shared_reader.py)
    Loader                  one page: the longest prefix without an unresolved gap (postgres/loader.py, mysql/loader.py)
      PageColumns, Queries  the statements, and the decoding of their rows (postgres/queries.py, mysql/queries.py)
      GapResolver           decides which missing ids can never appear any more (postgres/gaps.py, mysql/gaps.py)
        Horizon             PostgreSQL: the bookkeeping of the holders of the sequence's lock (postgres/horizon.py)
        GapFiller           noops for missing ids: on MySQL always, on PostgreSQL with fill_gaps=True (gap_fill.py)
    PinnedConnection        a pool's connection, a time limit, and translated errors (drivers/pinned_connection.py)
"""

import asyncio
import math
import reprlib
import time
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from reflex_aio.errors import SchemaError
from reflex_aio.event import INT32_MAX, INT32_MIN, TIMESTAMP_US_MAX, TIMESTAMP_US_MIN, Event
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.wakeups.notifier import TimedEvent

__all__ = [
    "BadRow",
    "GapResolver",
    "Loader",
    "Page",
    "PageLimits",
    "Position",
    "ReplicaGaps",
    "check_rows",
    "safe_prefix",
]

# The size of the largest value that a database returns, in bytes.
_ANY_SIZE = 1 << 30
# The number of events is halved this many times before a page is tried again.
_HALVINGS = 3
_BAD_TIMESTAMP = "is NULL or zero, or out of range: accepted is a time of the years 1 to 9999"
_BAD_TYPE = f"is NULL or out of range: accepted is {INT32_MIN} to {INT32_MAX}"
# How often a replica is read again while the primary's noops are awaited, in seconds.
_REPLICA_INTERVAL = 0.1

Position = int
"""The id up to which a reader has read everything; 0 is before the first."""


class BadRow(Exception):
    """Raised by the decoding of a page with a row that is no event.

    :param error: describes it, with its id
    :param before: the id of the row before it; 0 if it is the first of the page
    :param decode: decodes the rows before it
    """

    def __init__(
        self, error: SchemaError, before: Position, decode: Callable[[bool], Sequence[Event]]
    ) -> None:
        super().__init__(str(error))
        self.error, self.before, self.decode = error, before, decode


class Page:
    """The events that follow a position, up to the first unresolved gap.

    :param events: the events, or a function that decodes them, which receives whether a batch is preferred. It is
        called on first access, so that the next page can be requested before
    :param position: the id up to which everything has been read, including ``events``
    :param more: whether the page was full, so that the next one may be loaded immediately
    :param gap: whether there are further rows behind an unresolved gap
    """

    __slots__ = ("_decode", "_events", "gap", "more", "position")

    def __init__(
        self,
        events: Sequence[Event] | Callable[[bool], Sequence[Event]],
        position: Position,
        more: bool,
        gap: bool,
    ) -> None:
        self._decode: Callable[[bool], Sequence[Event]] | None = None
        self._events: Sequence[Event] = ()
        if callable(events):
            self._decode = events
        else:
            self._events = events
        self.position = position
        self.more = more
        self.gap = gap

    def decode(self, *, batch: bool = False) -> Sequence[Event]:
        """Return the events. A decoding error is raised on every call.

        If a row is no event, the page ends before it: ``position`` and ``more`` change on the first call.

        :param batch: on the first call, return a batch rather than event objects, if the page consists of columns
        :raises SchemaError: if the first row is no event
        """
        if self._decode is not None:
            try:
                events = self._decode(batch)
            except BadRow as bad:
                if not bad.before:
                    raise bad.error from None
                events = bad.decode(batch)
                self.position, self.more, self.gap = bad.before, True, False
            self.replace(events)
        return self._events

    def replace(self, events: Sequence[Event]) -> None:
        """Let the page have these events."""
        self._events, self._decode = events, None


class PageLimits:
    """The number of events that a query loads: fewer where they are large, so that pages have a limited size.

    A query returns no value that is larger than its share of a page. A page ends before the first event with such a
    value, and the next query loads fewer events with larger values; a query for one event has no limit.

    :param count: the number of events that a query loads if they are small
    :param size: the size of their values, in bytes
    :param columns: the number of columns whose values may be large
    """

    def __init__(self, count: int, size: int, columns: int) -> None:
        self._most = count
        self._size = size // max(1, columns)
        self._halvings = 0

    @property
    def count(self) -> int:
        """The number of events that a query loads."""
        return max(1, self._most >> self._halvings)

    @property
    def value_size(self) -> int:
        """The size of the largest value that a query returns, in bytes."""
        return _ANY_SIZE if self.count == 1 else self._size // self.count

    @property
    def reduced(self) -> bool:
        """True if queries load fewer events, as some were large."""
        return self._halvings > 0

    def exceeded(self, largest: int) -> None:
        """Load fewer events.

        :param largest: the size of the largest value as far as it is known, in bytes
        """
        self._halvings += _HALVINGS
        while self.count > 1 and self.count * largest > self._size:
            self._halvings += 1
        self._halvings = min(self._halvings, self._most.bit_length() - 1)

    def kept(self, largest: int) -> None:
        """Load more events, if a full page was much smaller than the limit.

        :param largest: the size of its largest value, in bytes
        """
        if self._halvings and (self._most >> (self._halvings - 1)) * largest <= self._size:
            self._halvings -= 1

    def refused(self) -> None:
        """Load half as many events from now on, as the server did not return as many."""
        self._most = max(1, self.count // 2)
        self._halvings = 0


class GapResolver(ABC):
    """Decides which missing ids of a table can never appear any more, for all readers of a process."""

    due_at: float = math.inf
    """The time of :func:`time.monotonic` at which :meth:`upkeep` should be called; infinite if there is no need."""

    @abstractmethod
    async def resolve(self, position: Position, woken: TimedEvent | None = None) -> None:
        """Wait until the gap after ``position`` is resolved, or may be.

        :param woken: set by wake-ups, which shorten the wait
        """

    async def upkeep(self) -> None:
        """Do the work that keeps the next gap short, about ten times a second while events arrive."""
        return

    async def check(self, position: Position, *, replaced: bool) -> None:
        """Check that ``position`` is not ahead of the table.

        :param replaced: check too that the table is still the one that was opened
        :raises CursorAhead: if the position is ahead
        :raises TableReplaced: if the table was replaced, or its ids were restarted
        """
        return


class ReplicaGaps(GapResolver):
    """The gaps of a table that is read on a replica without ``primary``. ``fill_gaps()`` on the primary fills them.

    :param check_replica: called after each wait; raises if the server is no longer a replica
    """

    def __init__(
        self, settings: EventsSettings, check_replica: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._interval = min(settings.poll_period, _REPLICA_INTERVAL)
        self._check_replica = check_replica

    async def resolve(self, position: Position, woken: TimedEvent | None = None) -> None:
        # The noops arrive by replication, with or without a wake-up.
        await asyncio.sleep(self._interval)
        if self._check_replica is not None:
            await self._check_replica()


class Loader(ABC):
    """Loads the events of one table through one pool, for all of its readers in this process.

    :param pool: where the rows are read
    :param primary: a pool of the primary, if ``pool`` connects to a replica
    :param fill_gaps: whether every missing id must be filled by a noop: see :meth:`EventsTable.source`
    """

    topic: str = ""
    """The table's name in wake-ups, ``schema.table``. Set by :meth:`open`."""

    lags: bool = False
    """True if events become visible only some time after their wake-ups. Set by :meth:`open`."""

    gaps: GapResolver
    """The resolver of the table's gaps. Set by :meth:`open`."""

    def __init__(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, primary: Any, fill_gaps: bool
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._primary = primary
        self._fill_gaps = fill_gaps
        self._statements = self._pin(pool)
        schema = settings.schema
        self._limits = PageLimits(
            settings.page_size, settings.page_bytes, columns=schema.metadata + schema.trace
        )
        # When each gap that a page ended at was detected, by its position.
        self._gaps_since: dict[Position, float] = {}

    @property
    @abstractmethod
    def obsolete(self) -> bool:
        """True if the table or its server was replaced since :meth:`open`: a new loader is needed."""

    @abstractmethod
    async def open(self) -> None:
        """Find the table and check that its events can be streamed. Must be called first, and once.

        :raises TableNotFound: if there is no such table
        :raises SchemaError: if the table differs from the table object
        :raises TableRefused: if its ids are generated in a way in which events could be missed
        """

    @abstractmethod
    async def head(self, lag: float | None) -> Position:
        """Return the greatest visible id, or that of the newest event older than ``lag`` seconds; 0 if none."""

    @abstractmethod
    async def load(self, position: Position, statements: PinnedConnection) -> Page:
        """Load the page after ``position``. It does not wait at a gap: the page ends there, and may be empty."""

    async def aclose(self) -> None:
        """Release the connections."""
        while self._gaps_since:
            self._settings.hooks.gap_abandoned(self._settings.name, self._gaps_since.popitem()[0])
        await self._statements.aclose()

    def _pin(self, pool: Any) -> PinnedConnection:
        settings = self._settings
        return PinnedConnection(self._driver, pool, table=settings.name, timeout=settings.query_timeout)

    def _report_gap(self, after: Position, before: int) -> None:
        """Report the gap between two ids, at which a page ends, unless it was reported already."""
        if after not in self._gaps_since:
            self._gaps_since[after] = time.monotonic()
            self._settings.hooks.gap_detected(self._settings.name, after, before)

    def _report_resolved(self, position: Position, end: Position) -> None:
        """Report the gaps that a page has passed, which follows ``position`` and ends at ``end``."""
        settings, now = self._settings, time.monotonic()
        for after in [after for after in self._gaps_since if position <= after < end]:
            settings.hooks.gap_resolved(settings.name, after, now - self._gaps_since.pop(after))

    async def _page(
        self,
        connection: Any,
        decode: Callable[[bool], Sequence[Event]],
        end: Position,
        more: bool,
        gap: bool,
    ) -> Page:
        """Return a page, with the events that the user's loader returns for it."""
        page = Page(decode, end, more, gap)
        if self._settings.loader is not None:
            page.replace(await self._apply_page_loader(connection, page.decode()))
        return page

    async def _apply_page_loader(self, connection: Any, events: Sequence[Event]) -> Sequence[Event]:
        """Return the events that the user's loader returns for ``events``.

        :raises TypeError: if they are not a sequence of events
        :raises ValueError: if one of them is not in the page, or they are in another order
        """
        if not events or self._settings.loader is None:
            return events
        loaded = await self._settings.loader(connection, events)
        if not isinstance(loaded, Sequence) or not all(isinstance(event, Event) for event in loaded):
            # In particular None, of a loader that has changed the list in place.
            raise TypeError(f"the loader returned {reprlib.repr(loaded)}: accepted is a sequence of events")
        ids = (event.id for event in events)
        for event in loaded:
            # The search continues after the last id found.
            if event.id not in ids:
                raise ValueError(
                    f"the loader returned event {event.id} twice, out of order, or without having received it: the ids"
                    " are the cursors after which consumers continue"
                )
        return loaded


def safe_prefix(ids: Sequence[int], position: Position, resolved: Position) -> tuple[int, Position]:
    """Return how many of ``ids`` may be delivered after ``position``, and the position after them.

    These are the ids up to ``resolved``, and those that follow them, or ``position``, without a missing id.

    :param ids: the ids of the events that were read after ``position``, in ascending order
    :param resolved: the id up to which no further event can appear
    """
    count = len(ids)
    if count and ids[-1] - position == count:
        return count, ids[-1]
    first = 0
    if resolved > position:
        first, position = bisect_right(ids, resolved), resolved
    # Along the sequence, id minus index never decreases, and it increases at each gap.
    end = bisect_left(range(first, count), 1, key=lambda i: int(ids[i] - position - (i - first) > 1)) + first
    return end, ids[end - 1] if end > first else position


def check_rows(
    settings: EventsSettings,
    ids: Sequence[Any],
    types: Sequence[Any],
    foreign_ids: Sequence[Any],
    timestamps_us: Sequence[Any],
    decode: Callable[[int, bool], Sequence[Event]],
) -> None:
    """Check the columns of a page, which have ``None`` for NULL and for times that are not valid.

    :param decode: decodes the first rows of the page, of which it receives the number
    :raises BadRow: for the first row that is no event
    """
    columns = settings.columns
    for index, (kind, foreign_id, timestamp) in enumerate(
        zip(types, foreign_ids, timestamps_us, strict=True)
    ):
        if timestamp is None or not TIMESTAMP_US_MIN <= timestamp <= TIMESTAMP_US_MAX:
            name, problem = columns.timestamp, _BAD_TIMESTAMP
        elif kind is None or not INT32_MIN <= kind <= INT32_MAX:
            name, problem = columns.type, _BAD_TYPE
        elif foreign_id is None:
            name, problem = columns.foreign_id, "is NULL"
        else:
            continue
        difference = f'column "{name}" of event {ids[index]} {problem}'
        error = SchemaError(table=settings.name, differences=[difference])
        raise BadRow(error, int(ids[index - 1]) if index else 0, partial(decode, index))
