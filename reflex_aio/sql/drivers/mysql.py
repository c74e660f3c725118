"""MySQL and MariaDB: what is the same with each of their client libraries."""

import asyncio
import itertools
import logging
import math
import re
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, NoReturn

from reflex_aio.errors import ConnectionLost, DatabaseError, ReflexError, SchemaError, TableNotFound
from reflex_aio.sql.drivers.base import Driver, ListenConnection, Row, Translation, already_in_transaction
from reflex_aio.sql.drivers.dsn import arguments_of
from reflex_aio.tasks import shielded

__all__ = [
    "LOCK_CONFLICTS",
    "Done",
    "Library",
    "MysqlDriver",
    "limited_locks",
    "literal",
    "read_committed",
    "read_uncommitted",
    "translated",
]

# Printable ASCII without the quote and the backslash, which sql_mode has a say in. The same in each character set that
# a client may have.
_is_plain = re.compile(r"[ -&(-\[\]-~]*").fullmatch


def literal(value: object) -> str:
    """Return ``value`` as SQL.

    The client libraries escape by the session's ``sql_mode`` and character set, as far as they know these: bytes are
    not safe under NO_BACKSLASH_ESCAPES (and with PyMySQL 1.2, aiomysql can't send any), and text is refused or lost
    where the connection's character set lacks a character. So what isn't plain ASCII is written in hexadecimal, which
    needs no escapes, and text says its character set.

    :raises TypeError: if it is none of None, bool, int, float, str and bytes
    :raises ValueError: if it is a float that is no number, or a str with a surrogate
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


# Source: https://mariadb.com/docs/server/reference/error-codes, and the reference of MySQL's server and client errors.
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
        1366,  # a value that the column's type, or its character set, doesn't have
    }
)
LOCK_CONFLICTS = frozenset(
    {
        1205,  # a lock was waited for too long
        1213,  # a deadlock
    }
)
"""The numbers of the errors that say that somebody else has locked something."""

_LOST = frozenset(
    {
        1040,  # too many connections
        1053,  # the server is shutting down
        1152, 1158, 1159, 1160, 1161,  # packets that were lost or late: the server hangs up
        1203,  # too many connections of this user
        1927,  # the connection was killed
        2002, 2003,  # can't connect
        2006, 2013, 2055,  # gone away, lost
        3168,  # the server isn't available
        4031,  # disconnected for being idle
    }
)  # fmt: skip
# Galera's answer while a node isn't part of its cluster; otherwise the number of an unknown command.
_UNKNOWN_COMMAND = 1047


@dataclass(frozen=True)
class Library:
    """The exceptions of a client library."""

    error: type[Exception]
    """The base of all of them."""

    interface: type[Exception]
    """Raised for a connection that is closed."""


def translated(exc: Exception, *, library: Library, table: str, schema_only: bool) -> ReflexError | None:
    """Return the error of ours to raise instead of ``exc``, if there is one.

    See :meth:`~reflex_aio.sql.drivers.base.Driver.errors`.
    """
    if isinstance(exc, library.error):
        number, text = _parts(exc)
        if number in _NO_TABLE and _is_about(text, table):
            return TableNotFound(table=table)
        if number in _SCHEMA:
            return SchemaError(table=table, differences=[f"{text} (validate() compares the whole table)"])
        if schema_only:
            return None
        if _is_lost(exc, library, number, text):
            return _lost(table, exc, text)
        told = f"{text} (error {number})" if number is not None else text
        return DatabaseError(f"{table}: {told}", lock_conflict=number in LOCK_CONFLICTS)
    if schema_only:
        return None
    if isinstance(exc, (OSError, EOFError)):
        return _lost(table, exc, str(exc))
    if isinstance(exc, RuntimeError):
        # What both pools raise once they are being closed, and uvloop's way to say that a socket is closed.
        if "closing pool" in str(exc):
            return DatabaseError(f"{table}: the pool is closed")
        if "closed=True" in str(exc):
            return _lost(table, exc, str(exc))
    return None


def _parts(exc: Exception) -> tuple[int | None, str]:
    number = exc.args[0] if exc.args and isinstance(exc.args[0], int) else None
    return number, str(exc.args[-1]) if exc.args else ""


def _is_about(text: str, table: str) -> bool:
    # Not about a table that a trigger is after, say. Some servers keep all names in lower case.
    schema, _, name = table.rpartition(".")
    return f".{name}'".casefold() in text.casefold() or (bool(schema) and f"'{schema}'" in text)


def _is_lost(exc: Exception, library: Library, number: int | None, text: str) -> bool:
    return (
        number in _LOST
        or isinstance(exc, library.interface)
        or (number == _UNKNOWN_COMMAND and "WSREP" in text)
    )


def _lost(table: str, exc: Exception, text: str) -> ConnectionLost:
    return ConnectionLost(f"{table}: the database can't be reached: {text or type(exc).__name__}")


_Run = Callable[[str], Awaitable[Sequence[Row]]]

# MySQL and MariaDB call it differently, and each skips what is for the other.
_LEVEL = "SELECT /*M! @@SESSION.tx_isolation */ /*!80003 @@SESSION.transaction_isolation */"
_SESSION = "SET SESSION TRANSACTION ISOLATION LEVEL READ {}"
_HAZARD = "READ-UNCOMMITTED"


async def read_committed(run: _Run) -> bool:
    """See to it that a session with autocommit reads what is committed alone; tell whether it was changed for that.

    The other levels do: without a transaction each statement has a snapshot of its own, and takes no locks to read.
    There must be none, nor a level set for the next one.
    """
    if (await run(_LEVEL))[0][0] != _HAZARD:
        return False
    await run(_SESSION.format("COMMITTED"))
    return True


async def read_uncommitted(run: _Run) -> None:
    """Undo what :func:`read_committed` has changed."""
    await run(_SESSION.format("UNCOMMITTED"))


# How long a statement waits for a row, or for the table under DDL, in seconds: the least that MySQL takes.
_LIMIT = """
SET @reflex_aio_rows = @@SESSION.innodb_lock_wait_timeout, @reflex_aio_table = @@SESSION.lock_wait_timeout,
    SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1
