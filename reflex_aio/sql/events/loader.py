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
from typing import Any

from reflex_aio.event import Event
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.wakeups.notifier import TimedEvent

__all__ = ["GapResolver", "Loader", "Page", "Position", "ReplicaGaps", "safe_prefix"]

# How often a replica is read again while the primary's noops are awaited, in seconds.
_REPLICA_INTERVAL = 0.1

Position = int
"""The id up to which a reader has read everything; 0 is before the first."""


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

        :param batch: on the first call, return a batch rather than event objects, if the page consists of columns
        """
        if self._decode is not None:
            self._events, self._decode = self._decode(batch), None
        return self._events


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
