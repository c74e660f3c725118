"""What a dialect has to do to write and read events."""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar

from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.events.loader import Loader
from reflex_aio.sql.events.settings import EventsSettings, Wakeups
from reflex_aio.sql.events.values import NewEvents, Values

__all__ = ["EventsDialect", "EventsWriter", "wakeable_dialect"]


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
