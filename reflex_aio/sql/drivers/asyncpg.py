"""asyncpg: its connections, its pools and its errors."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from reflex_aio.errors import ConnectionLost, DatabaseError, ReflexError, SchemaError, TableNotFound
from reflex_aio.sql.drivers.asyncpg_listen import AsyncpgListenConnection, address_of
from reflex_aio.sql.drivers.base import Driver, ListenConnection, Row, Translation, already_in_transaction
from reflex_aio.tasks import shielded

__all__ = ["AsyncpgDriver", "after_transaction"]


def after_transaction(connection: Any, key: Hashable, call: Callable[[], None]) -> None:
    """Call ``call`` once ``connection``'s transaction has ended, or at once if there is none.

    asyncpg has no hook for a commit. A query logger is called after each statement, and the connection knows
    whether it is in a transaction, so neither the statement's text nor who sent it matters: COMMIT, END,
    ``UPDATE ...; COMMIT``, the end of ``connection.transaction()``, the ROLLBACK of a pool on release.

    A COMMIT that was prepared explicitly is not logged; then the next statement tells, in a pool its reset
    query at the latest. Loggers run a little after their statement, and in uvloop possibly when the next
    transaction has begun already: so the usual texts count as well, and the rest waits for the end of that one.

    :param connection: an asyncpg connection, no proxy
    """
    if not connection.is_in_transaction():
        call()
        return
    ends = _ends.get(connection)
    if ends is None:
        ends = _ends[connection] = _TransactionEnd(connection)
    ends.add(connection, key, call)


class _TransactionEnd:
    """What to call at the end of one connection's transaction, which it must not keep alive."""

    def __init__(self, connection: Any) -> None:
        self._connection = ref(connection)
        self._calls: dict[Hashable, Callable[[], None]] = {}

    def add(self, connection: Any, key: Hashable, call: Callable[[], None]) -> None:
        if not self._calls:
            connection.add_query_logger(self._statement_ended)
        self._calls[key] = call

    def _statement_ended(self, statement: Any) -> None:
        connection = self._connection()
        if connection is None:
            return
        if not connection.is_closed() and connection.is_in_transaction() and not _is_end(statement):
            return
        calls, self._calls = self._calls, {}
        # First of all, as streams wait for it.
        for call in calls.values():
            call()
        if not self._calls:
            connection.remove_query_logger(self._statement_ended)


def _is_end(statement: Any) -> bool:
    sql = statement.query
    return (
        statement.exception is None
        and len(sql) < 20
        and sql.strip("; \n").upper() in ("COMMIT", "END", "ROLLBACK")
    )


_ends: WeakKeyDictionary[Any, _TransactionEnd] = WeakKeyDictionary()


# How long the clean-up of a connection may take before it is cut, in seconds.
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


