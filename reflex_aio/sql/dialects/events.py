"""What a dialect has to do to write and read events."""

from abc import ABC, abstractmethod
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.loader import Loader
from reflex_aio.sql.settings import EventsSettings

__all__ = ["EventsDialect", "events_dialect"]

_DIALECTS = {"postgres": "PostgresEvents"}


class EventsDialect(ABC):
    """The events of one dialect. Has no state."""

    topic: ClassVar[str]
    """The statement that turns a table's quoted name into what wake-ups call it, ``schema.table``; no row if none."""

    @abstractmethod
    def table(self, settings: EventsSettings) -> str:
        """Return the table's quoted name."""

    @abstractmethod
    def insert(self, settings: EventsSettings) -> str:
        """Return the statement that inserts an event, and returns its id and what tells in which table it is.

        The search path may lead a name without a schema to any of several tables. Its arguments: foreign id, type, and
        metadata and trace if the table has them.
        """

    @abstractmethod
    def insert_many(self, settings: EventsSettings) -> str:
        """Return the statement that inserts events, with a row for each of what :meth:`insert` returns, in that order.

        Its arguments are those of :meth:`insert`, each as a list.
        """

    @abstractmethod
    def head(self, settings: EventsSettings) -> str:
        """Return the statement that returns the greatest visible id, or NULL."""

    @abstractmethod
    def notify(self) -> str:
        """Return the statement that notifies when its transaction commits. Its arguments: channel and payload."""

    @abstractmethod
    def loader(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, settle_on: Any, fence: bool
    ) -> Loader:
        """Return a loader of the table's pages."""


@cache
def events_dialect(name: str) -> EventsDialect:
    """Return the events of the dialect ``name``, which is a driver's ``dialect``."""
    module = import_module(f"reflex_aio.sql.dialects.{name}.events")
    dialect: EventsDialect = getattr(module, _DIALECTS[name])()
    return dialect
