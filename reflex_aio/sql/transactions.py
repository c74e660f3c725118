"""Transactions after which streams are woken, on every client library."""

from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any

from reflex_aio.sql.drivers import driver_of_connection

__all__ = ["call_after_ours", "transaction"]

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
    outer = _open.get(id(connection))
    calls: _Calls = {}
    async with driver.begin(connection) if outer is None else driver.transaction(connection):
        _open[id(connection)] = calls
        try:
            yield
        finally:
            if outer is None:
                del _open[id(connection)]
            else:
                _open[id(connection)] = outer
    if outer is not None:
        outer.update(calls)
        return
    for call in calls.values():
        call()


def call_after_ours(connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
    """Call ``call`` once the transaction of ours that is open on ``connection`` is committed; tell if there is one.

    Several calls under the same ``key`` count as one.
    """
    calls = _open.get(id(connection))
    if calls is None:
        return False
    calls[key] = call
    return True
