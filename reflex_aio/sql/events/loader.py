"""Loading a table's events page by page: what is common to all databases."""

import reprlib
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from reflex_aio.event import Event
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.wakeups.notifier import TimedEvent

__all__ = ["Loader", "Page", "Position", "check_loaded", "safe_prefix"]

Position = int
"""The id up to which a reader has everything; 0 is before the first."""


class Page:
    """The events that follow a position, without a gap between them that isn't resolved.

    :param events: the events, or what makes them, as a list or as a batch. It is called when they are first asked for:
        the next page can be requested before
    :param position: everything up to here has been read, ``events`` included
    :param more: whether the page was cut short by its size: the next one may be loaded at once
    :param gap: whether there are further rows, behind a gap that isn't resolved
    """

    __slots__ = ("_events", "_make", "gap", "more", "position")

    def __init__(
        self,
        events: Sequence[Event] | Callable[[bool], Sequence[Event]],
        position: Position,
        more: bool,
        gap: bool,
    ) -> None:
        self._make: Callable[[bool], Sequence[Event]] | None = None
        self._events: Sequence[Event] = ()
        if callable(events):
            self._make = events
        else:
            self._events = events
        self.position = position
        self.more = more
        self.gap = gap

    @property
    def events(self) -> Sequence[Event]:
        """The events. Of what can't be made, each time it is asked for it is told why."""
        return self.made()

    def made(self, *, batch: bool = False) -> Sequence[Event]:
        """Return the events; as a batch, if asked for one the first time, and if they have columns."""
        if self._make is not None:
            self._events, self._make = self._make(batch), None
        return self._events


class Loader(ABC):
    """Loads the events of one table through one pool, for all readers that these have in this process."""

    topic: str
    """What wake-ups call the table: ``schema.table``. Known once the loader is open."""

    lags: bool
    """Whether events become visible only some time after the wake-ups that tell of them. Known once it is open."""

    @property
    @abstractmethod
    def obsolete(self) -> bool:
        """Whether the table, or its server, isn't what was opened any more: a new loader is needed."""

    @abstractmethod
    async def open(self) -> None:
        """Find the table and check that its events can be streamed. To be called before anything else, and once.

        :raises TableNotFound: if there is no such table
        :raises SchemaError: if the table isn't what the table object says
        :raises TableRefused: if its ids are given out in a way in which events could be missed
        """

    @abstractmethod
    async def check(self, position: Position, *, anew: bool) -> None:
        """Check that ``position`` isn't ahead of the table; ``anew``, also that the table is the one that was opened.

        :raises CursorAhead: if it is
        :raises TableReplaced: if the table or its ids began anew
        """

    @abstractmethod
    async def head(self, lag: float | None) -> Position:
        """Return the greatest visible id, or that of the newest event already ``lag`` seconds old; 0 if none."""

    @abstractmethod
    async def load(self, position: Position, through: PinnedConnection) -> Page:
        """Load the page after ``position``. Waits for nothing: at a gap the page ends, and may so be empty."""

    @abstractmethod
    async def resolve(self, position: Position, woken: TimedEvent | None = None) -> None:
        """Wait until the gap after ``position`` is resolved, or may be; ``woken`` tells of new events meanwhile."""

    @abstractmethod
    def upkeep_due(self) -> float | None:
        """Return in how many seconds :meth:`upkeep` is to be called, or ``None`` if there is no need."""

    @abstractmethod
    async def upkeep(self) -> None:
        """Do what keeps the next gap short, some ten times a second while events flow."""

    @abstractmethod
    async def aclose(self) -> None:
        """Give back what the loader holds."""


def safe_prefix(ids: Sequence[int], position: Position, resolved: Position) -> tuple[int, Position]:
    """Return how many of ``ids`` may be delivered after ``position``, and the position after them.

    These are the ids up to ``resolved``, and those that follow on them, or on ``position``, without a missing one.

    :param ids: of the events that were read after ``position``, in their order
    :param resolved: the id up to which no event can appear any more
    """
    count = len(ids)
    if count and ids[-1] - position == count:
        return count, ids[-1]
    first = 0
    if resolved > position:
        first, position = bisect_right(ids, resolved), resolved
    # From one to the next, id minus index never falls, and it rises at each gap.
    end = bisect_left(range(first, count), 1, key=lambda i: int(ids[i] - position - (i - first) > 1)) + first
    return end, ids[end - 1] if end > first else position


def check_loaded(loaded: object, given: Sequence[Event]) -> Sequence[Event]:
    """Return what a table's own loader has made of a page, if it may be handed out instead of it.

    :raises TypeError: if it isn't a sequence of events
    :raises ValueError: if it has ids that the page doesn't have, or not in this order
    """
    if not isinstance(loaded, Sequence) or not all(isinstance(event, Event) for event in loaded):
        # None above all, as of a loader that has changed the list that it was given.
        raise TypeError(f"the loader has returned {reprlib.repr(loaded)}: accepted is a sequence of events")
    ids = (event.id for event in given)
    for event in loaded:
        # Goes on from where the last one was found.
        if event.id not in ids:
            raise ValueError(
                f"the loader has returned event {event.id} twice, out of order or without having been given it:"
                " the ids are the cursors of those who read on from there"
            )
    return loaded
