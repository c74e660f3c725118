"""MySQL and MariaDB: transactions that don't outlast their client."""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from reflex_aio.sql.cursors.transactions import TransactionDialect
from reflex_aio.sql.drivers.base import Driver

__all__ = ["MysqlTransactions"]

# In force within transactions too. MariaDB has a setting for these alone, which MySQL hasn't.
_LIMIT = (
    "SET @reflex_aio_wait_timeout = @@SESSION.wait_timeout,"
    " SESSION wait_timeout = LEAST(@@SESSION.wait_timeout, %s)"
)
_RESTORE = "SET SESSION wait_timeout = @reflex_aio_wait_timeout"


class MysqlTransactions(TransactionDialect):
    """Transactions that the server ends by itself, after a number of whole seconds."""

    @asynccontextmanager
    async def transaction(
        self, driver: Driver, connection: Any, *, idle_timeout: float
    ) -> AsyncIterator[None]:
        await driver.fetch(connection, _LIMIT, math.ceil(idle_timeout))
        async with driver.transaction(connection):
            yield
        # After an error the connection isn't given back to its pool, but closed.
        await driver.fetch(connection, _RESTORE)
