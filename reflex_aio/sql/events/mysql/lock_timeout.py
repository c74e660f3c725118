"""MySQL and MariaDB: statements that don't wait long for locks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from reflex_aio.sql.drivers.base import Driver

__all__ = ["limited_locks"]

# How long a statement waits for a row, or for the table under DDL, in seconds: the least that MySQL takes.
_LIMIT = """
SET @reflex_aio_rows = @@SESSION.innodb_lock_wait_timeout, @reflex_aio_table = @@SESSION.lock_wait_timeout,
    SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1
"""
_RESTORE = """
SET SESSION innodb_lock_wait_timeout = @reflex_aio_rows, SESSION lock_wait_timeout = @reflex_aio_table
"""


@asynccontextmanager
async def limited_locks(driver: Driver, connection: Any) -> AsyncIterator[None]:
    """Let statements wait for a lock for a second at most. After an error the connection has to be closed."""
    await driver.fetch(connection, _LIMIT)
    yield
    await driver.fetch(connection, _RESTORE)
