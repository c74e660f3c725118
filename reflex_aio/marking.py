"""Where a run has come to, as a mark for its cursor store to look at."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

from reflex_aio.cursor import CursorStore
from reflex_aio.lease import Lease

__all__ = ["CursorMark", "MarkingCursorStore", "marking"]


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
