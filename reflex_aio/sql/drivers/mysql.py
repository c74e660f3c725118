"""MySQL and MariaDB: literals, errors, sessions and transactions, in common to the client libraries."""

import asyncio
import itertools
import logging
import math
import re
import socket
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, NoReturn
from weakref import WeakKeyDictionary, WeakSet

from reflex_aio.errors import ConnectionLost, DatabaseError, ReflexError, SchemaError, TableNotFound
from reflex_aio.sql.drivers.base import (
    Driver,
    ListenConnection,
    Row,
    already_in_transaction,
    keep_alive,
)
from reflex_aio.sql.drivers.dsn import mysql_arguments
from reflex_aio.tasks import shielded

__all__ = ["LOCK_CONFLICTS", "Done", "MysqlDriver", "error_number", "limited_lock_waits"]

logger = logging.getLogger(__name__)

# The time limit for the end of a transaction, and for the return of a connection to its pool, in seconds.
_CLEANUP_TIMEOUT = 1.0
# Seconds.
_CONNECT_TIMEOUT = 10

_savepoints = itertools.count(1)

# Printable ASCII, except the quote, and the backslash, whose meaning depends on sql_mode. The same in each character
# set that a client can use.
_is_plain = re.compile(r"[ -&(-\[\]-~]*").fullmatch

# Error numbers. Source: https://mariadb.com/docs/server/reference/error-codes, and MySQL's references of server and
# client errors.
_NO_TABLE = frozenset(
    {
        1049,  # unknown database
        1146,  # no such table
    }
)
_SCHEMA = frozenset(
    {
        1054,  # unknown column
        1364,  # a column without a default, which the statement leaves out
        1366,  # a value that the column's type, or its character set, cannot represent
    }
)
LOCK_CONFLICTS = frozenset(
    {
        1205,  # lock wait timeout
        1213,  # deadlock
    }
)
"""The numbers of the errors that are caused by other transactions' locks."""

_LOST = frozenset(
    {
        1040,  # too many connections
        1053,  # the server is shutting down
        1152, 1158, 1159, 1160, 1161,  # lost or late packets: the server closes the connection
        1203,  # too many connections of this user
        1927,  # the connection was killed
        2002, 2003,  # can't connect
        2006, 2013, 2055,  # gone away, lost
        3168,  # the server isn't available
        4031,  # disconnected because of inactivity
    }
)  # fmt: skip
# On Galera, the node is not part of its cluster at the moment. Elsewhere, an unknown command.
_UNKNOWN_COMMAND = 1047

# MySQL and MariaDB have different names for it. Each ignores the comment for the other.
_ISOLATION_LEVEL = "SELECT /*M! @@SESSION.tx_isolation */ /*!80003 @@SESSION.transaction_isolation */"
_SET_ISOLATION_LEVEL = "SET SESSION TRANSACTION ISOLATION LEVEL READ {}"

# The time limit for a row lock, and for a metadata lock during DDL, in seconds: the least that MySQL accepts.
_LIMIT_LOCK_WAITS = """
SET @reflex_aio_rows = @@SESSION.innodb_lock_wait_timeout, @reflex_aio_table = @@SESSION.lock_wait_timeout,
    SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1
"""
_RESTORE_LOCK_WAITS = """
SET SESSION innodb_lock_wait_timeout = @reflex_aio_rows, SESSION lock_wait_timeout = @reflex_aio_table
"""

_Command = Callable[[], Awaitable[Any]]


class Done(NamedTuple):
    """The result of a statement without rows: the one row that :meth:`MysqlDriver.fetch` then returns."""

    changed: int
    """The number of rows that were inserted, deleted or changed."""
    last_id: int
    """The AUTO_INCREMENT id of the inserted row, the first of several; 0 if none was generated."""
    warned: bool
    """True if there are warnings, which SHOW WARNINGS lists."""


