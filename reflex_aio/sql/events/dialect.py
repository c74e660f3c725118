"""What a dialect has to do to write and read events."""

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from reflex_aio.event import Event
from reflex_aio.hooks import Hooks
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.events.loader import Loader
from reflex_aio.sql.events.values import NewEvents, Values
from reflex_aio.sql.schema.names import EventColumns, EventsSchema
from reflex_aio.sql.wakeups.notifier import Notifier

__all__ = [
    "EventsDialect",
    "EventsSettings",
    "EventsWriter",
    "Inserter",
    "PageLoader",
    "Wakeups",
    "wakeable_dialect",
]

Wakeups: TypeAlias = Literal["commit", "transaction", "trigger"] | None

PageLoader: TypeAlias = Callable[[Any, Sequence[Event]], Awaitable[Sequence[Event]]]
"""Given a connection and the events that were read on it, returns those to deliver, in the same order."""

Inserter: TypeAlias = Callable[[Any, str, int, bytes | None, bytes | None], Awaitable[int | str]]
"""Given a connection, foreign id, type, metadata and trace, inserts an event and returns its id."""

_WAKEUPS = ("commit", "transaction", "trigger", None)
_LONGEST_PAGE = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class EventsSettings:
    """The settings of an events table. :class:`~reflex_aio.sql.EventsTable` tells what each means.

    :raises ValueError: if one is out of its range
    :raises TypeError: if one has the wrong type
    """

    schema: EventsSchema
    page_size: int
    poll_period: float
    poll_floor: float
    query_timeout: float
    wakeups: Wakeups
    notifier: Notifier | None
    include_noops: bool
    loader: PageLoader | None
    inserter: Inserter | None
    hooks: Hooks
    clock: Callable[[], float]
    name: str = field(init=False)
    """The table's name, for messages."""

    def __post_init__(self) -> None:
        if self.wakeups not in _WAKEUPS:
            raise ValueError(
                f"wakeups {self.wakeups!r} is not accepted: {', '.join(map(repr, _WAKEUPS))} are"
            )
        _check("page_size", self.page_size, _is_number(self.page_size, int), "an int")
        if not 1 <= self.page_size <= _LONGEST_PAGE:
            raise ValueError(f"page_size {self.page_size} is out of range: accepted is 1 to {_LONGEST_PAGE}")
        for what in ("poll_period", "poll_floor", "query_timeout"):
            seconds = getattr(self, what)
            _check(what, seconds, _is_number(seconds, (int, float)), "a number of seconds above 0")
            if not 0 < seconds < math.inf:
                raise ValueError(f"{what} {seconds} is out of range: accepted is a number of seconds above 0")
        _check("notifier", self.notifier, _or_none(self.notifier, Notifier), "a Notifier or None")
        if self.notifier is not None and self.wakeups is None:
            raise ValueError("wakeups=None means that streams only poll: leave out notifier, or wakeups")
        _check("include_noops", self.include_noops, isinstance(self.include_noops, bool), "a bool")
        for what, function in (("loader", self.loader), ("inserter", self.inserter)):
            _check(what, function, function is None or callable(function), "an async function or None")
        _check("hooks", self.hooks, isinstance(self.hooks, Hooks), "a Hooks or None")
        _check("clock", self.clock, callable(self.clock), "a function that returns seconds")
        object.__setattr__(self, "name", str(self.schema.table))

    @property
    def columns(self) -> EventColumns:
        """The table's column names."""
        return self.schema.columns

    @property
    def key(self) -> Hashable:
        """What differs where readers can't be shared. True only as long as these settings are held."""
        # By their identities, as objects of the user's may not be hashable, or be equal and yet not the same.
        objects = (self.notifier, self.loader, self.inserter, self.hooks, self.clock)
        plain = (
            self.schema,
            self.page_size,
            self.poll_period,
            self.poll_floor,
            self.query_timeout,
            self.wakeups,
        )
        return *plain, self.include_noops, *map(id, objects)


def _check(what: str, value: object, fits: bool, accepted: str) -> None:
    if not fits:
        raise TypeError(f"{what} {value!r} is a {type(value).__name__}: accepted is {accepted}")


def _is_number(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _or_none(value: object, kind: type) -> bool:
    return value is None or isinstance(value, kind)


class EventsDialect(ABC):
    """The events of one dialect. Has no state."""

    wakeups: ClassVar[tuple[Wakeups, ...]]
    """The kinds of wake-ups that the database has; :meth:`notify` is of those that have "transaction" alone."""

    topic: ClassVar[str]
    """The statement that turns a table's quoted name into what wake-ups call it, ``schema.table``; no row if none."""

    @abstractmethod
    def table(self, settings: EventsSettings) -> str:
        """Return the table's quoted name."""

    @abstractmethod
    def writer(self, settings: EventsSettings) -> "EventsWriter":
        """Return what inserts events into the table.

        :raises ValueError: if a setting is none of this dialect's
        """

    @abstractmethod
    def head(self, settings: EventsSettings) -> str:
        """Return the statement that returns the greatest visible id, or NULL."""

    @abstractmethod
    def notify(self) -> str:
        """Return the statement that notifies when its transaction commits. Its arguments: channel and payload."""

    @abstractmethod
    def loader(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, primary: Any, fill_gaps: bool
    ) -> Loader:
        """Return a loader of the table's pages."""


class EventsWriter(ABC):
    """Inserts the events of one table, in one dialect.

    It returns ids, and what tells in which table the events are, as the search path may lead a name without a schema to
    any of several.
    """

    @abstractmethod
    async def insert(self, driver: Driver, connection: Any, values: Values) -> Row | None:
        """Insert an event; return its id and table, or ``None`` if the database has kept it out."""

    @abstractmethod
    async def insert_many(
        self, driver: Driver, connection: Any, events: NewEvents
    ) -> tuple[list[str], Hashable]:
        """Insert events, one at least, in the order given, all or none.

        Returns the ids, in that order, of those that the database hasn't kept out, and the table.
        """


def wakeable_dialect(name: str, settings: EventsSettings) -> EventsDialect:
    """Return the events of the dialect ``name``, which has the wake-ups of a table with these settings.

    :raises ValueError: if it doesn't have them
    """
    dialect = dialect_part(EventsDialect, name)
    if settings.wakeups not in dialect.wakeups:
        accepted = " and ".join(map(repr, dialect.wakeups))
        raise ValueError(
            f"wakeups={settings.wakeups!r} of {settings.name} is not accepted with {name}: {accepted} are"
        )
    return dialect
