"""New consumers that leave out what happened before them."""

from reflex_aio.cursor import CursorStore
from reflex_aio.patterns.wrapped_store import WrappedStore
from reflex_aio.stream import Source

__all__ = ["BootstrapStore"]


class BootstrapStore(WrappedStore):
    """A cursor store for consumers that begin at the head of ``source``::

        Spec(source, BootstrapStore(store, source), consumer)

    The head is asked for when the consumer has no cursor, and stored at once, so that whatever happens after the
    first run has begun is consumed, also if that run ends before its first event. A consumer that has a cursor
    goes on from there.

    :param store: where the cursors are kept
    :param source: what the head is asked of; a Go server doesn't tell it
    :param beginning: the cursor that is stored where there is no event yet: one before all events, and not ``""``,
        which would be taken for none. That of tables and :class:`~reflex_aio.memory.MemoryEvents` is ``"0"``
    :raises TypeError: if ``store`` or ``source`` isn't one
    :raises ValueError: if ``beginning`` is empty
    """

    def __init__(self, store: CursorStore, source: Source, *, beginning: str = "0") -> None:
        super().__init__(store)
        if not isinstance(source, Source):
            raise TypeError(f"source {source!r} is a {type(source).__name__}: accepted is a Source")
        if not beginning:
            raise ValueError("beginning is empty: accepted is a cursor before all events")
        self._source = source
        self._beginning = beginning

    def __repr__(self) -> str:
        return f"BootstrapStore({self._store!r}, {self._source!r})"

    async def find(self, name: str) -> str:
        """Return the head."""
        return await self._source.head() or self._beginning
