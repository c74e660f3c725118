"""Transactions after which streams are woken, on every client library."""

from collections.abc import Callable, Hashable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from reflex_aio.sql.drivers import driver_of_connection

__all__ = ["call_after_ours", "transaction", "within"]

_Calls = dict[Hashable, Callable[[], None]]

# What to call after the innermost transaction of ours on each connection, by the identity of the connection, which the
# transaction holds.
_open: dict[int, _Calls] = {}


def transaction(connection: Any) -> AbstractAsyncContextManager[None]:
    """Begin a transaction on ``connection``; commit it at the end, or roll it back after an error or a cancellation.

    After the commit, the streams of the tables that events were inserted into are woken. asyncpg's own
    ``connection.transaction()`` does no less; aiomysql and asyncmy can't tell when a transaction has ended. Within
    another ``transaction`` it is a savepoint, and they are woken after the outer one. On a connection without
    autocommit, commit or roll back before what you have begun by reading.

    On entry:

    :raises TypeError: if ``connection`` isn't one
    :raises ValueError: if a transaction is open on it that was begun otherwise
    """
    return _Transaction(connection, begins=True)


def within(connection: Any) -> AbstractAsyncContextManager[None]:
    """Be in the caller's transaction, by a savepoint, or in one of our own if there is none.

    After one of our own, and after the caller's as far as anything can tell, streams are woken.
    """
    return _Transaction(connection, begins=False)


class _Transaction(AbstractAsyncContextManager[None]):
    """Collects what is to be called after a transaction. One of ours around it takes that over.

    A class, as it is around each insert on MySQL: by generators, one in another, its own part of a transaction would be
    as many calls as all that asyncmy does for an INSERT.

    :param begins: whether it must be a transaction of its own, unless one of ours is open
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


def call_after_ours(connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
    """Call ``call`` once the transaction of ours that is open on ``connection`` is committed; tell if there is one.

    Several calls under the same ``key`` count as one.
    """
    calls = _open.get(id(connection))
    if calls is None:
        return False
    calls[key] = call
    return True
