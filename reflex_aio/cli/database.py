"""The databases of a command: opened by DSN, closed when the command ends."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from reflex_aio.cli.command import CommandError, Exit
from reflex_aio.cli.options import LeasesOptions
from reflex_aio.errors import SchemaError
from reflex_aio.lease import LeaseState
from reflex_aio.sql import close_notifiers, open_pool
from reflex_aio.sql.drivers import driver_of_pool

__all__ = ["Database", "open_database", "open_databases", "read_leases"]


class Database:
    """A pool of connections, of any client library."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self._driver = driver_of_pool(pool)

    @asynccontextmanager
    async def connection(self, table: str) -> AsyncIterator[Any]:
        """Acquire a connection. Errors raised in the context begin with the name of ``table``."""
        with self._driver.errors(table):
            async with self._driver.acquire(self.pool) as connection:
                yield connection

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        """Return a context manager for a transaction."""
        return self._driver.transaction(connection)


@asynccontextmanager
async def open_database(dsn: str | None, *, size: int = 4, option: str = "--dsn") -> AsyncIterator[Database]:
    """Open the database of an option.

    :param size: the maximum number of connections
    :raises CommandError: if the DSN is missing or invalid
    """
    if not dsn:
        variable = "REFLEX_" + option.lstrip("-").upper().replace("-", "_")
        raise CommandError(f"no database is given: use {option}, or set {variable}", Exit.USAGE)
    async with AsyncExitStack() as stack:
        try:
            pool = await stack.enter_async_context(open_pool(dsn, size=size))
        except ValueError as exc:
            raise CommandError(f"{option}: {exc}", Exit.USAGE) from exc
        stack.push_async_callback(close_notifiers)
        yield Database(pool)


@asynccontextmanager
async def open_databases(
    dsn: str | None, cursors_dsn: str | None
) -> AsyncIterator[tuple[Database, Database]]:
    """Open the database of the events and that of the consumers' tables, which may be the same.

    :raises CommandError: if a DSN is missing or invalid
    """
    async with open_database(dsn) as events_database:
        if cursors_dsn is None:
            yield events_database, events_database
            return
        async with open_database(cursors_dsn, option="--cursors-dsn") as cursors_database:
            yield events_database, cursors_database


async def read_leases(database: Database, options: LeasesOptions) -> Mapping[str, LeaseState]:
    """Return the leases by consumer. Without ``--leases``, a missing or foreign table counts as empty.

    :raises SchemaError: if ``--leases`` names a table that is missing or not a leases table
    """
    try:
        return await options.table().store(database.pool).all()
    except SchemaError:
        if options.leases is None:
            # A table of the default name may have any other purpose.
            return {}
        raise
