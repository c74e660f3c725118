"""The interface of a database for deleting old events in batches, and for measuring backlogs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import EventsSchema

__all__ = ["Backlog", "Batch", "Batches", "Extent", "Found", "RetentionDialect"]


@dataclass(frozen=True, slots=True)
class Extent:
    """The first and the last id of a table, including those of noops; ``""`` if the table is empty."""

    oldest: str
    newest: str

    @classmethod
    def of(cls, oldest: int | None, newest: int | None) -> Self:
        """Return the extent of a table whose least and greatest id are given, or ``None`` if it is empty."""
        return cls(*("" if event_id is None else str(event_id) for event_id in (oldest, newest)))


@dataclass(frozen=True, slots=True)
class Backlog:
    """The events that a consumer has not handled yet."""

    events: int
    """The number of events after its cursor."""
    seconds: float
    """The age of the first of them, by the database's clock; 0 if there is none."""


class Found(NamedTuple):
    """A table before events are deleted."""

    oldest: int | None
    """The least visible id, including noops; ``None`` if there is no row."""
    newest: int | None
    """The greatest visible id."""
    now_us: int
    """The time of the database's clock, in microseconds since 1970."""


class Batch(NamedTuple):
    """A batch of rows, in the order of their ids."""

    rows: int
    """The number of rows. If it is 0, the other values are ``None``."""
    last: int | None
    """The greatest id."""
    young: int | None
    """The least id of the rows that are too young to be deleted."""
    young_noop: int | None
    """The least id of the noops that are too young to be deleted."""


class Batches(ABC):
    """Reads and deletes the rows of one table. No transaction may be open on the connections that are passed to it."""

    @abstractmethod
    async def found(self, connection: Any) -> Found:
        """Return the present extent of the table."""

    @abstractmethod
    async def next(
        self, connection: Any, after: int, end: int, limit: int, *, young_us: int, young_noop_us: int
    ) -> Batch:
        """Return the first rows, at most ``limit``, with ids greater than ``after`` and less than ``end``.

        :param young_us: the time from which rows are too young to be deleted, in microseconds since 1970
        :param young_noop_us: the same for noops
        """

    @abstractmethod
    async def delete(self, connection: Any, after: int, last: int) -> int | None:
        """Delete the rows with ids greater than ``after``, up to ``last``, and commit; return their number.

        If other transactions have locked some of them for more than about a second, delete nothing and return ``None``.
        """


class RetentionDialect(ABC):
    """Deleting the events of one database, and measuring backlogs. It has no state."""

    @abstractmethod
    async def open(self, driver: Driver, connection: Any, schema: EventsSchema) -> Batches:
        """Find the table.

        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it is not a table from which rows can be deleted
        """

    @abstractmethod
    async def extent(self, driver: Driver, connection: Any, schema: EventsSchema) -> Extent:
        """Return the least and the greatest visible id, including those of noops."""

    @abstractmethod
    async def backlogs(
        self, driver: Driver, connection: Any, schema: EventsSchema, cursors: Sequence[int], limit: int
    ) -> Sequence[Backlog]:
        """Return the backlog of each cursor, without noops.

        :param limit: the greatest number of events to count
        """
