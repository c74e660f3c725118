"""The attempts table, the attempt store on it, and the statements that they need of a database."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from reflex_aio.attempts import Attempts, AttemptStore, check_attempt
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import AttemptsSchema, Name
from reflex_aio.sql.schema.table import Table, TableStore

__all__ = ["AttemptsDialect", "AttemptsTable", "TableAttemptStore"]


class AttemptsDialect(ABC):
    """The statements on an attempts table in one database. It has no state but their texts.

    Only the database's clock counts.
    """

    @abstractmethod
    def __init__(self, schema: AttemptsSchema) -> None: ...

    @abstractmethod
    async def get(self, driver: Driver, connection: Any, consumer: str) -> Sequence[tuple[str, int, float]]:
        """Return event ids, numbers of attempts, and the seconds until the next attempt."""

    @abstractmethod
    async def record(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, delay: float
    ) -> None:
        """Count an attempt; the next one is due in ``delay`` seconds."""

    @abstractmethod
    async def clear(self, driver: Driver, connection: Any, consumer: str, event_id: str) -> None:
        """Delete the row of a consumer and an event, if there is one."""


class AttemptsTable(Table[AttemptsSchema]):
    """A table with a row for each event that a consumer has failed on: the number of attempts, and the next one's time.

    The row is deleted when the event is consumed, so the table is usually empty.

    :param name: ``table`` or ``schema.table``; case is significant
    :raises TypeError: if ``name`` is not a string
    :raises ValueError: if ``name`` is not accepted as a name
    """

    def __init__(self, name: str = "consumer_attempts") -> None:
        super().__init__(AttemptsSchema(Name.parse(name)), locals())

    def store(self, pool: Any) -> "TableAttemptStore":
        """Return an attempt store that keeps attempts in this table, through ``pool``.

        :raises TypeError: if ``pool`` is not a pool
        """
        return TableAttemptStore(self, pool)


class TableAttemptStore(TableStore[AttemptsDialect], AttemptStore):
    """Keeps attempts in a table, through a pool. Only the database's clock counts.

    :meth:`AttemptsTable.store` makes it. Its methods also raise :class:`~reflex_aio.errors.ConnectionLost`,
    :class:`~reflex_aio.errors.TableNotFound`, :class:`~reflex_aio.errors.SchemaError` and, for any other failure that
    the database reports, :class:`~reflex_aio.errors.DatabaseError`.
    """

    def __init__(self, table: AttemptsTable, pool: Any) -> None:
        super().__init__(table, pool, AttemptsDialect)

    async def get(self, consumer: str) -> Mapping[str, Attempts]:
        """Return the failed attempts of the consumer by event id; empty if there are none."""
        async with self._connection() as connection:
            rows = await self._dialect.get(self._driver, connection, consumer)
        return {event_id: Attempts(count, seconds_left) for event_id, count, seconds_left in rows}

    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        """Count one more failed attempt at an event.

        :param delay: time until the next attempt is due, in seconds
        :raises TypeError: if an argument has the wrong type
        :raises ValueError: if an argument is out of range
        """
        check_attempt(consumer, event_id, delay)
        async with self._connection() as connection:
            await self._dialect.record(self._driver, connection, consumer, event_id, delay)

    async def clear(self, consumer: str, event_id: str) -> None:
        """Delete the attempts at an event. Does nothing if there are none."""
        async with self._connection() as connection:
            await self._dialect.clear(self._driver, connection, consumer, event_id)
