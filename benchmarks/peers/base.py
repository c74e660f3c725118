"""The interface to each library: publish small messages in PostgreSQL, and deliver them to one consumer."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

__all__ = ["Handle", "Peer", "Publish"]

Publish = Callable[[int], Awaitable[None]]
"""Publishes a message about the row of this id, in a transaction of its own."""

Handle = Callable[[], None]
"""Called for each delivered message, from any thread."""


class Peer(ABC):
    """One way to use a library.

    :param dsn: the DSN of a database that only this library uses
    """

    name: ClassVar[str]

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    @abstractmethod
    async def install(self) -> None:
        """Create the tables of the library."""

    @abstractmethod
    def publisher(self) -> AbstractAsyncContextManager[Publish]:
        """Return a function that publishes over one connection."""

    @abstractmethod
    def consumer(self, handle: Handle) -> AbstractAsyncContextManager[None]:
        """Return a context in which published messages are consumed, those published before included."""
