"""What the cursor stores have in common that stand before another one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from reflex_aio.cursor import CursorMark, CursorStore
from reflex_aio.errors import CursorConflict
from reflex_aio.lease import Lease

__all__ = ["WrappedStore"]


class WrappedStore(CursorStore, ABC):
    """Keeps cursors in ``store``, and finds one for a consumer that has none there.

    :raises TypeError: if ``store`` is no cursor store
    """

    def __init__(self, store: CursorStore) -> None:
        if not isinstance(store, CursorStore):
            raise TypeError(f"store {store!r} is a {type(store).__name__}: accepted is a CursorStore")
        self._store = store

    @abstractmethod
    async def find(self, name: str) -> str:
        """Return a cursor for a consumer that has none, or ``""``."""

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store.__aexit__(kind, error, trace)

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``; store the one that is found if it has none."""
        cursor = await self._store.get(name)
        if cursor or not (cursor := await self.find(name)):
            return cursor
        try:
            await self._store.set(name, cursor, expected="")
        except CursorConflict:
            # Another run of the consumer was first.
            return await self._store.get(name)
        await self._store.flush()
        return cursor

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward. See :class:`~reflex_aio.cursor.CursorStore`."""
        await self._store.set(name, cursor, expected=expected, fence=fence)

    def mark(self, name: str, *, fence: Lease | None = None) -> AbstractContextManager[CursorMark | None]:
        """Return a mark's context. See :class:`~reflex_aio.cursor.CursorStore`."""
        return self._store.mark(name, fence=fence)

    async def flush(self) -> None:
        """Return once every cursor that was set is stored for good."""
        await self._store.flush()

    async def all(self) -> Mapping[str, str]:
        """Return the stored cursors by consumer."""
        return await self._store.all()
