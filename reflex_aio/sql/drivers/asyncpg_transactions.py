"""asyncpg: when the transaction that a connection is in has ended."""

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary, ref

__all__ = ["after_transaction"]


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
