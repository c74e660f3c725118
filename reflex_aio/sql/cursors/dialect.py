"""What a dialect has to do to read and move cursors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import CursorsSchema

__all__ = ["CursorsDialect"]


class CursorsDialect(ABC):
    """The cursors of one table, in one dialect. Has no state beside the statements' texts.

    Cursors are the text of their values. None moves backwards, as told by
    :func:`~reflex_aio.cursor.is_behind`, but by ``put``.
    """

    @abstractmethod
    def __init__(self, schema: CursorsSchema) -> None: ...

    @abstractmethod
    async def get(self, driver: Driver, connection: Any, name: str) -> str:
        """Return the cursor of a consumer, or ``""`` if it has none."""

    async def newest(self, driver: Driver, connection: Any, name: str) -> str:
        """Return what :meth:`get` does, but as of now, where the caller's transaction reads as of its beginning."""
        return await self.get(driver, connection, name)

    @abstractmethod
    async def all(self, driver: Driver, connection: Any) -> dict[str, str]:
        """Return the cursors by consumer."""

    @abstractmethod
    async def states(self, driver: Driver, connection: Any) -> Sequence[tuple[str, str, float | None]]:
        """Return consumers, their cursors and when these were set, in seconds since 1970, in the order of names."""

    @abstractmethod
    async def move(
        self, driver: Driver, connection: Any, cursors: Mapping[str, str], *, lock_timeout: float | None
    ) -> set[str]:
        """Move the cursors that don't go backwards, in one statement, and return their consumers' names.

        :param lock_timeout: how long to wait for another transaction that holds one, in seconds
        """

    @abstractmethod
    async def move_from(self, driver: Driver, connection: Any, name: str, cursor: str, expected: str) -> bool:
        """Move a cursor forward if it is at ``expected``, ``""`` being nowhere; tell whether it was moved."""

    @abstractmethod
    async def put(self, driver: Driver, connection: Any, name: str, cursor: str) -> None:
        """Set a cursor wherever it is; ``""`` removes it."""

    @abstractmethod
    def transaction(
        self, driver: Driver, connection: Any, *, idle_timeout: float
    ) -> AbstractAsyncContextManager[None]:
        """Return a context that is a transaction on ``connection``, on which none is open.

        Once the client has sent nothing for ``idle_timeout`` seconds, or for as long as the session allows if that is
        less, the server rolls back the transaction and closes the connection. After an error within the context, the
        connection may keep this timeout.
        """
