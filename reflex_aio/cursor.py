"""Where consumers keep their cursors."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

from reflex_aio.lease import Lease

__all__ = [
    "AtomicCursorStore",
    "CursorMark",
    "CursorStore",
    "MarkingCursorStore",
    "is_behind",
    "is_number",
    "marking",
]


@runtime_checkable
class CursorStore(Protocol):
    """Keeps, for each consumer, the cursor of the last event that it consumed.

    A store that is also an asynchronous context manager is entered by :func:`~reflex_aio.running.run.run`; several
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


class CursorMark:
    """Where a run has come to, for its cursor store to look at now and then.

    At a million events a second, to call the store for each would cost more than all else that a run does.
    """

    __slots__ = ("cursor", "refused")

    def __init__(self) -> None:
        self.cursor: str = ""
        """The last event that was finished; ``""`` before the first. The run writes it."""
        self.refused: bool = False
        """Whether the store has stopped looking: the next ``set`` raises why. The store writes it."""


@runtime_checkable
class MarkingCursorStore(CursorStore, Protocol):
    """A cursor store that keeps cursors in memory for a while anyway, and so need not be told of each."""

    def marking(self, name: str, *, fence: Lease | None = None) -> AbstractContextManager[CursorMark | None]:
        """Return a context that yields a mark of the consumer ``name``, or None if each cursor has to be set.

        While in the context, what is written to the mark is as good as set. It is looked at a last time in the end.

        :param fence: as for :meth:`~reflex_aio.cursor.CursorStore.set`
        """
        ...


def marking(
    store: CursorStore, name: str, *, fence: Lease | None = None
) -> AbstractContextManager[CursorMark | None]:
    """Return a mark's context for any store. See :meth:`MarkingCursorStore.marking`."""
    if isinstance(store, MarkingCursorStore):
        return store.marking(name, fence=fence)
    return nullcontext()
