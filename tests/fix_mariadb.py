"""The MariaDB that tests run on, a database for each test, and connections to it.

The suite starts the distribution's MariaDB, on a data directory and a socket of its own. With
REFLEX_TEST_MYSQL_DSN set (``mysql://user:password@host:port``), tests run on that server instead, in databases
that they make there; those that start servers of their own by :func:`make_mariadb` still do.

Where MariaDB is not installed its tests are skipped with a reason, and fail under CI.
"""

import contextlib
import itertools
import os
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncmy
import asyncmy.errors
import pytest
import pytest_asyncio

from reflex_aio.ext.embedded import EmbeddedMariaDB, EmbeddedServerError
from reflex_aio.ext.embedded.server import Setting
from reflex_aio.sql.drivers.dsn import mysql_arguments
from reflex_aio.sql.wakeups.postgres_notifier import close_notifiers
from tests.fix_servers import CI, Servers, memory
from tests.waiting import deadline, eventually

MYSQL_DSN = os.environ.get("REFLEX_TEST_MYSQL_DSN")

SETTINGS: dict[str, Setting] = {
    "max_connections": 500,
    "innodb_buffer_pool_size": "64M",
    # Survives the end of a server, not that of the machine.
    "innodb_flush_method": "nosync",
    "innodb_log_file_size": "32M",
}

_run = secrets.token_hex(3)
_numbers = itertools.count(1)


class MysqlServer(Protocol):
    """What tests need of a server, be it ours or given."""

    @property
    def dsn(self) -> str: ...
    def dsn_for(self, database: str) -> str: ...


@dataclass(frozen=True)
class GivenMysqlServer:
    """The server of REFLEX_TEST_MYSQL_DSN; its account must be allowed to create databases."""

    dsn: str

    def dsn_for(self, database: str) -> str:
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{database}"))


def make_mariadb(*, port: int | None = None, **settings: Setting) -> EmbeddedMariaDB:
    """A MariaDB server of ours, not yet started."""
    try:
        return EmbeddedMariaDB(
            temporary_in=memory(), port=port, settings={**SETTINGS, **settings}, start_timeout=deadline(60)
        )
    except EmbeddedServerError as exc:
        reason = f"{exc}, or set REFLEX_TEST_MYSQL_DSN=mysql://user:password@host:port"
        if CI:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@dataclass(frozen=True)
class MysqlDatabase:
    """A database that one test owns."""

    server: MysqlServer
    name: str

    @property
    def dsn(self) -> str:
        return self.server.dsn_for(self.name)

    @property
    def arguments(self) -> dict[str, Any]:
        """How to connect, as arguments of ``aiomysql.connect`` and ``asyncmy.connect``."""
        return mysql_arguments(self.dsn)


@pytest.fixture(scope="session")
def suite_mariadb(servers: Servers) -> MysqlServer:
    """The server that tests share: no restarts, no settings."""
    return GivenMysqlServer(MYSQL_DSN) if MYSQL_DSN else servers.keep(make_mariadb())


@pytest_asyncio.fixture
async def own_mariadb() -> AsyncIterator[EmbeddedMariaDB]:
    """A started server that this test alone owns, to stop, kill and restart."""
    async with make_mariadb() as server:
        yield server


@pytest_asyncio.fixture
async def mysql_database(
    request: pytest.FixtureRequest, no_task_left: None, suite_mariadb: MysqlServer
) -> AsyncIterator[MysqlDatabase]:
    """A fresh database, dropped afterwards. Connections left in it are errors."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    told = re.sub(r"\W+", "_", request.node.name.removeprefix("test_"))[:32]
    database = MysqlDatabase(suite_mariadb, f"t_{_run}{worker}_{next(_numbers)}_{told}".lower())
    await _run_as_admin(suite_mariadb, f"CREATE DATABASE `{database.name}` CHARACTER SET utf8mb4")
    yield database
    await close_notifiers()
    try:
        await _assert_nothing_left(suite_mariadb, database.name)
    finally:
        await _drop(suite_mariadb, database.name)


async def _run_as_admin(server: MysqlServer, statement: str) -> list[tuple[Any, ...]]:
    async with asyncmy.connect(**mysql_arguments(server.dsn)) as admin, admin.cursor() as cursor:
        await cursor.execute(statement)
        return list(await cursor.fetchall())


async def _drop(server: MysqlServer, name: str) -> None:
    # A connection that a failed test left in a transaction would keep it from being dropped.
    connected = f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"
    for (number,) in await _run_as_admin(server, connected):
        with contextlib.suppress(asyncmy.errors.MySQLError):
            await _run_as_admin(server, f"KILL {number}")
    await _run_as_admin(server, f"DROP DATABASE `{name}`")


async def _assert_nothing_left(server: MysqlServer, name: str) -> None:
    left: list[tuple[Any, ...]] = []

    async def none_left() -> bool:
        # The server notices a little after its client has gone; one that waits for a lock, not until it has it.
        nonlocal left
        left = await _run_as_admin(
            server,
            f"SELECT id, command, time, state, info FROM information_schema.processlist WHERE db = '{name}'",
        )
        return not left

    await eventually(none_left, lambda: f"the test closed its connections, but for {left}", within=5.0)
