"""The attempts table: how often consumers have failed on events that they haven't consumed yet."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from reflex_aio.attempts import Attempts, AttemptStore, check_attempt
from reflex_aio.sql.attempts.dialect import AttemptsDialect
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_pool
from reflex_aio.sql.schema.names import AttemptsSchema, Name
from reflex_aio.sql.schema.table import Table

__all__ = ["AttemptsTable", "TableAttemptStore"]


class AttemptsTable(Table[AttemptsSchema]):
    """A table with a row for each event that a consumer is at odds with: how often it has failed, when to try again.

    The row goes when the event is consumed, so there are hardly ever any.

    :param name: ``table`` or ``schema.table``; case counts
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if a name isn't accepted
    """

    def __init__(self, name: str = "consumer_attempts") -> None:
        super().__init__(AttemptsSchema(Name.parse(name)), locals())

    def store(self, pool: Any) -> "TableAttemptStore":
        """Return the store that keeps attempts in this table, through a pool.

        :raises TypeError: if it isn't a pool
        """
        return TableAttemptStore(self._schema, pool)


class TableAttemptStore(AttemptStore):
    """Keeps attempts in a table, through a pool. What time it is, the database tells.

    :meth:`AttemptsTable.store` makes it. Beside what they say, its methods raise
    :class:`~reflex_aio.errors.ConnectionLost`, :class:`~reflex_aio.errors.TableNotFound`,
    :class:`~reflex_aio.errors.SchemaError` and, for all else that the database refuses,
    :class:`~reflex_aio.errors.DatabaseError`.
    """

    def __init__(self, schema: AttemptsSchema, pool: Any) -> None:
        self._driver = driver_of_pool(pool)
        self._dialect = dialect_part(AttemptsDialect, self._driver.dialect, schema)
        self._schema = schema
        self._pool = pool

    def __repr__(self) -> str:
        return f"AttemptsTable({str(self._schema.table)!r}).store({self._pool!r})"

    async def get(self, consumer: str) -> Mapping[str, Attempts]:
        """Return the failed attempts of the consumer. See :class:`~reflex_aio.attempts.AttemptStore`."""
        async with self._connection() as connection:
            rows = await self._dialect.of(self._driver, connection, consumer)
        return {event_id: Attempts(count, left) for event_id, count, left in rows}

    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        """Count one more failed attempt at an event. See :class:`~reflex_aio.attempts.AttemptStore`.

        :raises TypeError: if an argument has the wrong type
        :raises ValueError: if an argument is out of its range
        """
        check_attempt(consumer, event_id, delay)
        async with self._connection() as connection:
            await self._dialect.record(self._driver, connection, consumer, event_id, delay)

    async def clear(self, consumer: str, event_id: str) -> None:
        """Forget the attempts at an event. See :class:`~reflex_aio.attempts.AttemptStore`."""
        async with self._connection() as connection:
            await self._dialect.clear(self._driver, connection, consumer, event_id)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with self._driver.errors(str(self._schema.table)):
            async with self._driver.acquire(self._pool) as connection:
                yield connection
