"""What a dialect has to do so that a transaction doesn't outlast its client."""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from functools import cache
from importlib import import_module
from typing import Any

from reflex_aio.sql.drivers.base import Driver

__all__ = ["TransactionDialect", "transaction_dialect"]

_DIALECTS = {"mysql": "MysqlTransactions", "postgres": "PostgresTransactions"}


class TransactionDialect(ABC):
    """Transactions that the server ends by itself. Has no state."""

    @abstractmethod
    def transaction(
        self, driver: Driver, connection: Any, *, idle_timeout: float
    ) -> AbstractAsyncContextManager[None]:
        """Return a context that is a transaction on ``connection``, on which none is open.

        Once the client has sent nothing for so many seconds, or for as long as the session allows if that is less, the
        server undoes it and closes the connection. After an error within, the connection may keep this timeout.
        """


@cache
def transaction_dialect(name: str) -> TransactionDialect:
    """Return the transactions of the dialect ``name``, which is a driver's ``dialect``.

    :raises ValueError: if there is no such dialect
    """
    if name not in _DIALECTS:
        raise ValueError(f"dialect {name!r} is not known: accepted is {' or '.join(map(repr, _DIALECTS))}")
    module = import_module(f"reflex_aio.sql.cursors.{name}_transactions")
    dialect: TransactionDialect = getattr(module, _DIALECTS[name])()
    return dialect
