"""A database for each test, and connections to it."""

import itertools
import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio.sql.wakeups.postgres_notifier import close_notifiers
from tests.fix_servers import PostgresServer
from tests.waiting import eventually

Connect = Callable[..., Awaitable[asyncpg.Connection]]

_run = secrets.token_hex(3)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Database:
    """A database that one test owns."""

    server: PostgresServer
    name: str

    @property
    def dsn(self) -> str:
        return self.server.dsn_for(self.name)


@pytest_asyncio.fixture
async def database(
    request: pytest.FixtureRequest, no_task_left: None, postgres_server: PostgresServer
) -> AsyncIterator[Database]:
    """A fresh database, dropped afterwards. Connections and prepared transactions left in it are errors."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    told = re.sub(r"\W+", "_", request.node.name.removeprefix("test_"))[:32]
    database = Database(postgres_server, f"t_{_run}{worker}_{next(_numbers)}_{told}".lower())
    admin = await asyncpg.connect(postgres_server.dsn)
    try:
        await admin.execute(f'CREATE DATABASE "{database.name}"')
        if "statements" in request.fixturenames:
            await admin.execute(f"ALTER DATABASE \"{database.name}\" SET log_statement = 'all'")
    finally:
        await admin.close()
    yield database
    await close_notifiers()
    admin = await asyncpg.connect(postgres_server.dsn)
    try:
        await _assert_nothing_left(admin, database.name)
    finally:
        await _drop(admin, database)
        await admin.close()


async def _assert_nothing_left(admin: asyncpg.Connection, name: str) -> None:
    left: list[asyncpg.Record] = []

    async def none_left() -> bool:
        # A backend ends a little after its client has gone.
        nonlocal left
        left = await admin.fetch(
            "SELECT pid, application_name, state, xact_start, query FROM pg_stat_activity "
            "WHERE datname = $1 AND backend_type = 'client backend'",
            name,
        )
        return not left

    await eventually(none_left, lambda: f"the test closed its connections, but for {left}", within=3.0)
    prepared = await admin.fetch("SELECT gid, prepared FROM pg_prepared_xacts WHERE database = $1", name)
    assert not prepared, f"transactions that the test left prepared: {prepared}"


async def _drop(admin: asyncpg.Connection, database: Database) -> None:
    prepared = await admin.fetch("SELECT gid FROM pg_prepared_xacts WHERE database = $1", database.name)
    if prepared:
        # They are rolled back in their own database, and keep it from being dropped.
        connection = await asyncpg.connect(database.dsn)
        for row in prepared:
            await connection.execute(f"ROLLBACK PREPARED '{row['gid']}'")
        await connection.close()
    await admin.execute(f'DROP DATABASE "{database.name}" WITH (FORCE)')


@pytest_asyncio.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    """A pool of up to 20 connections to the test's database."""
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=20) as pool:
        yield pool


@pytest_asyncio.fixture
async def connect(database: Database) -> AsyncIterator[Connect]:
    """Open connections to the test's database; the arguments are those of ``asyncpg.connect``."""
    opened: list[asyncpg.Connection] = []

    async def connect(**arguments: Any) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(
            arguments.pop("dsn", database.dsn), **arguments
        )
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        # Not close(): a statement that the test left waiting for a lock would keep it waiting too.
        connection.terminate()
