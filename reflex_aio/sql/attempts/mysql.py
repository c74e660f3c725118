"""The statements on an attempts table in MySQL and MariaDB."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.sql.attempts.table import AttemptsDialect
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import AttemptsSchema

__all__ = ["MysqlAttemptsDialect"]

_MICROSECONDS = 1_000_000


class MysqlAttemptsDialect(AttemptsDialect):
    """The attempts of one table in MySQL or MariaDB."""

    def __init__(self, schema: AttemptsSchema) -> None:
        table = schema.table.quoted("`")
        # The same in every session's time zone.
        now = "UTC_TIMESTAMP(6)"
        later = f"{now} + INTERVAL %s MICROSECOND"
        self._get = (
            f"SELECT event_id, attempts, TIMESTAMPDIFF(MICROSECOND, {now}, next_try_at)"
            f" FROM {table} WHERE consumer = %s"
        )
        # The delay is passed twice: VALUES(column) is deprecated, and MariaDB has no alias for the new row.
        self._record = (
            f"INSERT INTO {table} (consumer, event_id, attempts, next_try_at) VALUES (%s, %s, 1, {later})"
            f" ON DUPLICATE KEY UPDATE attempts = attempts + 1, next_try_at = {later}"
        )
        self._clear = f"DELETE FROM {table} WHERE consumer = %s AND event_id = %s"

    async def get(self, driver: Driver, connection: Any, consumer: str) -> Sequence[tuple[str, int, float]]:
        rows = await driver.fetch(connection, self._get, consumer)
        return [(row[0], int(row[1]), row[2] / _MICROSECONDS) for row in rows]

    async def record(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, delay: float
    ) -> None:
        microseconds = round(delay * _MICROSECONDS)
        await driver.fetch(connection, self._record, consumer, event_id, microseconds, microseconds)

    async def clear(self, driver: Driver, connection: Any, consumer: str, event_id: str) -> None:
        await driver.fetch(connection, self._clear, consumer, event_id)
