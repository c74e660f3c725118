"""The interface of a database for inserting and streaming events."""

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
    """The events of one database. It has no state."""

    wakeups: ClassVar[tuple[Wakeups, ...]]
    """The supported kinds of wake-ups."""

    notify: ClassVar[str] = ""
    """The statement that notifies after its transaction; arguments: channel and payload. For "transaction" only."""

    topic: ClassVar[str]
    """The statement that returns a table's name in wake-ups, ``schema.table``, for its quoted name; or no row."""

    @abstractmethod
    def table(self, settings: EventsSettings) -> str:
        """Return the table's quoted name."""

    @abstractmethod
    def writer(self, settings: EventsSettings) -> "EventsWriter":
        """Return the object that inserts events into the table.

        :raises ValueError: if this database does not support a setting
        """

    @abstractmethod
    def head(self, settings: EventsSettings) -> str:
        """Return the statement that returns the greatest visible id, or NULL."""

    @abstractmethod
    def loader(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, primary: Any, fill_gaps: bool
    ) -> Loader:
        """Return a loader of the table's pages."""


class EventsWriter(ABC):
    """Inserts the events of one table.

    Besides ids, it returns a key of the table that the events were inserted into, as the search path may resolve a name
    without a schema to several tables.
    """

    @abstractmethod
    async def insert(self, driver: Driver, connection: Any, values: Values) -> Row | None:
        """Insert an event; return its id and the table's key, or ``None`` if a trigger or rule suppressed the row."""

    @abstractmethod
    async def insert_many(
        self, driver: Driver, connection: Any, events: NewEvents
    ) -> tuple[list[str], Hashable]:
        """Insert one or more events in order, all or none.

        :return: the ids, in the same order, without those of suppressed rows, and the table's key
        """


def wakeable_dialect(name: str, settings: EventsSettings) -> EventsDialect:
    """Return the events of the dialect ``name``, which must support the table's kind of wake-ups.

    :raises ValueError: if it does not
    """
    dialect = dialect_part(EventsDialect, name)
    if settings.wakeups not in dialect.wakeups:
        accepted = " and ".join(map(repr, dialect.wakeups))
        raise ValueError(
            f"wakeups={settings.wakeups!r} of {settings.name} is not accepted with {name}: {accepted} are"
        )
    return dialect
