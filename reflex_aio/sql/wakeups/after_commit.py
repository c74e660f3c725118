"""Transactions that wake streams after their commit, with every client library."""

from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from reflex_aio.sql.drivers import driver_of_connection

__all__ = ["call_after_commit", "nested_transaction", "transaction"]

_Calls = dict[Hashable, Callable[[], None]]

# The functions to call after the innermost of our transactions on each connection, by the identity of the connection,
# which the transaction keeps alive.
_open: dict[int, _Calls] = {}


def transaction(connection: Any) -> AbstractAsyncContextManager[None]:
    """Begin a transaction on ``connection``; commit it at the end, or roll it back after an error or a cancellation.

    After the commit, the streams of the tables that received events are woken. With asyncpg,
    ``connection.transaction()`` does the same; aiomysql and asyncmy cannot detect the end of a transaction. Within
    another ``transaction`` this is a savepoint, and streams are woken after the outer one. On a connection without
    autocommit, first commit or roll back a transaction that a SELECT has begun.

    On entry:

    :raises TypeError: if ``connection`` is not a connection
    :raises ValueError: if a transaction is open on it that was begun elsewhere
    """
    return _Transaction(connection, begins=True)


def nested_transaction(connection: Any) -> AbstractAsyncContextManager[None]:
    """Begin a savepoint in the transaction that is open on ``connection``, or a transaction if none is open.

    Streams are woken after a transaction, and after the end of the caller's, if it can be detected.
    """
    return _Transaction(connection, begins=False)


class _Transaction(AbstractAsyncContextManager[None]):
    """A transaction, with the functions to call after its commit. One of ours around it takes these over.

    It is a class, as it is around each insert on MySQL: nested generators would take as many calls as all that asyncmy
    does for an INSERT.

    :param begins: whether it must be a transaction, not a savepoint, unless one of ours is open
    """

    __slots__ = ("_begins", "_calls", "_connection", "_context", "_driver", "_outer")

    def __init__(self, connection: Any, *, begins: bool) -> None:
        self._connection, self._begins = connection, begins
        self._calls: _Calls = {}

    async def __aenter__(self) -> None:
        connection = self._connection
        self._driver = driver = driver_of_connection(connection)
        self._outer = outer = _open.get(id(connection))
        begin = driver.begin if self._begins and outer is None else driver.transaction
        self._context = begin(connection)
        await self._context.__aenter__()
        _open[id(connection)] = self._calls

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, outer = self._connection, self._outer
        if outer is None:
            del _open[id(connection)]
        else:
            _open[id(connection)] = outer
        await self._context.__aexit__(kind, exc, traceback)
        if kind is not None:
            return
        if outer is not None:
            outer.update(self._calls)
            return
        for key, call in self._calls.items():
            if self._begins:
                call()
            else:
                self._driver.after_transaction(connection, key, call)


def call_after_commit(connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
    """Call ``call`` once, after the commit of our transaction on ``connection``; return whether there is one.

    Several calls with the same ``key`` count as one.
    """
    calls = _open.get(id(connection))
    if calls is None:
        return False
    calls[key] = call
    return True
