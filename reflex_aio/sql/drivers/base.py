"""The interface of a driver: statements, connections, transactions and notifications of one client library.

A driver contains no SQL for events, cursors or other tables. That is in the dialect.
"""

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, ClassVar

from reflex_aio.errors import ConnectionLost, ReflexError
from reflex_aio.tasks import shielded

__all__ = [
    "CannotNotify",
    "Driver",
    "ListenConnection",
    "Row",
    "already_in_transaction",
    "describe_timeout",
    "keep_alive",
]

Row = Sequence[Any]


class CannotNotify(Exception):
    """Raised by a :class:`ListenConnection` to a server without notifications, such as a standby."""


class ListenConnection(ABC):
    """A connection of its own, outside any pool, over which processes notify each other.

    Except for :class:`CannotNotify`, exceptions of the client library are raised unchanged. One call runs at a time.
    """

    connection: Any
    """The client library's connection, which this object owns."""

    direct: bool
    """True if it ends in the server itself. Through a pooler, LISTEN may succeed without any notification arriving."""

    @abstractmethod
    async def listen(self, channel: str, received: Callable[[str, bool], None]) -> None:
        """Call ``received`` with each notification on ``channel``, until the connection is closed.

        Its arguments are the payload, and whether this connection has sent it.
        """

    @abstractmethod
    async def notify(self, channel: str, payloads: Sequence[str], *, timeout: float) -> None:
        """Send the payloads, in one statement, to every listener on ``channel``, including this connection.

        :param timeout: in seconds
        :raises TimeoutError: if the server does not answer in time; the connection must then be closed
        """

    @abstractmethod
    def on_lost(self, lost: Callable[[], None]) -> None:
        """Call ``lost`` once, in the event loop, when the connection ends without having been closed."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection, lost or not, within about a second. Raises nothing but cancellation."""