class AsyncpgDriver(Driver):
    """Connections, pooled connections and pools of asyncpg."""

    name: ClassVar[str] = "asyncpg"
    dialect: ClassVar[str] = "postgres"
    knows_transactions: ClassVar[bool] = True
    can_listen: ClassVar[bool] = True

    def is_connection(self, candidate: object) -> bool:
        return isinstance(candidate, (asyncpg.Connection, PoolConnectionProxy))

    def is_pool(self, candidate: object) -> bool:
        return isinstance(candidate, asyncpg.Pool)

    def is_closed(self, connection: Any) -> bool:
        # Of a connection that was lost the pool takes the proxy away.
        connection = _underlying(connection)
        return connection is None or bool(connection.is_closed())

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

    def errors(self, table: str, *, schema_only: bool = False) -> AbstractContextManager[None]:
        return Translation(partial(_translated, table=table, schema_only=schema_only))

    async def open_pool(self, dsn: str, *, size: int) -> Any:
        try:
            return await asyncpg.create_pool(dsn, min_size=1, max_size=size, timeout=_CONNECT_TIMEOUT)
        except asyncpg.ClientConfigurationError as exc:
            raise ValueError(f"the DSN is not accepted: {exc}") from None
        except ValueError:
            # Such as of a port that is no number. What it says may be a part of the password.
            raise ValueError("the DSN's port or one of its parameters can't be read") from None

    async def close_pool(self, pool: Any) -> None:
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await pool.close()
        except TimeoutError:
            # It is terminated then.
            pass

    def acquire(self, pool: Any) -> AbstractAsyncContextManager[Any]:
        return _acquire(pool)

    def can_spare(self, pool: Any) -> bool:
        if pool.is_closing():
            return False
        return bool(pool.get_idle_size() > 0 or pool.get_size() < pool.get_max_size())

    def after_transaction(self, connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
        after_transaction(_underlying(connection), key, call)
        return True

    def in_transaction(self, connection: Any) -> bool:
        return not connection.is_closed() and bool(connection.is_in_transaction())

    def fixed(self, connection: Any) -> Any:
        return _underlying(connection)

    async def server(self, connection: Any) -> Hashable:
        return (await address_of(_underlying(connection))).server

    async def connector(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        return (await address_of(_underlying(connection))).connect

    async def listen_connection(self, connection: Any) -> ListenConnection:
        return await AsyncpgListenConnection.take(connection)


def _underlying(connection: Any) -> Any:
    """Return the connection that a pool's proxy stands for, or the connection itself.

    A proxy is a new object at each acquire and is cut off at release; what is known of a connection has to
    outlive it. asyncpg has no public name for this: ``_con`` is the only private one that we use.
    """
    if isinstance(connection, PoolConnectionProxy):
        return connection._con  # type: ignore[attr-defined]
    return connection


def _translated(exc: Exception, *, table: str, schema_only: bool) -> ReflexError | None:
    """Return the error of ours to raise instead of ``exc``, if there is one."""
    if isinstance(exc, (asyncpg.UndefinedColumnError, asyncpg.DatatypeMismatchError)):
        return SchemaError(table=table, differences=[f"{exc.args[0]} (validate() compares the whole table)"])
    # Not of a table that a trigger is after, say.
    if isinstance(exc, asyncpg.UndefinedTableError) and table in str(exc):
        return TableNotFound(table=table)
    if schema_only:
        return None
    if isinstance(exc, _LOST) or _is_closed(exc):
        reason = str(exc) or type(exc).__name__
        return ConnectionLost(f"{table}: the database can't be reached: {reason}")
    if isinstance(exc, (asyncpg.PostgresError, asyncpg.InterfaceError)):
        return DatabaseError(
            f"{table}: {exc}",
            sqlstate=getattr(exc, "sqlstate", None),
            lock_conflict=isinstance(exc, _LOCK_CONFLICTS),
        )
    return None


def _is_closed(exc: Exception) -> bool:
    # asyncpg has no class of its own for a connection that was lost before or under a statement.
    if isinstance(exc, asyncpg.InternalClientError):
        # Its own complaint that the server spoke out of turn, as a backend does that is being ended. No two statements
        # are ever sent at once from here, so it can't be about that.
        return True
    text = str(exc)
    # The last is what the pool makes of a connection that was lost while it was lent and idle.
    return isinstance(exc, asyncpg.InterfaceError) and (
        "connection is closed" in text
        or "connection was closed" in text
        or "connection has been released" in text
    )


@asynccontextmanager
async def _acquire(pool: Any) -> AsyncIterator[Any]:
    connection = await pool.acquire()
    try:
        yield connection
    except BaseException:
        # A statement may be under way still: to wait until the server has cancelled it would hold the slot.
        # Of a connection that was lost the pool has taken the proxy away already.
        if _underlying(connection) is not None:
            connection.terminate()
        await shielded(_release(pool, connection))
        raise
    await shielded(_release(pool, connection))


async def _release(pool: Any, connection: Any) -> None:
    try:
        await pool.release(connection, timeout=_RELEASE_TIMEOUT)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        # asyncpg has closed the connection, and the pool makes a new one.
        pass
