"""Transactions after which streams are woken, on every client library."""

from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from reflex_aio.sql.drivers import driver_of_connection

__all__ = ["call_after_ours", "transaction", "within"]

_Calls = dict[Hashable, Callable[[], None]]

# What to call after the innermost transaction of ours on each connection, by the identity of the connection, which the
# transaction holds.
_open: dict[int, _Calls] = {}


@asynccontextmanager
async def transaction(connection: Any) -> AsyncIterator[None]:
    """Begin a transaction on ``connection``; commit it at the end, or roll it back after an error or a cancellation.

    After the commit, the streams of the tables that events were inserted into are woken. asyncpg's own
    ``connection.transaction()`` does no less; aiomysql and asyncmy can't tell when a transaction has ended. Within
    another ``transaction`` it is a savepoint, and they are woken after the outer one. On a connection without
    autocommit, commit or roll back before what you have begun by reading.

    :raises TypeError: if ``connection`` isn't one
    :raises ValueError: if a transaction is open on it that was begun otherwise
    """
    driver = driver_of_connection(connection)
    ours = id(connection) in _open
    async with _collecting(
        connection, driver.transaction(connection) if ours else driver.begin(connection)
    ) as calls:
        yield
    if not ours:
        for call in calls.values():
            call()


@asynccontextmanager
async def within(connection: Any) -> AsyncIterator[None]:
    """Be in the caller's transaction, by a savepoint, or in one of our own if there is none.

    After one of our own, and after the caller's as far as anything can tell, streams are woken.
    """
    driver = driver_of_connection(connection)
    async with _collecting(connection, driver.transaction(connection)) as calls:
        yield
    if id(connection) not in _open:
        for key, call in calls.items():
            driver.after_transaction(connection, key, call)


@asynccontextmanager
async def _collecting(connection: Any, context: AbstractAsyncContextManager[None]) -> AsyncIterator[_Calls]:
    """Be in ``context``, a transaction; yields what is to be called after it. One of ours around it takes that over."""
    outer = _open.get(id(connection))
    calls: _Calls = {}
    async with context:
        _open[id(connection)] = calls
        try:
            yield calls
        finally:
            if outer is None:
                del _open[id(connection)]
            else:
                _open[id(connection)] = outer
    if outer is not None:
        outer.update(calls)


def call_after_ours(connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
    """Call ``call`` once the transaction of ours that is open on ``connection`` is committed; tell if there is one.

    Several calls under the same ``key`` count as one.
    """
    calls = _open.get(id(connection))
    if calls is None:
        return False
    calls[key] = call
    return True
