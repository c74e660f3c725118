"""asyncpg: its connections, pools, errors, transaction ends and notifications."""

from __future__ import annotations  # asyncpg.Connection takes a parameter in its stubs only

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary, ref

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from reflex_aio.errors import ConnectionLost, DatabaseError, ReflexError, SchemaError, TableNotFound
from reflex_aio.sql.drivers.base import (
    CannotNotify,
    Driver,
    ListenConnection,
    Row,
    already_in_transaction,
    keep_alive,
)

__all__ = ["Address", "AsyncpgDriver", "AsyncpgListenConnection", "address_of"]

# The time limit for the reset of a connection, and for closing a pool, in seconds.
_RELEASE_TIMEOUT = 1.0
# Seconds.
_CONNECT_TIMEOUT = 10.0

_LOCK_CONFLICTS = (
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.SerializationError,
)
_LOST = (
    OSError,
    EOFError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)

# Appended to the user's application_name, so that pg_stat_activity distinguishes these connections.
_APPLICATION_NAME = "reflex_aio"

# A NOTIFY is a transaction that writes. A crash of the server loses it whether or not it was flushed to disk, so it
# need not wait for the disk, and leaves the disk to the writers' commits. It is not set for the session: behind a
# pooler, others use the session too.
_WITHOUT_FLUSH = "SET LOCAL synchronous_commit = off"


class Address:
    """The address, database and user of a connection. It contains the password: never log it.

    :param host: the path of a Unix socket, or host and port: the one that answered, of a DSN with several
    :param parameters: asyncpg's named tuple of the same connection
    """

    def __init__(self, host: str | tuple[str, int], parameters: Any) -> None:
        self._host, self._parameters = host, parameters
        self.server: Hashable = (host, parameters.user, parameters.database)

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """Open a new connection to the same server and database, as the same user."""
        given: dict[str, Any] = self._parameters._asdict()
        host, port = (self._host, None) if isinstance(self._host, str) else self._host
        settings: dict[str, str] = dict(given["server_settings"] or {})
        name = settings.get("application_name", "")
        settings["application_name"] = f"{name} {_APPLICATION_NAME}".strip()
        others: dict[str, Any] = {
            "ssl": self._ssl(),
            # Of several hosts this one qualified. If it no longer does, statements on it will fail.
            "target_session_attrs": "any",
            # Parameters that not every supported version of asyncpg has.
            **{key: given[key] for key in ("krbsrvname", "gsslib") if given.get(key) is not None},
        }
        negotiation = given.get("ssl_negotiation")
        if negotiation is not None and negotiation.value == "direct":
            others["direct_tls"] = True
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            host=host,
            port=port,
            user=given["user"],
            password=given["password"],
            database=given["database"],
            server_settings=settings,
            timeout=_CONNECT_TIMEOUT,
            # A pooler may run each statement on another server connection.
            statement_cache_size=0,
            **others,
        )
        return connection

    def _ssl(self) -> Any:
        mode = self._parameters.sslmode
        if mode.name in ("allow", "prefer"):
            # These try with and without TLS; an SSL context alone would not.
            return mode.name
        return self._parameters.ssl or False


async def address_of(connection: Any) -> Address:
    """Return the address of ``connection``, which is not a proxy. Runs an empty statement on it the first time."""
    address = _addresses.get(connection)
    if address is None:
        address = _addresses[connection] = await _find_address(connection)
    return address


async def _find_address(connection: Any) -> Address:
    # The arguments of a query logger are asyncpg's only public source of a connection's address.
    found: asyncio.Future[Address] = asyncio.get_running_loop().create_future()

    def log(statement: Any) -> None:
        if not found.done():
            found.set_result(Address(statement.conn_addr, statement.conn_params))

    with connection.query_logger(log):
        # Takes no snapshot and begins no transaction. Not execute(), which fails on an empty statement.
        try:
            await connection.fetch("")
        except asyncpg.InFailedSQLTransactionError:
            pass
    return await found


_addresses: WeakKeyDictionary[Any, Address] = WeakKeyDictionary()


