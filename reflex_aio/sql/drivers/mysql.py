"""MySQL and MariaDB: what is the same with each of their client libraries."""

import asyncio
import itertools
import logging
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, NoReturn

from reflex_aio.sql.drivers.base import Driver, Link, Row, already_in_transaction
from reflex_aio.sql.drivers.mysql_dsn import arguments_of
from reflex_aio.sql.drivers.mysql_errors import Library, translated
from reflex_aio.sql.drivers.mysql_isolation import read_committed, read_uncommitted
from reflex_aio.sql.drivers.mysql_literals import literal
from reflex_aio.sql.drivers.translation import Translation
from reflex_aio.tasks import shielded

__all__ = ["Done", "MysqlDriver"]

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
    can_link: ClassVar[bool] = False

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
        self._cannot_link()

    async def link(self, connection: Any) -> Link:
        connection.close()
        self._cannot_link()

    def _cannot_link(self) -> NoReturn:
        raise TypeError(
            f"{self.name} talks to MySQL or MariaDB, which carry no notifications between processes:"
            " streams poll, or are woken by a notifier= of your own"
        )


def _may_be_in_transaction(connection: Any) -> bool:
    # What the server said last. Without autocommit there is always a transaction, or one begins with the next
    # statement; that a SELECT has begun it is not noticed.
    return bool(not connection.get_autocommit() or connection.get_transaction_status())
