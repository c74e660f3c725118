"""The statements on an attempts table in PostgreSQL."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.sql.attempts.table import AttemptsDialect
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import AttemptsSchema

__all__ = ["PostgresAttemptsDialect"]


class PostgresAttemptsDialect(AttemptsDialect):
    """The attempts of one table in PostgreSQL."""

    def __init__(self, schema: AttemptsSchema) -> None:
        table = schema.table.quoted('"')
        self._get = (
            "SELECT event_id::text, attempts::int8, extract(epoch FROM next_try_at - clock_timestamp())::float8"
            f" FROM {table} WHERE consumer = $1"
        )
        self._record = (
            f"INSERT INTO {table} AS stored (consumer, event_id, attempts, next_try_at)"
            " VALUES ($1, $2, 1, clock_timestamp() + $3::float8 * interval '1 second')"
            " ON CONFLICT (consumer, event_id) DO UPDATE"
            " SET attempts = stored.attempts + 1, next_try_at = excluded.next_try_at"
        )
        self._clear = f"DELETE FROM {table} WHERE consumer = $1 AND event_id = $2"

    async def get(self, driver: Driver, connection: Any, consumer: str) -> Sequence[tuple[str, int, float]]:
        rows = await driver.fetch(connection, self._get, consumer)
        return [(row[0], row[1], row[2]) for row in rows]

    async def record(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, delay: float
    ) -> None:
        await driver.fetch(connection, self._record, consumer, event_id, float(delay))

    async def clear(self, driver: Driver, connection: Any, consumer: str, event_id: str) -> None:
        await driver.fetch(connection, self._clear, consumer, event_id)
