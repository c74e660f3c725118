"""An events table in MariaDB, on each way to give out ids, and a pool to read it through."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio.ext.embedded import EmbeddedMariaDB
from reflex_aio.sql import EventsTable
from reflex_aio.sql.drivers.base import Row
from reflex_aio.sql.drivers.mysql import MysqlDriver
from tests.fix_backends import MYSQL, MysqlBackend
from tests.fix_mariadb import MysqlDatabase, MysqlServer, make_mariadb
from tests.fix_servers import Servers
from tests.gaps.mysql.interleaving import HOLD_HERE, MysqlPoints, Writer

# The values of innodb_autoinc_lock_mode: 1 keeps the ids of an INSERT ... SELECT together, by a lock; 2 doesn't.
LOCK_MODES = {"consecutive": 1, "interleaved": 2}


@pytest.fixture(scope="session", params=[*LOCK_MODES])
def lock_mode(request: pytest.FixtureRequest) -> int:
    return LOCK_MODES[request.param]


@pytest.fixture(scope="session")
def suite_mariadb(lock_mode: int, servers: Servers) -> MysqlServer:
    """A server of the suite's for each lock mode, whatever server is given for other tests."""
    return servers.keep(make_mariadb(innodb_autoinc_lock_mode=lock_mode))


@pytest_asyncio.fixture
async def own_mariadb(lock_mode: int) -> AsyncIterator[EmbeddedMariaDB]:
    async with make_mariadb(innodb_autoinc_lock_mode=lock_mode) as server:
        yield server


@pytest.fixture
def library(request: pytest.FixtureRequest) -> str:
    """The client library: asyncmy, except for the tests that request others."""
    return getattr(request, "param", "asyncmy")


@pytest_asyncio.fixture
async def mariadb(library: str, mysql_database: MysqlDatabase) -> AsyncIterator[MysqlBackend]:
    """A database of the test's own."""
    backend = MYSQL[library](mysql_database)
    yield backend
    backend.close()


@pytest.fixture
def new_writer(mariadb: MysqlBackend) -> Callable[..., Awaitable[Writer]]:
    """Connect one more writer."""

    async def new_writer(*, begin: bool = False, **arguments: Any) -> Writer:
        writer = Writer(mariadb, await mariadb.connect(autocommit=True, **arguments))
        if begin:
            await writer.run("BEGIN")
        return writer

    return new_writer


@pytest_asyncio.fixture
async def writer(new_writer: Callable[..., Awaitable[Writer]]) -> Writer:
    return await new_writer()


@pytest_asyncio.fixture
async def events(writer: Writer) -> EventsTable:
    """The table ``events``, made; streams of it only poll, as most writers here are not the library's."""
    events = EventsTable("events", wakeups=None, poll_period=0.05)
    await events.create(writer.connection)
    await writer.run(HOLD_HERE)
    return events


@pytest_asyncio.fixture
async def readers(mariadb: MysqlBackend) -> AsyncIterator[Any]:
    """The pool that streams read through."""
    async with mariadb.pool(10) as pool:
        yield pool


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> MysqlPoints:
    """Where the statements that the library runs are counted, and can be held."""
    points, fetch = MysqlPoints(), MysqlDriver.fetch

    async def watched(self: MysqlDriver, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
        rows = await fetch(self, connection, sql, *args)
        await points.passed(sql)
        return rows

    monkeypatch.setattr(MysqlDriver, "fetch", watched)
    return points
