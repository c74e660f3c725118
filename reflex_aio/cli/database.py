"""The database of a command: opened by its DSN, closed with the command."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.sql import close_notifiers, open_pool
from reflex_aio.sql.drivers import driver_of_pool

__all__ = ["Database", "database", "databases"]


class Database:
    """A pool, and connections of it."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self._driver = driver_of_pool(pool)

    @asynccontextmanager
    async def connection(self, table: str) -> AsyncIterator[Any]:
        """Lend a connection, to ask about a table, whose name errors begin with."""
        with self._driver.errors(table):
            async with self._driver.acquire(self.pool) as connection:
                yield connection

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        """Return a context that is a transaction on a connection."""
        return self._driver.transaction(connection)


@asynccontextmanager
async def database(dsn: str | None, *, size: int = 4, option: str = "--dsn") -> AsyncIterator[Database]:
    """Open the database that an option names.

    :param size: how many connections it may take
    :raises CommandError: if there is none, or it can't be read
    """
    if not dsn:
        variable = "REFLEX_" + option.lstrip("-").upper().replace("-", "_")
        raise CommandError(f"which database? Give {option}, or set {variable}", Exit.USAGE)
    async with AsyncExitStack() as stack:
        try:
            pool = await stack.enter_async_context(open_pool(dsn, size=size))
        except ValueError as exc:
            raise CommandError(f"{option}: {exc}", Exit.USAGE) from exc
        stack.push_async_callback(close_notifiers)
        yield Database(pool)


@asynccontextmanager
async def databases(dsn: str | None, cursors_dsn: str | None) -> AsyncIterator[tuple[Database, Database]]:
    """Open the databases of the events and of the consumers' own tables, which may be one.

    :raises CommandError: if there is none, or one can't be read
    """
    async with database(dsn) as events_in:
        if cursors_dsn is None:
            yield events_in, events_in
            return
        async with database(cursors_dsn, option="--cursors-dsn") as cursors_in:
            yield events_in, cursors_in
