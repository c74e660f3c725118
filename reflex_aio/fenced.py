"""A cursor store for as long as a lease is held."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Self

from reflex_aio.cursor import AtomicCursorStore, CursorStore
from reflex_aio.lease import Lease
from reflex_aio.marking import CursorMark, marking

__all__ = ["FencedStore"]


class FencedStore:
    """Sets cursors in ``store`` while ``lease`` is held, and raises LeaseLost afterwards."""

    def __init__(self, store: CursorStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease

    def __repr__(self) -> str:
        return f"FencedStore({self._store!r}, {self._lease!r})"

    async def __aenter__(self) -> Self:
        if isinstance(self._store, AbstractAsyncContextManager):
            await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self._store, AbstractAsyncContextManager):
            await self._store.__aexit__(kind, error, trace)

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none."""
        return await self._store.get(name)

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward, if the lease is held.

        See :class:`~reflex_aio.cursor.CursorStore`.
        """
        await self._store.set(name, cursor, expected=expected, fence=self._lease if fence is None else fence)

    def marking(self, name: str, *, fence: Lease | None = None) -> AbstractContextManager[CursorMark | None]:
        """Return a mark's context. See :class:`~reflex_aio.marking.MarkingCursorStore`."""
        return marking(self._store, name, fence=self._lease if fence is None else fence)

    def moving(
        self, name: str, cursor: str, *, expected: str, fence: Lease | None = None
    ) -> AbstractAsyncContextManager[Any]:
        """Return a transaction that moves a cursor. See :class:`~reflex_aio.cursor.AtomicCursorStore`.

        :raises TypeError: if the store has no transactions
        """
        if not isinstance(self._store, AtomicCursorStore):
            raise TypeError(f"{self._store!r} can't move a cursor in a transaction")
        return self._store.moving(
            name, cursor, expected=expected, fence=self._lease if fence is None else fence
        )

    async def flush(self) -> None:
        """Return once every cursor that was set is stored for good."""
        await self._store.flush()

    async def all(self) -> Mapping[str, str]:
        """Return the stored cursors by consumer."""
        return await self._store.all()
