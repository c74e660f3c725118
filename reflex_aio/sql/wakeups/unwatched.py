"""What busy writers have inserted, in transactions that nobody watches.

To hear of a commit, a client library has to be asked to tell of each statement, which takes several percent of a small
transaction. While notifications are sent at intervals anyway, it is enough to look, when the next one is due, who is in
no transaction any more. Who is in one may have committed another before it, so that is told as well, once too often.
"""

from collections.abc import Callable
from typing import Any

from reflex_aio.sql.drivers.base import Driver

__all__ = ["Unwatched"]

# A connection that has been in a transaction so many times in a row is watched: it may stay in it for long.
_LOOKS = 5


class _Insert:
    __slots__ = ("call", "connection", "driver", "looks")

    def __init__(self, driver: Driver, connection: Any, call: Callable[[], None]) -> None:
        self.driver, self.connection, self.call = driver, connection, call
        self.looks = 0


class Unwatched:
    """What was inserted on which connections, by the payload that tells of it."""

    def __init__(self) -> None:
        # The connections are held, so their identities are theirs alone.
        self._inserts: dict[tuple[str, int], _Insert] = {}

    def __len__(self) -> int:
        return len(self._inserts)

    def add(self, payload: str, driver: Driver, connection: Any, call: Callable[[], None]) -> bool:
        """Remember an insert; tell if it is the only one.

        :param connection: what ``driver.fixed`` returns
        :param call: called after the transaction, should it last
        """
        key = payload, id(connection)
        insert = self._inserts.get(key)
        if insert is not None:
            insert.looks = 0
            return False
        self._inserts[key] = _Insert(driver, connection, call)
        return len(self._inserts) == 1

    def take(self) -> set[str]:
        """Return what may be told now; remember what may have to be told again."""
        payloads = set()
        for key, insert in tuple(self._inserts.items()):
            payloads.add(key[0])
            insert.looks += 1
            if not insert.driver.in_transaction(insert.connection):
                del self._inserts[key]
            elif insert.looks == _LOOKS:
                self._watch(key)
        return payloads

    def watch(self) -> None:
        """Have all that is left watched, as nobody will look."""
        for key in tuple(self._inserts):
            self._watch(key)

    def _watch(self, key: tuple[str, int]) -> None:
        insert = self._inserts.pop(key)
        if insert.driver.in_transaction(insert.connection):
            insert.driver.after_transaction(insert.connection, key, insert.call)