"""
_RESTORE = """
SET SESSION innodb_lock_wait_timeout = @reflex_aio_rows, SESSION lock_wait_timeout = @reflex_aio_table
"""


@asynccontextmanager
async def limited_locks(driver: Driver, connection: Any) -> AsyncIterator[None]:
    """Let statements wait for a lock for a second at most. After an error the connection has to be closed."""
    await driver.fetch(connection, _LIMIT)
    yield
    await driver.fetch(connection, _RESTORE)


logger = logging.getLogger(__name__)

# Seconds that the end of a transaction, or a connection's return to its pool, may take before it is cut.
_CLEANUP_TIMEOUT = 1.0
# Seconds.
_CONNECT_TIMEOUT = 10

_savepoints = itertools.count(1)

_Command = Callable[[], Awaitable[Any]]


class Done(NamedTuple):
    """What the server answers to a statement that has no rows: the one row that :meth:`MysqlDriver.fetch` returns."""

    changed: int
    """The number of rows that were inserted, deleted or changed."""
    last_id: int
    """The id that AUTO_INCREMENT gave to the row inserted, the first of several; 0 if it gave none."""
    warned: bool
    """Whether there are warnings, which SHOW WARNINGS lists."""


class _Transaction(AbstractAsyncContextManager[None]):
    """What is between two commands: a transaction, or a savepoint. A class takes fewer calls than a generator."""

    __slots__ = ("_begin", "_commit", "_connection", "_driver", "_rollback")

    def __init__(
        self, driver: "MysqlDriver", connection: Any, begin: _Command, commit: _Command, rollback: _Command
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
        # The client libraries close a connection of which a statement was cancelled.
        if self._driver.is_closed(self._connection):
            return
        try:
            async with asyncio.timeout(_CLEANUP_TIMEOUT):
                await self._rollback()
        except TimeoutError:
            self._connection.close()
        except Exception as exc:
            # Lost, or rolled back by the server as a whole, as after a deadlock. What led here is raised.
            logger.debug("rolling back failed: %s", exc)


class MysqlDriver(Driver):
    """Connections and pools of a client library in the manner of PyMySQL."""

    dialect: ClassVar[str] = "mysql"
    knows_transactions: ClassVar[bool] = False
    can_listen: ClassVar[bool] = False

    library: ClassVar[Library]
    """The client library's exceptions."""

    cursor: ClassVar[type[Any]]
    """A cursor whose rows are tuples. Told of warnings, it sets ``warned``, and doesn't ask for them."""

    create_pool: ClassVar[Callable[..., Awaitable[Any]]]
    """The client library's function of this name."""

    # What differs between the libraries.

    @abstractmethod
    def address(self, connection: Any) -> tuple[Hashable, Hashable, str | None]:
        """Return where the connection was opened to, as which user, and the database if one was named then."""

    # Statements.

    async def fetch(self, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
        """Run one statement, see :meth:`Driver.fetch`; of one that has no rows, return a :class:`Done` in their place.

        ``%s`` stands for an argument (None, a bool, int, float, str or bytes), and ``%%`` for a percent sign.

        :raises ValueError: if the connection's character set lacks a character of a name
        """
        try:
            return await self._execute(connection, sql % tuple(map(literal, args)))
        except UnicodeEncodeError as exc:
            lacking = exc.object[exc.start : exc.end]
            raise ValueError(
                f"the connection's character set {exc.encoding} has no {lacking!r}: connect with charset='utf8mb4'"
            ) from exc

    async def _execute(self, connection: Any, sql: str) -> Sequence[Row]:
        # Whatever cursors the connection makes by itself.
        async with connection.cursor(self.cursor) as cursor:
            await cursor.execute(sql)
            if cursor.description is None:
                return (Done(cursor.rowcount, cursor.lastrowid or 0, cursor.warned),)
            rows: Sequence[Row] = await cursor.fetchall()
            return rows

    def begin(self, connection: Any) -> AbstractAsyncContextManager[None]:
        # Without autocommit too. That a SELECT has begun a transaction isn't always noticed: BEGIN ends that.
        if connection.get_transaction_status():
            raise already_in_transaction(connection)
        return _Transaction(self, connection, connection.begin, connection.commit, connection.rollback)

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        if not _may_be_in_transaction(connection):
            return _Transaction(self, connection, connection.begin, connection.commit, connection.rollback)
        # BEGIN would commit it.
        name = f"reflex_aio_{next(_savepoints)}"
        begin, commit, rollback = (
            partial(self._execute, connection, f"{command} {name}")
            for command in ("SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO")
        )
        return _Transaction(self, connection, begin, commit, rollback)

    def errors(self, table: str, *, schema_only: bool = False) -> AbstractContextManager[None]:
        return Translation(partial(translated, library=self.library, table=table, schema_only=schema_only))

    # Pools.

    async def open_pool(self, dsn: str, *, size: int) -> Any:
        arguments = arguments_of(dsn)
        return await self.create_pool(minsize=1, maxsize=size, connect_timeout=_CONNECT_TIMEOUT, **arguments)

    async def close_pool(self, pool: Any) -> None:
        pool.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLEANUP_TIMEOUT):
                await pool.wait_closed()

    @asynccontextmanager
    async def acquire(self, pool: Any) -> AsyncIterator[Any]:
        connection = await pool.acquire()
        try:
            # The pool hands out connections with a snapshot open: the client libraries don't notice that a SELECT has
            # begun a transaction. And it ends an isolation level that somebody has set for the next transaction, and
            # not used, which isn't to be seen in the session's variables.
            await connection.rollback()
            autocommit = connection.get_autocommit()
            if not autocommit:
                # Each SELECT would go on in the snapshot of the first.
                await connection.autocommit(True)
            changed = await read_committed(partial(self._execute, connection))
            yield connection
        except BaseException:
            # A statement may be under way still.
            connection.close()
            await shielded(self._release(pool, connection))
            raise
        await shielded(self._give_back(pool, connection, autocommit, changed))

    async def _give_back(self, pool: Any, connection: Any, autocommit: bool, uncommitted: bool) -> None:
        try:
            async with asyncio.timeout(_CLEANUP_TIMEOUT):
                if uncommitted:
                    await read_uncommitted(partial(self._execute, connection))
                await connection.autocommit(autocommit)
        except (TimeoutError, OSError, EOFError, self.library.error):
            connection.close()
        await self._release(pool, connection)

    async def _release(self, pool: Any, connection: Any) -> None:
        releasing = [asyncio.ensure_future(pool.release(connection))]
        if self.is_closed(connection):
            # Nobody tells those who wait for a connection that they may open one now. Neither library has a public name
            # for it, and to clear the pool would drop the free ones without closing those that are lost.
            releasing.append(asyncio.ensure_future(pool._wakeup()))
        # Not cancelled when it takes longer: those who wait would never hear of it.
        await asyncio.wait(releasing, timeout=_CLEANUP_TIMEOUT)

    def can_spare(self, pool: Any) -> bool:
        # Neither library has a public name for a pool that is being closed, and waits for its connections.
        if pool._closing:
            return False
        return bool(pool.freesize > 0 or not pool.maxsize or pool.size < pool.maxsize)

    # Wake-ups.

    def after_transaction(self, connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
        if _may_be_in_transaction(connection):
            return False
        call()
        return True

    def fixed(self, connection: Any) -> Any:
        return connection

    async def server(self, connection: Any) -> Hashable:
        where, user, database = self.address(connection)
        if database is None:
            database = (await self.fetch(connection, "SELECT DATABASE()"))[0][0]
        return where, user, database

    async def connector(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        self._cannot_listen()

    async def listen_connection(self, connection: Any) -> ListenConnection:
        connection.close()
        self._cannot_listen()

    def _cannot_listen(self) -> NoReturn:
        raise TypeError(
            f"{self.name} talks to MySQL or MariaDB, which carry no notifications between processes:"
            " streams poll, or are woken by a notifier= of your own"
        )


def _may_be_in_transaction(connection: Any) -> bool:
    # What the server said last. Without autocommit there is always a transaction, or one begins with the next
    # statement; that a SELECT has begun it is not noticed.
    return bool(not connection.get_autocommit() or connection.get_transaction_status())
