"""MySQL and MariaDB: the statements for failed attempts."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.sql.attempts.dialect import AttemptsDialect
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import AttemptsSchema

__all__ = ["MysqlAttemptsDialect"]

_MICROSECONDS = 1_000_000


class MysqlAttemptsDialect(AttemptsDialect):
    """The attempts of one table."""

    def __init__(self, schema: AttemptsSchema) -> None:
        table = schema.table.quoted("`")
        # The same in every session's time zone.
        now = "UTC_TIMESTAMP(6)"
        later = f"{now} + INTERVAL %s MICROSECOND"
        self._of = (
            f"SELECT event_id, attempts, TIMESTAMPDIFF(MICROSECOND, {now}, next_try_at)"
            f" FROM {table} WHERE consumer = %s"
        )
        # The delay twice: VALUES(column) is deprecated, and the row's alias unknown to MariaDB.
        self._record = (
            f"INSERT INTO {table} (consumer, event_id, attempts, next_try_at)"
            f" VALUES (%s, %s, 1, {later})"
            f" ON DUPLICATE KEY UPDATE attempts = attempts + 1, next_try_at = {later}"
        )
        self._clear = f"DELETE FROM {table} WHERE consumer = %s AND event_id = %s"

    async def of(self, driver: Driver, connection: Any, consumer: str) -> Sequence[tuple[str, int, float]]:
        rows = await driver.fetch(connection, self._of, consumer)
        return [(row[0], int(row[1]), row[2] / _MICROSECONDS) for row in rows]

    async def record(
        self, driver: Driver, connection: Any, consumer: str, event_id: str, delay: float
    ) -> None:
        waiting = round(delay * _MICROSECONDS)
        await driver.fetch(connection, self._record, consumer, event_id, waiting, waiting)

    async def clear(self, driver: Driver, connection: Any, consumer: str, event_id: str) -> None:
        await driver.fetch(connection, self._clear, consumer, event_id)
