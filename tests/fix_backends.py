"""The databases and client libraries that everything has to work on, as one thing to write tests with.

A test that asks for ``backend`` runs on each of them; marked ``one_library``, on each database by one of its client
libraries, the faster one. What differs it asks for by a capability, never by the name.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import aiomysql
import aiomysql.cursors
import asyncmy
import asyncmy.cursors
import asyncmy.errors
import asyncpg
import psycopg
import psycopg_pool
import pytest
import pytest_asyncio

from reflex_aio.ext.embedded import EmbeddedMariaDB, EmbeddedPostgres
from reflex_aio.sql.drivers import driver_named
from reflex_aio.sql.drivers.base import Driver, Row
from tests.fix_databases import Database
from tests.fix_mariadb import MysqlDatabase, make_mariadb
from tests.fix_proxy import Proxy
from tests.fix_servers import EMBEDDED, make_server
from tests.waiting import eventually


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
    lock_table: ClassVar[Sequence[str]]
    """The statements that lock a table, also for readers, to be formatted."""
    unlock_tables: ClassVar[str]
    """The statement that ends that."""
    table_waits: ClassVar[str]
    """The statement that counts the connections of this database that wait for a table."""
    set_time_zone: ClassVar[str]
    """The statement that sets the connection's time zone to so many hours east of UTC, to be formatted."""
    idle_timeout: ClassVar[str]
    """The statement that tells for how many seconds a transaction may be idle; 0 for any time."""
    set_idle_timeout: ClassVar[str]
    """The statement that sets this for the session, to be formatted."""
    now: ClassVar[str]
    """The statement that tells the server's time, in seconds since 1970."""
    number: ClassVar[str]
    """The statement that tells the connection's number."""
    numbers: ClassVar[str]
    """The statement that lists the numbers of all connections to the database."""
    end: ClassVar[str]
    """The statement that ends the connection of a number, to be formatted."""
    read_only: ClassVar[dict[str, Any]]
    """The arguments of connections that may not write."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.driver: Driver = driver_named(self.library)
        self._opened: list[Any] = []

    @property
    def dialect(self) -> str:
        return self.driver.dialect

    @property
    def url(self) -> str:
        """The DSN for ``open_pool``, by this library."""
        scheme, _, rest = self.dsn.partition("://")
        return f"{scheme}+{self.library}://{rest}"

    @property
    def can_listen(self) -> bool:
        """Whether the database carries notifications between processes."""
        return self.driver.can_listen

    @abstractmethod
    def pool(self, size: int = 10, **arguments: Any) -> AbstractAsyncContextManager[Any]:
        """Open a pool of up to ``size`` connections. Further arguments are the library's own."""

    @abstractmethod
    async def close_pool(self, pool: Any) -> None:
        """Close a pool as the library has it, once all its connections have been given back."""

    @abstractmethod
    def by_way_of(self, proxy: Proxy) -> dict[str, Any]:
        """Return the arguments of connections that go through a proxy to the database."""

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

    async def waiting_for_locks(self, number: int) -> None:
        """Return when so many connections of the database wait for somebody else's lock."""
        await self._waiting(self.lock_waits, number)

    async def waiting_for_tables(self, number: int) -> None:
        """Return when so many connections of the database wait for a table that somebody has locked."""
        await self._waiting(self.table_waits, number)

    async def _waiting(self, statement: str, number: int) -> None:
        watching = await self.connect()

        async def enough() -> bool:
            return int(await self.value(watching, statement)) >= number

        # InnoDB's tables aren't brought up to date if they were read less than a tenth of a second ago.
        await eventually(enough, f"{number} connections that wait", every=0.15)

    async def kill_others(self, connection: Any) -> int:
        """End all connections to the database but this one; return how many there were once they are gone."""
        # Of a connection that is in a transaction, PostgreSQL tells the same again and again.
        killer = await self.connect()
        spared = await self.value(connection, self.number), await self.value(killer, self.number)
        killed = {row[0] for row in await self.fetch(killer, self.numbers)}.difference(spared)
        for number in killed:
            # It may have ended by itself meanwhile.
            with suppress(self.library_error):
                await self.fetch(killer, self.end.format(number))

        async def gone() -> bool:
            return killed.isdisjoint(row[0] for row in await self.fetch(killer, self.numbers))

        await eventually(gone, "the connections are gone")
        return len(killed)

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
    lock_table: ClassVar[Sequence[str]] = ("BEGIN", "LOCK TABLE {}")
    unlock_tables: ClassVar[str] = "COMMIT"
    table_waits: ClassVar[str] = lock_waits
    set_time_zone: ClassVar[str] = "SET TIME ZONE {}"
    idle_timeout: ClassVar[str] = (
        "SELECT extract(epoch FROM current_setting('idle_in_transaction_session_timeout')::interval)::int"
    )
    set_idle_timeout: ClassVar[str] = "SET idle_in_transaction_session_timeout = '{}s'"
    now: ClassVar[str] = "SELECT extract(epoch FROM clock_timestamp())"
    number: ClassVar[str] = "SELECT pg_backend_pid()"
    numbers: ClassVar[str] = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    end: ClassVar[str] = "SELECT pg_terminate_backend({})"
    read_only: ClassVar[dict[str, Any]] = {"server_settings": {"default_transaction_read_only": "on"}}

    def pool(self, size: int = 10, **arguments: Any) -> AbstractAsyncContextManager[Any]:
        return asyncpg.create_pool(self.dsn, **{"min_size": 1, "max_size": size, **arguments})

    async def close_pool(self, pool: Any) -> None:
        await pool.close()

    def by_way_of(self, proxy: Proxy) -> dict[str, Any]:
        return {"host": proxy.host, "port": proxy.port}

    async def _connect(self, **arguments: Any) -> Any:
        return await asyncpg.connect(self.dsn, **arguments)

    def _cut(self, connection: Any) -> None:
        connection.terminate()