class MysqlDriver(Driver):
    """Connections and pools of a client library with PyMySQL's interface."""

    dialect: ClassVar[str] = "mysql"
    tracks_transactions: ClassVar[bool] = False
    can_listen: ClassVar[bool] = False

    # What differs between the libraries.

    error: ClassVar[type[Exception]]
    """The base class of the client library's exceptions."""

    interface_error: ClassVar[type[Exception]]
    """The exception for a closed connection."""

    cursor: ClassVar[type[Any]]
    """A cursor class whose rows are tuples. It sets ``warned`` if there are warnings, instead of fetching them."""

    create_pool: ClassVar[Callable[..., Awaitable[Any]]]
    """The client library's function of this name."""

    @abstractmethod
    def address(self, connection: Any) -> tuple[Hashable, Hashable, str | None]:
        """Return the server's address, the user, and the database if one was given when the connection was opened."""

    @abstractmethod
    def socket(self, connection: Any) -> socket.socket | None:
        """Return the connection's socket, as far as the library shows it."""

    # The objects of this driver.

    def underlying(self, connection: Any) -> Any:
        return connection

    # Statements.

    async def fetch(self, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
        """Run one statement, see :meth:`Driver.fetch`; return one :class:`Done` if the statement has no rows.

        ``%s`` is the placeholder of an argument: None, or a bool, int, float, str or bytes. ``%%`` is a percent sign.

        :raises ValueError: if the connection's character set lacks a character of a name
        """
        try:
            return await self._execute(connection, sql % tuple(map(_literal, args)))
        except UnicodeEncodeError as exc:
            lacking = exc.object[exc.start : exc.end]
            raise ValueError(
                f"the connection's character set {exc.encoding} has no {lacking!r}: connect with charset='utf8mb4'"
            ) from exc

    async def _execute(self, connection: Any, sql: str) -> Sequence[Row]:
        # Of our own class, whatever the connection's default is.
        async with connection.cursor(self.cursor) as cursor:
            await cursor.execute(sql)
            if cursor.description is None:
                return (Done(cursor.rowcount, cursor.lastrowid or 0, cursor.warned),)
            rows: Sequence[Row] = await cursor.fetchall()
            return rows

    def begin(self, connection: Any) -> AbstractAsyncContextManager[None]:
        # Without autocommit, the client library does not always notice that a SELECT has begun a transaction. BEGIN
        # ends such a transaction.
        if connection.get_transaction_status():
            raise already_in_transaction(connection)
        return _Transaction(self, connection, connection.begin, connection.commit, connection.rollback)

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        if not _may_be_in_transaction(connection):
            return _Transaction(self, connection, connection.begin, connection.commit, connection.rollback)
        # A savepoint, as BEGIN would commit the transaction.
        name = f"reflex_aio_{next(_savepoints)}"
        begin, commit, rollback = (
            partial(self._execute, connection, f"{command} {name}")
            for command in ("SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO")
        )
        return _Transaction(self, connection, begin, commit, rollback)

    # Errors.

    def translate(self, exc: Exception, table: str, *, schema_only: bool = False) -> ReflexError | None:
        if isinstance(exc, self.error):
            number = error_number(exc)
            text = str(exc.args[-1]) if exc.args else ""
            if number in _NO_TABLE and _is_about(text, table):
                return TableNotFound(table=table)
            if number in _SCHEMA:
                return SchemaError(table=table, differences=[f"{text} (validate() compares the whole table)"])
            if schema_only:
                return None
            if (
                number in _LOST
                or isinstance(exc, self.interface_error)
                or (number == _UNKNOWN_COMMAND and "WSREP" in text)
            ):
                return _lost(table, exc, text)
            message = f"{table}: {text}" if number is None else f"{table}: {text} (error {number})"
            return DatabaseError(message, lock_conflict=number in LOCK_CONFLICTS)
        if schema_only:
            return None
        if isinstance(exc, (OSError, EOFError)):
            return _lost(table, exc, str(exc))
        if isinstance(exc, RuntimeError):
            # Raised by both pools while they are closed, and by uvloop for a closed socket.
            if "closing pool" in str(exc):
                return DatabaseError(f"{table}: the pool is closed")
            if "closed=True" in str(exc):
                return _lost(table, exc, str(exc))
        return None

    # Pools.

    async def open_pool(self, dsn: str, *, size: int) -> Any:
        arguments = mysql_arguments(dsn)
        pool = await self.create_pool(minsize=1, maxsize=size, connect_timeout=_CONNECT_TIMEOUT, **arguments)
        _own_pools.add(pool)
        return pool

    async def close_pool(self, pool: Any) -> None:
        pool.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLEANUP_TIMEOUT):
                await pool.wait_closed()

    async def checkout(self, pool: Any) -> Any:
        connection = await pool.acquire()
        try:
            # The pool also returns connections with an open snapshot, as the client libraries do not notice that a
            # SELECT has begun a transaction. The rollback also ends an isolation level that was set for the next
            # transaction and not used, which the session's variables do not show.
            await connection.rollback()
            autocommit = bool(connection.get_autocommit())
            if not autocommit:
                # Each SELECT would read the snapshot of the first.
                await connection.autocommit(True)
            # At any other level, a statement with autocommit reads committed rows only, and takes no locks.
            uncommitted = (await self._execute(connection, _ISOLATION_LEVEL))[0][0] == "READ-UNCOMMITTED"
            if uncommitted:
                await self._execute(connection, _SET_ISOLATION_LEVEL.format("COMMITTED"))
        except BaseException:
            await shielded(self.release(pool, connection, broken=True))
            raise
        if pool in _own_pools:
            # Each time, as the libraries have no hook for a new connection.
            keep_alive(self.socket(connection))
        if not autocommit or uncommitted:
            _changed_sessions[connection] = autocommit, uncommitted
        return connection

    async def release(
        self, pool: Any, connection: Any, *, broken: bool = False, timed_out: bool = False
    ) -> None:
        thread_id = connection.thread_id()
        autocommit, uncommitted = _changed_sessions.pop(connection, (True, False))
        if broken:
            # A statement may still be running.
            connection.close()
            if timed_out:
                await self._kill_statement(connection, thread_id)
        else:
            try:
                async with asyncio.timeout(_CLEANUP_TIMEOUT):
                    if uncommitted:
                        await self._execute(connection, _SET_ISOLATION_LEVEL.format("UNCOMMITTED"))
                    await connection.autocommit(autocommit)
            except (TimeoutError, OSError, EOFError, self.error):
                connection.close()
        releasing = [asyncio.ensure_future(pool.release(connection))]
        if self.is_closed(connection):
            # The pool does not notify tasks that wait for a connection that they may open one now. Neither library has
            # a public name for this, and clearing the pool would drop free connections without closing those that are
            # lost.
            releasing.append(asyncio.ensure_future(pool._wakeup()))
        # Not cancelled after the timeout: the waiting tasks would never be notified.
        await asyncio.wait(releasing, timeout=_CLEANUP_TIMEOUT)

    async def _kill_statement(self, connection: Any, thread_id: int) -> None:
        """Kill the statement of a connection that was closed. While it waits for a lock, the server does not notice.

        It is done on a new session of the same connection object: tasks may wait for any other connection of the pool.
        """
        try:
            async with asyncio.timeout(_CLEANUP_TIMEOUT):
                await connection.ping(reconnect=True)
                await self._execute(connection, f"KILL QUERY {thread_id}")
        except (TimeoutError, OSError, EOFError, RuntimeError, self.error) as exc:
            # The server cannot be reached, or the statement has ended by itself.
            logger.debug("a statement that timed out could not be killed: %s", exc)
        finally:
            connection.close()

    def has_spare(self, pool: Any) -> bool:
        # Neither library has a public name for a pool that is closing, and waits for its connections.
        if pool._closing:
            return False
        return bool(pool.freesize > 0 or not pool.maxsize or pool.size < pool.maxsize)

    # Wake-ups.

    def after_transaction(self, connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
        if _may_be_in_transaction(connection):
            return False
        call()
        return True

    async def server(self, connection: Any) -> Hashable:
        address, user, database = self.address(connection)
        if database is None:
            database = (await self.fetch(connection, "SELECT DATABASE()"))[0][0]
        return address, user, database

    async def connector(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        self._refuse_listening()

    async def listen_connection(self, connection: Any) -> ListenConnection:
        connection.close()
        self._refuse_listening()

    def _refuse_listening(self) -> NoReturn:
        raise TypeError(
            f"{self.name} connects to MySQL or MariaDB, which have no notifications between processes: streams poll, or"
            " are woken by a notifier= of your own"
        )


class _Transaction(AbstractAsyncContextManager[None]):
    # A transaction or a savepoint. A class takes fewer calls than a generator.

    __slots__ = ("_begin", "_commit", "_connection", "_driver", "_rollback")

    def __init__(
        self, driver: MysqlDriver, connection: Any, begin: _Command, commit: _Command, rollback: _Command
    ) -> None:
        self._driver, self._connection = driver, connection
        self._begin, self._commit, self._rollback = begin, commit, rollback

    async def __aenter__(self) -> None:
        await self._begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            await self._commit()
        else:
            await shielded(self._undo())

    async def _undo(self) -> None:
        # The client libraries close a connection when a statement on it is cancelled.
        if self._driver.is_closed(self._connection):
            return
        try:
            async with asyncio.timeout(_CLEANUP_TIMEOUT):
                await self._rollback()
        except TimeoutError:
            self._connection.close()
        except Exception as exc:
            # The connection is lost, or the server has rolled back the whole transaction, as after a deadlock. The
            # caller raises the original error.
            logger.debug("rolling back failed: %s", exc)


@asynccontextmanager
async def limited_lock_waits(driver: Driver, connection: Any) -> AsyncIterator[None]:
    """Limit the time that statements wait for a lock to one second. After an error the connection must be closed."""
    await driver.fetch(connection, _LIMIT_LOCK_WAITS)
    yield
    await driver.fetch(connection, _RESTORE_LOCK_WAITS)


def error_number(exc: Exception) -> int | None:
    """Return the server's number of an error, or ``None`` if it has none."""
    number = exc.args[0] if exc.args else None
    return number if isinstance(number, int) else None


def _literal(value: object) -> str:
    """Return ``value`` as SQL that means the same in every session.

    The client libraries escape according to the session's ``sql_mode`` and character set, as far as they know these.
    Bytes are not safe under NO_BACKSLASH_ESCAPES (and with PyMySQL 1.2, aiomysql cannot send any), and text is refused
    or lost if the connection's character set lacks a character. So everything but plain ASCII is written in
    hexadecimal, which needs no escapes, and text names its character set.

    :raises TypeError: if it is not None, a bool, int, float, str or bytes
    :raises ValueError: if it is a float that is not finite, or a str with a surrogate
    """
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return f"'{value}'" if _is_plain(value) else f"_utf8mb4 x'{value.encode().hex()}'"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"x'{value.hex()}'"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} is not accepted: MySQL has finite numbers only")
        return repr(value)
    raise TypeError(
        f"{value!r} is a {type(value).__name__}: accepted is None, a bool, int, float, str or bytes"
    )


def _is_about(text: str, table: str) -> bool:
    # The message may be about another table, such as one that a trigger uses. Some servers store names in lower case.
    schema, _, name = table.rpartition(".")
    return f".{name}'".casefold() in text.casefold() or (bool(schema) and f"'{schema}'" in text)


def _lost(table: str, exc: Exception, text: str) -> ConnectionLost:
    return ConnectionLost(f"{table}: the database can't be reached: {text or type(exc).__name__}")


def _may_be_in_transaction(connection: Any) -> bool:
    # According to the server's last answer. Without autocommit, a transaction is always open, or begins with the next
    # statement; one that a SELECT has begun is not noticed.
    return bool(not connection.get_autocommit() or connection.get_transaction_status())


# The settings of acquired connections that must be restored on release: autocommit, and whether the isolation level was
# READ UNCOMMITTED.
_changed_sessions: WeakKeyDictionary[Any, tuple[bool, bool]] = WeakKeyDictionary()
# The pools of open_pool().
_own_pools: WeakSet[Any] = WeakSet()
