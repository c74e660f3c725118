"""What a driver has to do: run statements, lend connections, and tell when a transaction has ended.

A driver never holds SQL of its own for events or cursors: that is the dialect's.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, ClassVar

from reflex_aio.errors import ReflexError

__all__ = ["CannotNotify", "Driver", "ListenConnection", "Row", "Translation", "already_in_transaction"]

Row = Sequence[Any]


class CannotNotify(Exception):
    """Raised by a :class:`ListenConnection` to a server that has no notifications, such as a standby."""


class ListenConnection(ABC):
    """A connection of the library's own, over which processes wake each other.

    What the client library raises passes through as it is, but for :class:`CannotNotify`. One call at a time.
    """

    connection: Any
    """The connection that was taken over."""

    direct: bool
    """Whether it ends in the server itself. Through a pooler, LISTEN may succeed and nothing be heard."""

    @abstractmethod
    async def listen(self, channel: str, heard: Callable[[str, bool], None]) -> None:
        """Call ``heard`` with each notification on ``channel`` from now on, until the link is closed.

        It is given the payload, and whether this link sent it.
        """

    @abstractmethod
    async def notify(self, channel: str, payloads: Sequence[str], *, timeout: float) -> None:
        """Send the payloads, in one statement, to everyone who listens on ``channel``, this link included.

        :raises TimeoutError: if the server doesn't answer within ``timeout`` seconds. The link is to be closed then.
        """

    @abstractmethod
    def on_lost(self, lost: Callable[[], None]) -> None:
        """Call ``lost`` once, from the event loop, when the link has ended and wasn't closed."""

    @abstractmethod
    async def close(self) -> None:
        """End the link, lost already or not, within about a second. Raises nothing but cancellation."""


class Driver(ABC):
    """How statements are executed on the connections and pools of one client library. Has no state."""

    name: ClassVar[str]
    """The client library, as people call it."""

    dialect: ClassVar[str]
    """The database's dialect: ``"postgres"`` or ``"mysql"``."""

    knows_transactions: ClassVar[bool]
    """Whether the client library knows if a transaction is open: see :meth:`in_transaction`."""

    can_listen: ClassVar[bool]
    """Whether the database carries notifications between processes. If not, there are no links, and no connector."""

    # What this driver's objects are.

    @abstractmethod
    def is_connection(self, candidate: object) -> bool:
        """Tell whether ``candidate`` is a connection of this driver, or stands for one."""

    @abstractmethod
    def is_pool(self, candidate: object) -> bool:
        """Tell whether ``candidate`` is a pool of this driver."""

    @abstractmethod
    def is_closed(self, connection: Any) -> bool:
        """Tell whether ``connection`` can't be used any more: it was closed, or a statement has found it lost."""

    # Statements.

    @abstractmethod
    def fetch(self, connection: Any, sql: str, *args: Any) -> Awaitable[Sequence[Row]]:
        """Run one statement on the caller's connection, in its transaction if it has one; return its rows.

        How arguments are written is the dialect's affair, and what is returned for a statement that has no rows.

        What the client library raises passes through as it is: the caller's code for serialization failures,
        deadlocks and constraints looks for it.
        """

    @abstractmethod
    def transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        """Return a context that is a transaction on ``connection``, or a savepoint in the one that is open on it."""

    @abstractmethod
    def begin(self, connection: Any) -> AbstractAsyncContextManager[None]:
        """Return a context that is a transaction of its own on ``connection``.

        :raises ValueError: at once or on entry, if a transaction is open on it, as far as the client library can tell
        """

    @abstractmethod
    def errors(self, table: str, *, schema_only: bool = False) -> AbstractContextManager[None]:
        """Return a context that turns the client library's exceptions into ours, for statements on ``table``.

        It may be entered again and again, by several tasks at a time.

        :param schema_only: leave all but the first two as they are, for statements on a caller's connection
        :raises TableNotFound: for a table that doesn't exist
        :raises SchemaError: for a column that doesn't exist, or is of another type
        :raises ConnectionLost: if the server can't be reached or ended the connection
        :raises DatabaseError: for every other failure that the database reports
        """

    # Pools.

    @abstractmethod
    async def open_pool(self, dsn: str, *, size: int) -> Any:
        """Return a new pool of up to ``size`` connections, one of which it has made already.

        What the client library raises passes through, but for what it says of the DSN.

        :param dsn: a URL, whose scheme is that of the database alone
        :raises ValueError: if it can't be read; without the password
        """

    @abstractmethod
    async def close_pool(self, pool: Any) -> None:
        """Close a pool, within about a second, with the connections that are lent still."""

    @abstractmethod
    def acquire(self, pool: Any) -> AbstractAsyncContextManager[Any]:
        """Lend a connection of ``pool``, with no transaction open.

        It is given back in every case, shielded from cancellation; after an error or a cancellation it is
        closed rather than given back, unless it is certain that no statement is under way on it.
        """

    @abstractmethod
    def can_spare(self, pool: Any) -> bool:
        """Tell whether a connection of ``pool`` may be kept a little longer, as nobody waits for one."""

    # Wake-ups.

    @abstractmethod
    def after_transaction(self, connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
        """Call ``call`` once, soon after the transaction that ``connection`` is in has ended.

        If it is in none, ``call`` is called at once. Several calls under the same ``key`` in one transaction
        count as one. After a rollback too, where the client library can't tell; the connection may
        by then be back in its pool.

        :return: whether the client library can tell at all; if not, nothing will be called
        """

    def in_transaction(self, connection: Any) -> bool:
        """Tell whether ``connection``, one that :meth:`fixed` has returned, is in a transaction.

        :raises NotImplementedError: if the client library doesn't know it
        """
        raise NotImplementedError

    @abstractmethod
    def fixed(self, connection: Any) -> Any:
        """Return what stays the same for as long as ``connection``, or what it stands for, is connected.

        Its server and user stay the same meanwhile. May be referred to weakly.
        """

    @abstractmethod
    async def server(self, connection: Any) -> Hashable:
        """Return what names the server, database and user that ``connection`` is connected to and as.

        May run an empty statement on it, once in the connection's life; in an aborted transaction too.
        """

    @abstractmethod
    async def connector(self, connection: Any) -> Callable[[], Awaitable[Any]]:
        """Return an async function that opens a new connection like ``connection``.

        It goes to the same server and database, as the same user, and may be called after ``connection`` was
        closed. May run an empty statement on it, as :meth:`server`.

        :raises TypeError: if the driver can't link
        """

    @abstractmethod
    async def listen_connection(self, connection: Any) -> ListenConnection:
        """Take over ``connection``, which must belong to no pool; it is closed in case of an error.

        :raises TypeError: if it isn't a connection of its own, or the driver can't link
        """


def already_in_transaction(connection: Any) -> ValueError:
    """Return what :meth:`Driver.begin` raises."""
    return ValueError(
        f"{connection!r} is in a transaction that is not ours: commit it, or roll it back, before"
    )


class Translation:
    """The context that :meth:`Driver.errors` returns. A class, as a generator can be entered only once.

    :param translate: returns the error to raise in place of another, or ``None`` to let that pass
    """

    __slots__ = ("_translate",)

    def __init__(self, translate: Callable[[Exception], ReflexError | None]) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, Exception) and (ours := self._translate(exc)):
            raise ours from exc