class AsyncpgListenConnection(ListenConnection):
    """An asyncpg connection that belongs to no pool."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], pid: int) -> None:
        self.connection = connection
        self._pid = pid
        self._lost: Callable[[], None] | None = None
        # A pooler invents the process ids that it sends to its clients.
        self.direct = pid == connection.get_server_pid()

    @classmethod
    async def wrap(cls, connection: Any) -> Self:
        """Take ownership of ``connection``. It is closed if this raises.

        :raises TypeError: if it is not a connection of asyncpg, or belongs to a pool
        """
        if isinstance(connection, PoolConnectionProxy) or not isinstance(connection, asyncpg.Connection):
            raise TypeError(
                f"{connection!r} is not accepted: pass a connection that asyncpg.connect() returned. A pool would wait"
                " for its connection when it is closed"
            )
        try:
            return cls(connection, await connection.fetchval("SELECT pg_catalog.pg_backend_pid()"))
        except BaseException:
            connection.terminate()
            raise

    async def listen(self, channel: str, received: Callable[[str, bool], None]) -> None:
        def notified(connection: object, pid: int, channel: str, payload: object) -> None:
            received(str(payload), pid == self._pid)

        try:
            await self.connection.add_listener(channel, notified)
        except asyncpg.ReadOnlySQLTransactionError as exc:
            raise CannotNotify(str(exc)) from exc

    async def notify(self, channel: str, payloads: Sequence[str], *, timeout: float) -> None:
        # As one text, which is one transaction and one round trip, also behind a pooler. A prepared SELECT pg_notify()
        # takes the server three times as long.
        statements = [f'NOTIFY "{channel}", {_literal(payload)}' for payload in payloads]
        try:
            # asyncpg's own timeout takes a tenth of the calls of asyncio.timeout(), for each wake-up.
            await self.connection.execute("; ".join([_WITHOUT_FLUSH, *statements]), timeout=timeout)
        except asyncpg.ReadOnlySQLTransactionError as exc:
            raise CannotNotify(str(exc)) from exc

    def on_lost(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self.connection.add_termination_listener(self._terminated)

    def _terminated(self, connection: object) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    async def close(self) -> None:
        self._lost = None
        # Sends Terminate and waits for nothing. asyncpg's close() would wait for a server that does not answer, and
        # before 0.32, a close() that was interrupted left the socket open.
        self.connection.terminate()


def _literal(text: str) -> str:
    """Return ``text`` as an SQL literal that does not depend on ``standard_conforming_strings``."""
    quoted = text.replace("'", "''")
    return f"'{quoted}'" if "\\" not in text else "E'{}'".format(quoted.replace("\\", "\\\\"))


class AsyncpgDriver(Driver):
    """Connections, pooled connections and pools of asyncpg."""

    name: ClassVar[str] = "asyncpg"
    dialect: ClassVar[str] = "postgres"
    tracks_transactions: ClassVar[bool] = True
    can_listen: ClassVar[bool] = True

    # The objects of this driver.

    def is_connection(self, candidate: object) -> bool:
        return isinstance(candidate, (asyncpg.Connection, PoolConnectionProxy))

    def is_pool(self, candidate: object) -> bool:
        return isinstance(candidate, asyncpg.Pool)

    def is_closed(self, connection: Any) -> bool:
        # The pool detaches the proxy of a connection that was lost.
        connection = self.underlying(connection)
        return connection is None or bool(connection.is_closed())

    def underlying(self, connection: Any) -> Any:
        # A proxy is a new object at each acquire, and is detached at release. asyncpg has no public name for the
        # connection behind it: _con is the only private one that we use.
        if isinstance(connection, PoolConnectionProxy):
            return connection._con  # type: ignore[attr-defined]
        return connection

    # Statements.

    def fetch(self, connection: Any, sql: str, *args: Any) -> Awaitable[Sequence[Row]]:
        rows: Awaitable[Sequence[Row]] = connection.fetch(sql, *args)
        return rows

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        transaction: AbstractAsyncContextManager[None] = connection.transaction()
        return transaction

    def begin(self, connection: Any) -> AbstractAsyncContextManager[None]:
        if connection.is_in_transaction():
            raise already_in_transaction(connection)
        return self.transaction(connection)

    # Errors.

    def translate(self, exc: Exception, table: str, *, schema_only: bool = False) -> ReflexError | None:
        if isinstance(exc, (asyncpg.UndefinedColumnError, asyncpg.DatatypeMismatchError)):
            return SchemaError(
                table=table, differences=[f"{exc.args[0]} (validate() compares the whole table)"]
            )
        # The missing table may be another one, such as one that a trigger uses.
        if isinstance(exc, asyncpg.UndefinedTableError) and table in str(exc):
            return TableNotFound(table=table)
        if schema_only:
            return None
        if isinstance(exc, _LOST) or _is_closed(exc):
            return ConnectionLost(f"{table}: the database can't be reached: {str(exc) or type(exc).__name__}")
        if isinstance(exc, (asyncpg.PostgresError, asyncpg.InterfaceError)):
            return DatabaseError(
                f"{table}: {exc}",
                sqlstate=getattr(exc, "sqlstate", None),
                lock_conflict=isinstance(exc, _LOCK_CONFLICTS),
            )
        return None

    # Pools.

    async def open_pool(self, dsn: str, *, size: int) -> Any:
        try:
            return await asyncpg.create_pool(
                dsn, min_size=1, max_size=size, timeout=_CONNECT_TIMEOUT, init=_keep_alive
            )
        except asyncpg.ClientConfigurationError as exc:
            raise ValueError(f"the DSN is not accepted: {exc}") from None
        except ValueError:
            # For example a port that is not a number. asyncpg's message may contain a part of the password.
            raise ValueError("the DSN's port or one of its parameters can't be read") from None

    async def close_pool(self, pool: Any) -> None:
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await pool.close()
        except TimeoutError:
            # When it is cancelled, Pool.close() terminates the pool.
            pass

    def checkout(self, pool: Any) -> Awaitable[Any]:
        connection: Awaitable[Any] = pool.acquire()
        return connection

    async def release(
        self, pool: Any, connection: Any, *, broken: bool = False, timed_out: bool = False
    ) -> None:
        # asyncpg sends a cancel request when a statement is cancelled. The pool waits until the statement has ended,
        # and resets the session; if that takes longer than the timeout, it closes the connection.
        if self.underlying(connection) is not None and self.is_closed(connection):
            # Old versions of asyncpg would not free the pool's slot of a connection that was lost.
            connection.terminate()
        try:
            await pool.release(connection, timeout=_RELEASE_TIMEOUT)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            # asyncpg has closed the connection, and the pool will open a new one.
            pass

    def has_spare(self, pool: Any) -> bool:
        if pool.is_closing():
            return False
        return bool(pool.get_idle_size() > 0 or pool.get_size() < pool.get_max_size())

    # Wake-ups.

    def after_transaction(self, connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
        if isinstance(connection, PoolConnectionProxy):
            connection = connection._con  # type: ignore[attr-defined]
        if not connection.is_in_transaction():
            call()
            return True
        end = _transaction_ends.get(connection)
        if end is None:
            end = _transaction_ends[connection] = _TransactionEnd(connection)
        if not end.calls:
            connection.add_query_logger(end.statement_ended)
        end.calls[key] = call
        return True

    def in_transaction(self, connection: Any) -> bool:
        return not connection.is_closed() and bool(connection.is_in_transaction())

    async def server(self, connection: Any) -> Hashable:
        return (await address_of(self.underlying(connection))).server

    async def connector(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        return (await address_of(self.underlying(connection))).connect

    async def listen_connection(self, connection: Any) -> ListenConnection:
        return await AsyncpgListenConnection.wrap(connection)


async def _keep_alive(connection: asyncpg.Connection) -> None:
    # asyncpg has no public name for the socket.
    transport = getattr(connection, "_transport", None)
    keep_alive(None if transport is None else transport.get_extra_info("socket"))


class _TransactionEnd:
    """The functions to call at the end of one connection's transaction. It must not keep the connection alive.

    asyncpg has no hook for a commit. But a query logger is called after each statement, and the connection knows
    whether it is in a transaction. So neither the text nor the sender of the last statement matters: COMMIT, END,
    ``UPDATE ...; COMMIT``, the end of ``connection.transaction()``, the ROLLBACK of a pool on release.

    A COMMIT that was prepared explicitly is not logged. The next statement ends the wait then, in a pool its reset
    query at the latest. Loggers run a little after their statement, on uvloop possibly when the next transaction has
    already begun. So the usual texts count as well; otherwise the calls wait for the end of that transaction.

    :param connection: an asyncpg connection, not a proxy
    """

    def __init__(self, connection: Any) -> None:
        self._connection = ref(connection)
        self.calls: dict[Hashable, Callable[[], None]] = {}

    def statement_ended(self, statement: Any) -> None:
        connection = self._connection()
        if connection is None:
            return
        if not connection.is_closed() and connection.is_in_transaction() and not _ends_transaction(statement):
            return
        calls, self.calls = self.calls, {}
        # Before the logger is removed, as streams wait for these calls.
        for call in calls.values():
            call()
        if not self.calls:
            connection.remove_query_logger(self.statement_ended)


def _ends_transaction(statement: Any) -> bool:
    sql = statement.query
    return (
        statement.exception is None
        and len(sql) < 20
        and sql.strip("; \n").upper() in ("COMMIT", "END", "ROLLBACK")
    )


def _is_closed(exc: Exception) -> bool:
    # asyncpg has no class of its own for a connection that was lost before or during a statement.
    if isinstance(exc, asyncpg.InternalClientError):
        # Raised for an unexpected message of the server, such as a backend sends while it is terminated. It cannot be
        # about two statements at once, as this package never sends two.
        return True
    text = str(exc)
    # The last is the pool's error for a connection that was lost while it was acquired and idle.
    return isinstance(exc, asyncpg.InterfaceError) and (
        "connection is closed" in text
        or "connection was closed" in text
        or "connection has been released" in text
    )


_transaction_ends: WeakKeyDictionary[Any, _TransactionEnd] = WeakKeyDictionary()
