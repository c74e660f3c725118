"""The interface of cursor stores, and the order of cursors."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, ClassVar, Self

from reflex_aio.lease import Lease

__all__ = ["CursorMark", "CursorStore", "is_behind", "is_number"]


class CursorMark:
    """A run's cursor in memory, which the cursor store reads whenever it stores cursors.

    At a million events a second, a call of the store for each event would cost more than the rest of the run.
    """

    __slots__ = ("cursor", "refused")

    def __init__(self) -> None:
        self.cursor: str = ""
        """The last event that was handled; ``""`` before the first. Written by the run."""
        self.refused: bool = False
        """True if the store has stopped reading the mark: the next ``set`` raises the reason. Written by the store."""


class CursorStore(ABC):
    """Keeps, for each consumer, the cursor of the last event that it consumed.

    :func:`~reflex_aio.run` enters the store as an asynchronous context manager. Several runs may share a store, and
    enter it at the same time.
    """

    fence_type: ClassVar[type[Lease] | None] = None
    """The type of leases that :meth:`set` can compare; ``None`` if it cannot compare any, and raises instead."""

    has_transactions: ClassVar[bool] = False
    """True if the store has :meth:`transaction`, which consumers need whose effects commit with the cursor."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(  # noqa: B027
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release what entering the store acquired. By default, nothing."""

    @abstractmethod
    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none."""

    @abstractmethod
    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward to ``cursor``.

        :param expected: move it only if this is the stored cursor; ``""`` if the consumer has none
        :param fence: move it only while this lease is held. The store compares the lease in the same step
        :raises CursorConflict: if it would move backwards, or the stored cursor is not the expected one
        :raises LeaseLost: if ``fence`` is no longer held
        :raises TypeError: if the store cannot compare ``fence``
        """

    @abstractmethod
    async def all(self) -> Mapping[str, str]:
        """Return the stored cursors by consumer."""

    async def flush(self) -> None:  # noqa: B027
        """Return once every cursor that was set is stored permanently. By default, :meth:`set` has stored it."""

    def mark(self, name: str, *, fence: Lease | None = None) -> AbstractContextManager[CursorMark | None]:
        """Return a context that yields a mark of the consumer ``name``, or ``None`` if each cursor must be set.

        Within the context, a cursor that is written to the mark counts as set. The store reads the mark a last time at
        the end. By default, there is no mark.

        :param fence: as for :meth:`set`
        """
        return nullcontext()

    def transaction(
        self, name: str, cursor: str, *, expected: str, fence: Lease | None = None
    ) -> AbstractAsyncContextManager[Any]:
        """Return a transaction that moves the cursor of the consumer ``name``. The context yields its connection.

        At the beginning, the cursor is compared with ``expected`` and moved, which locks it. The lease is compared at
        the end. An exception within the context rolls back the transaction.

        :raises CursorConflict: if it would move backwards, or the stored cursor is not the expected one
        :raises LeaseLost: if ``fence`` is no longer held
        :raises TypeError: if the store cannot compare ``fence``
        :raises NotImplementedError: if the store has no transactions, which is the default
        """
        raise NotImplementedError(f"{self!r} has no transactions")


def is_behind(cursor: str, other: str) -> bool:
    """Return whether ``cursor`` comes before ``other``. False unless both are numbers, since the order is unknown."""
    if not (is_number(cursor) and is_number(other)):
        return False
    if len(cursor) == len(other):
        return cursor < other
    # Not with int(): opaque strings of digits may be too long for it.
    cursor, other = cursor.lstrip("0"), other.lstrip("0")
    return (len(cursor), cursor) < (len(other), other)


def is_number(text: object) -> bool:
    """Return whether ``text`` is a string of digits."""
    return isinstance(text, str) and text.isascii() and text.isdecimal()
