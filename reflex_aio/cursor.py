"""Where consumers keep their cursors."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable

from reflex_aio.lease import Lease

__all__ = ["AtomicCursorStore", "CursorStore", "is_behind", "is_number"]


@runtime_checkable
class CursorStore(Protocol):
    """Keeps, for each consumer, the cursor of the last event that it consumed.

    A store that is also an asynchronous context manager is entered by :func:`~reflex_aio.running.run`; several
    runs may share one store, and so enter it several times.
    """

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none."""
        ...

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``.

        :param expected: move it only if it stands there, ``""`` being nowhere
        :param fence: move it only while this lease is held, which is compared in the same step: who has lost it can't
            move the cursor even forward
        :raises CursorConflict: if it would move backwards, or isn't where it is expected
        :raises LeaseLost: if ``fence`` isn't held any more
        :raises TypeError: if ``fence`` isn't a lease that this store can compare
        """
        ...

    async def flush(self) -> None:
        """Return once every cursor that was set is stored for good."""
        ...

    async def all(self) -> Mapping[str, str]:
        """Return the stored cursors by consumer."""
        ...


@runtime_checkable
class AtomicCursorStore(CursorStore, Protocol):
    """A cursor store in a database, where a cursor and what else is written there can move together."""

    def moving(
        self, name: str, cursor: str, *, expected: str, fence: Lease | None = None
    ) -> AbstractAsyncContextManager[Any]:
        """Return a transaction that moves the cursor of the consumer ``name``, as a context that yields its connection.

        The cursor is moved, and so locked, in the beginning, and compared with ``expected``; the lease in the end. What
        is raised within the context undoes all of it.

        :raises CursorConflict: if it would move backwards, or isn't where it is expected
        :raises LeaseLost: if ``fence`` isn't held any more
        :raises TypeError: if ``fence`` isn't a lease that this store can compare
        """
        ...


def is_behind(cursor: str, other: str) -> bool:
    """Tell whether ``cursor`` comes before ``other``; false unless both are numbers, as it isn't known."""
    if not (is_number(cursor) and is_number(other)):
        return False
    if len(cursor) == len(other):
        return cursor < other
    # Not by int(): opaque strings of digits may be longer than it takes.
    cursor, other = cursor.lstrip("0"), other.lstrip("0")
    return (len(cursor), cursor) < (len(other), other)


def is_number(text: object) -> bool:
    """Tell whether ``text`` is a string of digits."""
    return isinstance(text, str) and text.isascii() and text.isdecimal()
