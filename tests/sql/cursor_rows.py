"""A cursors table for tests, and other transactions and processes that use it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import asyncpg

from reflex_aio.sql.cursors.store import TableCursorStore
from reflex_aio.sql.cursors.table import CursorsTable
from tests.fix_databases import Connect
from tests.waiting import eventually

cursors = CursorsTable("cursors")
# Longer than any test: cursors are flushed on demand only.
NEVER = 3600.0


async def made(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        await cursors.create(connection)


def write_behind(
    pool: asyncpg.Pool, *, flush_every: float = NEVER, flush_timeout: float = 30.0
) -> TableCursorStore:
    return cursors.store(pool, flush_every=flush_every, flush_timeout=flush_timeout)


async def stored(pool: asyncpg.Pool, name: str = "a") -> str:
    async with pool.acquire() as connection:
        return await cursors.get(connection, name)


async def set_within(store: TableCursorStore, wanted: Mapping[str, str]) -> None:
    async with store:
        for name, cursor in wanted.items():
            await store.set(name, cursor)


class Hold:
    """Locks the row of consumer "a", so that statements that write it wait."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._transaction = connection.transaction()

    async def begin(self) -> None:
        await self._transaction.start()
        await self._connection.execute("SELECT FROM cursors WHERE id = 'a' FOR UPDATE")

    async def waiting(self) -> int:
        """Wait until a backend waits for the row, and return its process id."""
        return (await eventually(self.waiters, "a statement that waits for the row"))[0]

    async def waiters(self) -> list[int]:
        """Return the process ids of the backends that wait for the row."""
        rows = await self._connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        )
        return [row["pid"] for row in rows]

    async def terminate(self, pid: int) -> None:
        await self._connection.execute("SELECT pg_terminate_backend($1, 10000)", pid)

    async def end(self) -> None:
        await self._transaction.rollback()

    async def end_at(self, cursor: str) -> None:
        """Move the cursor and release the row, as another process would."""
        await cursors.set(self._connection, "a", cursor)
        await self._transaction.commit()


@asynccontextmanager
async def held(pool: asyncpg.Pool, connect: Connect) -> AsyncIterator[Hold]:
    """Create the table with a cursor of consumer "a" at 1, whose row is locked."""
    await made(pool)
    connection = await connect()
    await cursors.set(connection, "a", "1")
    hold = Hold(connection)
    await hold.begin()
    yield hold


async def rival(pool: asyncpg.Pool, cursor: str, name: str = "a") -> None:
    """Move the cursor, as another process would."""
    await cursors.store(pool).set(name, cursor)
