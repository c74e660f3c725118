"""MySQL and MariaDB: reading rows that aren't committed, without a trace in the session."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.sql.drivers.base import Driver, Row

__all__ = ["peek"]


async def peek(driver: Driver, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
    """Run one query that sees uncommitted rows too.

    :param connection: with autocommit on. If this raises or is cancelled, it has to be closed: its next statement
        might see such rows as well
    """
    # For the next transaction alone, which is the query. SET SESSION would stay, for whoever is lent the connection
    # after us.
    await driver.fetch(connection, "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
    return await driver.fetch(connection, sql, *args)
