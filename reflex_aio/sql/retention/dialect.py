"""What a dialect has to do to delete old events, a batch at a time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import EventsSchema

__all__ = [
    "Batch",
    "Batches",
    "Found",
    "RetentionDialect",
]


class Found(NamedTuple):
    """A table as it is before anything is deleted."""

    oldest: int | None
    """The least visible id, noops' too; ``None`` if there is no row."""
    newest: int | None
    """The greatest."""
    now_us: int
    """What the database's clock shows, in microseconds since 1970."""


class Batch(NamedTuple):
    """Some rows in the order of their ids."""

    rows: int
    """How many; the last three are ``None`` if none."""
    last: int | None
    """The greatest id among them."""
    young: int | None
    """The least id of those that aren't old enough to be deleted."""
    young_noop: int | None
    """The least id of the noops that aren't old enough."""


class Batches(ABC):
    """Reads and deletes the rows of one table, each time on the connection given, with no transaction open on it."""

    @abstractmethod
    async def found(self, connection: Any) -> Found:
        """Return what the table has now."""

    @abstractmethod
    async def next(
        self, connection: Any, after: int, end: int, limit: int, *, young_us: int, young_noop_us: int
    ) -> Batch:
        """Return the first rows, at most ``limit``, with ids above ``after`` and below ``end``.

        :param young_us: since when rows are too young to be deleted, in microseconds since 1970
        :param young_noop_us: the same of noops
        """

    @abstractmethod
    async def delete(self, connection: Any, after: int, last: int) -> int | None:
        """Delete the rows with ids above ``after``, up to ``last``, and commit; return how many there were.

        It waits about a second at most for other transactions that have locked some of them, and returns ``None`` then,
        with nothing deleted.
        """


class RetentionDialect(ABC):
    """Deleting the events of one dialect. Has no state."""

    @abstractmethod
    async def open(self, driver: Driver, connection: Any, schema: EventsSchema) -> Batches:
        """Find the table.

        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it is no table of events that can be deleted from
        """

    @abstractmethod
    async def extent(
        self, driver: Driver, connection: Any, schema: EventsSchema
    ) -> tuple[int | None, int | None]:
        """Return the least and the greatest visible id, noops' too."""

    @abstractmethod
    async def backlogs(
        self, driver: Driver, connection: Any, schema: EventsSchema, cursors: Sequence[int], limit: int
    ) -> Sequence[tuple[int, float | None]]:
        """Return for each cursor how many events are after it, and how old the first of these is.

        Noops don't count. The age is in seconds, by the database's clock; ``None`` if there is no such event.

        :param limit: count up to so many
        """
