"""The databases and client libraries that everything has to work on, as one thing to write tests with.

A test that asks for ``backend`` runs on each of them. What differs it asks for by a capability, never by the name.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import aiomysql
import aiomysql.cursors
import asyncmy
import asyncmy.cursors
import asyncmy.errors
import asyncpg
import pytest
import pytest_asyncio

from reflex_aio.sql.drivers import driver_named
from reflex_aio.sql.drivers.base import Driver, Row
from tests.fix_databases import Database
from tests.fix_mariadb import MysqlDatabase


class Backend(ABC):
    """A database of one test's own, as reached by one client library."""

    library: ClassVar[str]
    library_error: ClassVar[type[Exception]]
    """The base of the library's exceptions."""
    quote: ClassVar[str]
    """What stands around a quoted identifier."""
    has_returning: ClassVar[bool]
    """Whether an INSERT can return rows."""
    has_autocommit: ClassVar[bool]
    """Whether connections may be set to begin transactions by themselves."""
    lock_waits: ClassVar[str]
    """The statement that counts the connections of this database that wait for locks of others."""
    set_time_zone: ClassVar[str]
    """The statement that sets the connection's time zone to so many hours east of UTC, to be formatted."""
    idle_timeout: ClassVar[str]
    """The statement that tells for how many seconds a transaction may be idle; 0 for any time."""
    set_idle_timeout: ClassVar[str]
    """The statement that sets this for the session, to be formatted."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.driver: Driver = driver_named(self.library)
        self._opened: list[Any] = []

    @property
    def dialect(self) -> str:
        return self.driver.dialect

    @property
    def can_link(self) -> bool:
        """Whether the database carries notifications between processes."""
        return self.driver.can_link

    @abstractmethod
    def pool(self, size: int = 10, **arguments: Any) -> AbstractAsyncContextManager[Any]:
        """Open a pool of up to ``size`` connections. Further arguments are the library's own."""

    @abstractmethod
    async def _connect(self, **arguments: Any) -> Any: ...

    @abstractmethod
    def _cut(self, connection: Any) -> None:
        """Close a connection without waiting for anything."""

    async def connect(self, **arguments: Any) -> Any:
        """Open a connection, which is closed with the test. Further arguments are the library's own."""
        connection = await self._connect(**arguments)
        self._opened.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._opened:
            self._cut(connection)

    async def fetch(self, connection: Any, statement: str) -> Sequence[Row]:
        """Run a statement, in the connection's transaction, and return its rows."""
        # A percent sign is doubled by the library's rules where there are arguments.
        return await self.driver.fetch(connection, statement)

    async def value(self, connection: Any, statement: str) -> Any:
        """Run a statement and return the first column of its first row."""
        return (await self.fetch(connection, statement))[0][0]

    def quoted(self, name: str) -> str:
        return f"{self.quote}{name}{self.quote}"


class PostgresBackend(Backend):
    library: ClassVar[str] = "asyncpg"
    library_error: ClassVar[type[Exception]] = asyncpg.PostgresError
    quote: ClassVar[str] = '"'
    has_returning: ClassVar[bool] = True
    has_autocommit: ClassVar[bool] = False
    lock_waits: ClassVar[str] = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    set_time_zone: ClassVar[str] = "SET TIME ZONE {}"
    idle_timeout: ClassVar[str] = (
        "SELECT extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval)::int"
    )
    set_idle_timeout: ClassVar[str] = "SET idle_in_transaction_session_timeout = '{}s'"

    def pool(self, size: int = 10, **arguments: Any) -> AbstractAsyncContextManager[Any]:
        return asyncpg.create_pool(self.dsn, **{"min_size": 1, "max_size": size, **arguments})

    async def _connect(self, **arguments: Any) -> Any:
        return await asyncpg.connect(self.dsn, **arguments)

    def _cut(self, connection: Any) -> None:
        connection.terminate()


class MysqlBackend(Backend):
    quote: ClassVar[str] = "`"
    has_returning: ClassVar[bool] = False
    has_autocommit: ClassVar[bool] = True
    lock_waits: ClassVar[str] = (
        "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p"
        " ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()"
    )
    set_time_zone: ClassVar[str] = "SET time_zone = '{:+03d}:00'"
    idle_timeout: ClassVar[str] = "SELECT @@SESSION.wait_timeout"
    set_idle_timeout: ClassVar[str] = "SET SESSION wait_timeout = {}"

    cursor_argument: ClassVar[str]
    """The name of the argument of ``connect`` that says which cursors the connection makes."""
    cursors: ClassVar[Any]
    """The module of the library's cursors."""
    _create_pool: ClassVar[Callable[..., AbstractAsyncContextManager[Any]]]
    _open: ClassVar[Callable[..., Awaitable[Any]]]

    def __init__(self, database: MysqlDatabase) -> None:
        super().__init__(database.dsn)
        self.arguments = database.arguments

    def pool(self, size: int = 10, **arguments: Any) -> AbstractAsyncContextManager[Any]:
        return self._create_pool(**{**self.arguments, "minsize": 1, "maxsize": size, **arguments})

    async def _connect(self, **arguments: Any) -> Any:
        return await self._open(**{**self.arguments, **arguments})

    def _cut(self, connection: Any) -> None:
        connection.close()


class AiomysqlBackend(MysqlBackend):
    library: ClassVar[str] = "aiomysql"
    cursor_argument: ClassVar[str] = "cursorclass"
    cursors: ClassVar[Any] = aiomysql.cursors
    library_error: ClassVar[type[Exception]] = aiomysql.MySQLError
    _create_pool = staticmethod(aiomysql.create_pool)
    _open = staticmethod(aiomysql.connect)


class AsyncmyBackend(MysqlBackend):
    library: ClassVar[str] = "asyncmy"
    cursor_argument: ClassVar[str] = "cursor_cls"
    cursors: ClassVar[Any] = asyncmy.cursors
    library_error: ClassVar[type[Exception]] = asyncmy.errors.MySQLError
    _create_pool = staticmethod(asyncmy.create_pool)
    _open = staticmethod(asyncmy.connect)


POSTGRES = "postgres"
MYSQL: dict[str, type[MysqlBackend]] = {"aiomysql": AiomysqlBackend, "asyncmy": AsyncmyBackend}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend_name" in metafunc.fixturenames:
        ours = [*MYSQL] if "mysql" in metafunc.fixturenames else [POSTGRES, *MYSQL]
        metafunc.parametrize("backend_name", ours, indirect=True)


@pytest.fixture
def backend_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def backend_database(request: pytest.FixtureRequest, backend_name: str) -> Database | MysqlDatabase:
    """The test's database, which is made on that server alone that it is to be on."""
    database: Database | MysqlDatabase = request.getfixturevalue(
        "database" if backend_name == POSTGRES else "mysql_database"
    )
    return database


@pytest_asyncio.fixture
async def backend(backend_name: str, backend_database: Database | MysqlDatabase) -> AsyncIterator[Backend]:
    """A database of the test's own, on PostgreSQL and on MariaDB, by each client library."""
    backend = (
        MYSQL[backend_name](backend_database)
        if isinstance(backend_database, MysqlDatabase)
        else PostgresBackend(backend_database.dsn)
    )
    yield backend
    backend.close()


@pytest.fixture
def mysql(backend: Backend) -> MysqlBackend:
    """The same on MariaDB alone."""
    assert isinstance(backend, MysqlBackend)
    return backend


@pytest_asyncio.fixture
async def backend_pool(backend: Backend) -> AsyncIterator[Any]:
    """A pool of up to 20 connections to the backend's database."""
    async with backend.pool(20) as pool:
        yield pool