class Driver(ABC):
    """The operations on the connections and pools of one client library. It has no state."""

    name: ClassVar[str]
    """The name of the client library."""

    dialect: ClassVar[str]
    """The database's dialect: ``"postgres"`` or ``"mysql"``."""

    tracks_transactions: ClassVar[bool]
    """True if the client library knows whether a transaction is open: see :meth:`in_transaction`."""

    can_listen: ClassVar[bool]
    """True if the database has notifications between processes. If not, :meth:`connector` and
    :meth:`listen_connection` raise TypeError."""

    statement_timeout: ClassVar[float] = 30.0
    """The time limit of one use of a pool's connection, in seconds: acquiring it, and the statements on it."""

    # The objects of this driver.

    @abstractmethod
    def is_connection(self, candidate: object) -> bool:
        """Return whether ``candidate`` is a connection of this driver, or a pool's proxy for one."""

    @abstractmethod
    def is_pool(self, candidate: object) -> bool:
        """Return whether ``candidate`` is a pool of this driver."""

    @abstractmethod
    def is_closed(self, connection: Any) -> bool:
        """Return whether ``connection`` is unusable: it was closed, or a statement found that it is lost."""

    @abstractmethod
    def underlying(self, connection: Any) -> Any:
        """Return the underlying connection, unwrapping a pool's proxy.

        It stays the same object, with the same server and user, for as long as it is connected, and can be referenced
        weakly.
        """

    # Statements.

    @abstractmethod
    def fetch(self, connection: Any, sql: str, *args: Any) -> Awaitable[Sequence[Row]]:
        """Run one statement on ``connection``, in its transaction if one is open, and return the rows.

        The dialect determines the placeholders of arguments, and the result of a statement without rows.

        Exceptions of the client library are raised unchanged, as callers handle serialization failures, deadlocks and
        constraint violations by their class.
        """

    @abstractmethod
    def transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        """Return a context that is a transaction on ``connection``, or a savepoint if one is open."""

    @abstractmethod
    def begin(self, connection: Any) -> AbstractAsyncContextManager[None]:
        """Return a context that is a transaction on ``connection``, on which none is open.

        :raises ValueError: immediately or on entry, if one is open, as far as the client library can detect it
        """

    # Errors.

    @abstractmethod
    def translate(self, exc: Exception, table: str, *, schema_only: bool = False) -> ReflexError | None:
        """Return the error to raise instead of the client library's exception ``exc``; ``None`` to raise ``exc``.

        - :class:`~reflex_aio.errors.TableNotFound` for a table that does not exist
        - :class:`~reflex_aio.errors.SchemaError` for a column that does not exist, or has another type
        - :class:`~reflex_aio.errors.ConnectionLost` if the server cannot be reached or closed the connection
        - :class:`~reflex_aio.errors.DatabaseError` for every other error of the database

        :param table: the table's name, for messages
        :param schema_only: translate to the first two only, for statements on a caller's connection
        """

    def errors(self, table: str, *, schema_only: bool = False) -> AbstractContextManager[None]:
        """Return a context that applies :meth:`translate` to the exceptions within it.

        It can be entered many times, also by several tasks at the same time.
        """
        return _ErrorTranslation(self, table, schema_only)

    # Pools.

    @abstractmethod
    async def open_pool(self, dsn: str, *, size: int) -> Any:
        """Return a new pool of at most ``size`` connections, one of which is connected already.

        Exceptions of the client library are raised unchanged, except for those about the DSN.

        :param dsn: a URL whose scheme is the plain name of the database
        :raises ValueError: if the DSN cannot be read; the message does not contain the password
        """

    @abstractmethod
    async def close_pool(self, pool: Any) -> None:
        """Close a pool within about a second, including the connections that are in use."""

    @abstractmethod
    def checkout(self, pool: Any) -> Awaitable[Any]:
        """Acquire a connection of ``pool``, with no transaction open. The caller must :meth:`release` it."""

    @abstractmethod
    async def release(
        self, pool: Any, connection: Any, *, broken: bool = False, timed_out: bool = False
    ) -> None:
        """Return a connection to its pool, within seconds. The call must be shielded from cancellation.

        :param broken: the statements on it have failed or were cancelled, so that the session's state is unknown, and a
            statement may still be running. The connection is closed, unless the client library can restore it
        :param timed_out: a statement has exceeded its time limit. It is cancelled in the server, where it may wait for
            a lock
        """

    @asynccontextmanager
    async def acquire(self, pool: Any, *, limit: asyncio.Timeout | None = None) -> AsyncIterator[Any]:
        """Acquire a connection of ``pool``, with no transaction open, for the duration of the context.

        The context has a time limit, so that no statement waits for ever: not for a server that does not answer, nor
        for another session's lock, nor for a pool without free connections. After an error or a cancellation the
        connection is not reused as it is. Its release is shielded from cancellation.

        :param limit: instead of a limit of ``statement_timeout``, for contexts that also run other code: the
            caller reschedules it
        :raises TimeoutError: if the limit is exceeded. :meth:`errors` translates it
        """
        limit = asyncio.timeout(self.statement_timeout) if limit is None else limit
        acquired = False
        try:
            async with limit:
                connection = await self.checkout(pool)
                acquired = True
                try:
                    yield connection
                except BaseException:
                    await shielded(self.release(pool, connection, broken=True, timed_out=limit.expired()))
                    raise
                # From here on, the release has a limit of its own.
                limit.reschedule(None)
                await shielded(self.release(pool, connection))
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise _LimitExceeded(describe_timeout(acquired, self.statement_timeout)) from exc

    @abstractmethod
    def has_spare(self, pool: Any) -> bool:
        """Return whether a connection of ``pool`` may be kept a little longer, as no caller waits for one."""

    # Wake-ups.

    @abstractmethod
    def after_transaction(self, connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
        """Call ``call`` once, soon after the current transaction of ``connection`` has ended.

        Without an open transaction, ``call`` is called immediately. Several calls with the same ``key`` in one
        transaction count as one. ``call`` is called after a rollback too if the client library cannot detect one. The
        connection may by then be back in its pool.

        :return: whether the client library can detect the end of a transaction; if not, nothing is called
        """

    def in_transaction(self, connection: Any) -> bool:
        """Return whether a transaction is open on ``connection``, a result of :meth:`underlying`.

        :raises NotImplementedError: unless :attr:`tracks_transactions`
        """
        raise NotImplementedError

    @abstractmethod
    async def server(self, connection: Any) -> Hashable:
        """Return a key of the server, database and user that ``connection`` is connected to and as.

        May run an empty statement on it, once in the connection's life, also in an aborted transaction.
        """

    @abstractmethod
    async def connector(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        """Return an async function that opens a new connection to the same server and database, as the same user.

        It may be called after ``connection`` was closed. May run an empty statement, like :meth:`server`.

        :raises TypeError: unless :attr:`can_listen`
        """

    @abstractmethod
    async def listen_connection(self, connection: Any) -> ListenConnection:
        """Take ownership of ``connection``, which must not belong to a pool. It is closed if this raises.

        :raises TypeError: if it belongs to a pool, or unless :attr:`can_listen`
        """


class _ErrorTranslation:
    # A class, as a generator could be entered only once.

    __slots__ = ("_driver", "_schema_only", "_table")

    def __init__(self, driver: Driver, table: str, schema_only: bool) -> None:
        self._driver, self._table, self._schema_only = driver, table, schema_only

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, _LimitExceeded) and not self._schema_only:
            raise ConnectionLost(f"{self._table}: {exc}") from exc
        if isinstance(exc, Exception) and (
            error := self._driver.translate(exc, self._table, schema_only=self._schema_only)
        ):
            raise error from exc


class _LimitExceeded(TimeoutError):
    """Raised when a use of a connection has exceeded its time limit."""


def describe_timeout(acquired: bool, seconds: float) -> str:
    """Return the message for a use of a connection that has exceeded its time limit.

    :param acquired: whether it had a connection
    """
    # While a pool acquires, it is unknown whether it waits for the server or for a user of its last connection.
    problem = "the database did not answer" if acquired else "the pool had no connection available"
    return f"{problem} within {seconds:g} s"


def keep_alive(connected: socket.socket | None) -> None:
    """Have the kernel close a TCP connection whose other end has not answered for half a minute.

    Without these options, a connection to a host that is gone stays open for up to two hours, and data that is sent on
    it is repeated for a quarter of an hour.
    """
    if connected is None or connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Of these options, platforms have some.
    for option, value in (
        ("TCP_KEEPIDLE", 15),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 30_000),
    ):
        if (number := getattr(socket, option, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, number, value)


def already_in_transaction(connection: Any) -> ValueError:
    """Return the error that :meth:`Driver.begin` raises."""
    return ValueError(
        f"{connection!r} is in a transaction that was begun elsewhere: commit it or roll it back first"
    )
