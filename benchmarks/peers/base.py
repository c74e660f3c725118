"""What is asked of each library: publish small messages on a PostgreSQL, and hand them to one consumer."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import ClassVar

__all__ = ["Handle", "Peer", "Publish"]

Publish = Callable[[int], Awaitable[None]]
"""Publishes a message about the row of this id, in a transaction of its own."""

Handle = Callable[[], None]
"""Is called for each message that has come; from any thread."""


class Peer(ABC):
    """One library, in one way to use it.

    :param dsn: the server, and a database that is the library's own
    """

    name: ClassVar[str]

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    @abstractmethod
    async def install(self) -> None:
        """Make the library's tables."""

    @abstractmethod
    def publisher(self) -> AbstractAsyncContextManager[Publish]:
        """Return what publishes over one connection."""

    @abstractmethod
    def consumer(self, handle: Handle) -> AbstractAsyncContextManager[None]:
        """Consume, while this is entered, what was published and not yet consumed, and what is published meanwhile."""
