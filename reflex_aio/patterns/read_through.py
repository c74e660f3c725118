"""Cursors that come from elsewhere."""

from collections.abc import Mapping

from reflex_aio.cursor import CursorStore
from reflex_aio.patterns.wrapped_store import WrappedStore

__all__ = ["ReadThroughStore"]


class ReadThroughStore(WrappedStore):
    """A cursor store that takes over a cursor from ``fallback`` when it has none.

    To move consumers from one store to another: ``ReadThroughStore(new, old)``; or to say where a consumer begins:
    ``ReadThroughStore(store, MemoryCursorStore({"search": 1000}))``. The fallback is only read, and not entered.

    :raises TypeError: if an argument is no cursor store
    """

    def __init__(self, store: CursorStore, fallback: CursorStore) -> None:
        super().__init__(store)
        if not isinstance(fallback, CursorStore):
            raise TypeError(
                f"fallback {fallback!r} is a {type(fallback).__name__}: accepted is a CursorStore"
            )
        self._fallback = fallback

    def __repr__(self) -> str:
        return f"ReadThroughStore({self._store!r}, {self._fallback!r})"

    async def find(self, name: str) -> str:
        """Return the fallback's cursor."""
        return await self._fallback.get(name)

    async def all(self) -> Mapping[str, str]:
        """Return the cursors by consumer: the stored ones, and those that the fallback has for others."""
        return {**await self._fallback.all(), **await self._store.all()}
