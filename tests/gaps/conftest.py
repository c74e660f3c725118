"""An events table in the test's database, and a pool to read it through."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql.events.table import EventsTable
from tests.fix_databases import Connect, Database
from tests.gaps.interleaving import HOLD_HERE, Points, watched_pool
from tests.waiting import deadline


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """A connection that writes, in transactions of one statement."""
    return await connect()


@pytest_asyncio.fixture
async def events(writer: asyncpg.Connection) -> EventsTable:
    """The table ``events``, made; streams of it only poll, as most writers here are not the library's."""
    events = EventsTable("events", wakeups=None, poll_period=0.05)
    await events.create(writer)
    await writer.execute(HOLD_HERE)
    return events


@pytest_asyncio.fixture
async def _watched(database: Database) -> AsyncIterator[tuple[asyncpg.Pool, Points]]:
    # Read-only: no gap is passed by a write.
    async with watched_pool(database.dsn, server_settings={"default_transaction_read_only": "on"}) as watched:
        yield watched


@pytest_asyncio.fixture
async def readers(_watched: tuple[asyncpg.Pool, Points]) -> asyncpg.Pool:
    """The pool that streams read through."""
    return _watched[0]


@pytest_asyncio.fixture
async def points(_watched: tuple[asyncpg.Pool, Points]) -> Points:
    """Where the statements of ``readers`` are counted, and can be held."""
    return _watched[1]


@pytest_asyncio.fixture
async def reconnect(own_server: EmbeddedPostgres) -> AsyncIterator[Connect]:
    """Open connections to ``own_server``, once it accepts them."""
    opened: list[asyncpg.Connection] = []

    async def reconnect() -> asyncpg.Connection:
        async with asyncio.timeout(deadline(20.0)):
            while True:
                try:
                    opened.append(await asyncpg.connect(own_server.dsn))
                except (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
                    await asyncio.sleep(0.05)
                else:
                    return opened[-1]

    yield reconnect
    for connection in opened:
        connection.terminate()
