"""PostgreSQL: transactions that don't outlast their client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from reflex_aio.sql.cursors.transactions import TransactionDialect
from reflex_aio.sql.drivers.base import Driver

__all__ = ["PostgresTransactions"]

_SETTING = "idle_in_transaction_session_timeout"
# For the transaction alone. 0 is none.
_LIMIT = f"""
    SELECT set_config('{_SETTING}', least(nullif(milliseconds, 0), $1::bigint)::text, true)
    FROM (SELECT (extract(epoch FROM current_setting('{_SETTING}')::interval) * 1000)::bigint) AS s (milliseconds)
"""


class PostgresTransactions(TransactionDialect):
    """Transactions that the server ends by itself."""

    @asynccontextmanager
    async def transaction(
        self, driver: Driver, connection: Any, *, idle_timeout: float
    ) -> AsyncIterator[None]:
        async with driver.transaction(connection):
            await driver.fetch(connection, _LIMIT, max(1, round(idle_timeout * 1000)))
            yield
