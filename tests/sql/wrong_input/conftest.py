"""The fixture of these tests."""

import asyncpg
import pytest_asyncio

from tests.fix_databases import Connect
from tests.sql.wrong_input.given import cursors, full, table


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """Return a connection to a database with the tables, one event and one cursor."""
    connection = await connect()
    for made in (table, full, cursors):
        await made.create(connection)
    await table.insert(connection, 1, 1)
    await cursors.set(connection, "a", "1")
    return connection