class PsycopgPool(psycopg_pool.AsyncConnectionPool[Any]):
    """A pool whose connections are acquired by the name that the other libraries have for it."""

    def acquire(self) -> AbstractAsyncContextManager[Any]:
        return self.connection()


class PsycopgBackend(PostgresBackend):
    library: ClassVar[str] = "psycopg"
    library_error: ClassVar[type[Exception]] = psycopg.Error
    read_only: ClassVar[dict[str, Any]] = {"options": "-c default_transaction_read_only=on"}

    def pool(self, size: int = 10, **arguments: Any) -> AbstractAsyncContextManager[Any]:
        return PsycopgPool(
            self.dsn, min_size=1, max_size=size, open=False, kwargs={"autocommit": True, **arguments}
        )

    async def _connect(self, **arguments: Any) -> Any:
        return await psycopg.AsyncConnection.connect(self.dsn, **{"autocommit": True, **arguments})

    def _cut(self, connection: Any) -> None:
        connection.pgconn.finish()


class MysqlBackend(Backend):
    quote: ClassVar[str] = "`"
    has_returning: ClassVar[bool] = False
    has_autocommit: ClassVar[bool] = True
    lock_waits: ClassVar[str] = (
        "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p"
        " ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()"
    )
    lock_table: ClassVar[Sequence[str]] = ("LOCK TABLES {} WRITE",)
    unlock_tables: ClassVar[str] = "UNLOCK TABLES"
    table_waits: ClassVar[str] = (
        "SELECT count(*) FROM information_schema.processlist"
        " WHERE state = 'Waiting for table metadata lock' AND db = DATABASE()"
    )
    set_time_zone: ClassVar[str] = "SET time_zone = '{:+03d}:00'"
    idle_timeout: ClassVar[str] = "SELECT @@SESSION.wait_timeout"
    set_idle_timeout: ClassVar[str] = "SET SESSION wait_timeout = {}"
    now: ClassVar[str] = "SELECT UNIX_TIMESTAMP(NOW(6))"
    number: ClassVar[str] = "SELECT CONNECTION_ID()"
    numbers: ClassVar[str] = "SELECT id FROM information_schema.processlist WHERE db = DATABASE()"
    end: ClassVar[str] = "KILL {}"
    read_only: ClassVar[dict[str, Any]] = {"init_command": "SET SESSION TRANSACTION READ ONLY"}

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

    async def close_pool(self, pool: Any) -> None:
        pool.close()
        await pool.wait_closed()

    def by_way_of(self, proxy: Proxy) -> dict[str, Any]:
        return {"host": proxy.host, "port": proxy.port, "unix_socket": None}

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


POSTGRES: dict[str, type[PostgresBackend]] = {"postgres": PostgresBackend, "psycopg": PsycopgBackend}
FASTER = "asyncmy"
MYSQL: dict[str, type[MysqlBackend]] = {"aiomysql": AiomysqlBackend, FASTER: AsyncmyBackend}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend_name" in metafunc.fixturenames:
        one = metafunc.definition.get_closest_marker("one_library") is not None
        ours = [FASTER] if one else [*MYSQL]
        if "mysql" not in metafunc.fixturenames:
            ours = [*([*POSTGRES][:1] if one else POSTGRES), *ours]
        metafunc.parametrize("backend_name", ours, indirect=True)


@pytest.fixture
def backend_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def backend_database(request: pytest.FixtureRequest, backend_name: str) -> Database | MysqlDatabase:
    """The test's database, which is made on that server alone that it is to be on."""
    database: Database | MysqlDatabase = request.getfixturevalue(
        "database" if backend_name in POSTGRES else "mysql_database"
    )
    return database


@pytest_asyncio.fixture
async def backend(backend_name: str, backend_database: Database | MysqlDatabase) -> AsyncIterator[Backend]:
    """A database of the test's own, on PostgreSQL and on MariaDB, by each client library."""
    backend = (
        MYSQL[backend_name](backend_database)
        if isinstance(backend_database, MysqlDatabase)
        else POSTGRES[backend_name](backend_database.dsn)
    )
    yield backend
    backend.close()


@dataclass(frozen=True)
class OwnServer:
    """A server that one test alone owns, to stop, kill and start again, and a database on it."""

    server: EmbeddedPostgres | EmbeddedMariaDB
    backend: Backend


@pytest_asyncio.fixture
async def own_backend(no_task_left: None, backend_name: str) -> AsyncIterator[OwnServer]:
    """A started server of the test's own, of each database, by each client library."""
    if backend_name in POSTGRES:
        async with make_server(EMBEDDED) as postgres:
            yield OwnServer(postgres, on_postgres := POSTGRES[backend_name](postgres.dsn))
            on_postgres.close()
        return
    async with make_mariadb(port=0) as mariadb:
        backend = MYSQL[backend_name](MysqlDatabase(mariadb, "test"))
        admin = await backend.connect(db=None)
        await backend.fetch(admin, "CREATE DATABASE test")
        yield OwnServer(mariadb, backend)
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
