"""A source and a cursor store that fail when a test says so."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import anyio

from reflex_aio.errors import StreamStopped
from reflex_aio.event import Event
from reflex_aio.lease import Lease
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.stream import EventStream, Source, StreamOptions

__all__ = ["CursorStoreCall", "ScriptedCursorStore", "ScriptedSource"]

CursorStoreCall: TypeAlias = Literal["get", "set", "flush", "all"]


class ScriptedSource:
    """A source that fails when a test says so, and else hands out the events of another.

    ::

        events = MemoryEvents()
        source = ScriptedSource(events)
        source.fail(ConnectionLost("the cable"), after="2")

    :param source: where the events are
    :ivar opened: how many streams were opened so far
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._failures: list[tuple[str | None, Exception]] = []
        self._stopped = False
        self._streams: set[_ScriptedStream] = set()
        self.opened: int = 0

    def fail(self, error: Exception, *, after: str | int | None = None) -> None:
        """Let one stream raise ``error``, once.

        :param after: the id of the last event that the stream hands out before; by default it fails to open
        """
        self._failures.append((None if after is None else str(after), error))
        self._interrupt()

    def stop(self) -> None:
        """Let all streams raise StreamStopped, those that wait and those yet to be opened, until :meth:`start`."""
        self._stopped = True
        self._interrupt()

    def start(self) -> None:
        """Let streams go on, and be opened, after :meth:`stop`."""
        self._stopped = False

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``. See :class:`~reflex_aio.stream.Source`."""
        return _ScriptedStream(self, after, StreamOptions(from_head, to_head, lag))

    async def head(self) -> str:
        """Return the cursor of the newest event, or ``""`` if there is none."""
        return await self._source.head()

    def _interrupt(self) -> None:
        for stream in self._streams:
            stream.look_again()

    def _follow(self, position: str | None) -> None:
        """Raise what a stream has to raise that stands at ``position``, or is opened."""
        if self._stopped:
            raise StreamStopped
        for number, (after, error) in enumerate(self._failures):
            if after == position:
                del self._failures[number]
                raise error

    def _cut(self, page: Sequence[Event]) -> int:
        """Return how many events of ``page`` come before a failure."""
        planned = {after for after, _ in self._failures}
        for number, event in enumerate(page, start=1):
            if event.id in planned:
                return number
        return len(page)


class _ScriptedStream(EventStream):
    def __init__(self, script: ScriptedSource, after: str, options: StreamOptions) -> None:
        super().__init__(after)
        self._script = script
        self._options = options
        self._stream = self._make()
        self._position = after
        self._page: Sequence[Event] = ()
        self._waiting: anyio.CancelScope | None = None

    def look_again(self) -> None:
        """Look at the script again, instead of waiting for events."""
        if self._waiting is not None:
            self._waiting.cancel()

    def _make(self) -> EventStream:
        options = self._options
        return self._script._source.stream(
            self._after, from_head=options.from_head, to_head=options.to_head, lag=options.lag
        )

    async def _open(self) -> str:
        self._script._follow(None)
        try:
            await self._stream.__aenter__()
        except BaseException:
            # It has closed itself; opening may be tried again.
            self._stream = self._make()
            raise
        self._script.opened += 1
        self._script._streams.add(self)
        self._position = self._stream.cursor
        return self._position

    async def _read(self) -> Sequence[Event]:
        self._script._follow(self._position)
        while not self._page:
            with anyio.CancelScope() as self._waiting:
                self._page = await self._stream.read_page()
                if not self._page:
                    return ()
            self._waiting = None
            self._script._follow(self._position)
        cut = self._script._cut(self._page)
        page, self._page = self._page[:cut], self._page[cut:]
        self._position = page[-1].id
        return page

    async def _close(self) -> None:
        self._script._streams.discard(self)
        await self._stream.aclose()


class ScriptedCursorStore(MemoryCursorStore):
    """Cursors in memory, in a store that writes down its calls, and fails when a test says so.

    :param cursors: the cursors to begin with, by consumer; event ids may be integers
    :ivar sets: the cursors that were set, with their consumers, in order
    :ivar flushes: how many times the cursors were flushed
    """

    def __init__(self, cursors: Mapping[str, str | int] = {}) -> None:
        super().__init__(cursors)
        self._failures: dict[CursorStoreCall, list[Exception]] = {}
        self.sets: list[tuple[str, str]] = []
        self.flushes: int = 0

    def fail(self, call: CursorStoreCall, error: Exception) -> None:
        """Let the next call of that name raise ``error``, once; those that were told before come first."""
        self._failures.setdefault(call, []).append(error)

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none."""
        self._follow("get")
        return await super().get(name)

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward. See :class:`~reflex_aio.cursor.CursorStore`."""
        self._follow("set")
        await super().set(name, cursor, expected=expected, fence=fence)
        self.sets.append((name, cursor))

    async def flush(self) -> None:
        """Count the flush."""
        self._follow("flush")
        self.flushes += 1

    async def all(self) -> Mapping[str, str]:
        """Return the stored cursors by consumer."""
        self._follow("all")
        return await super().all()

    def _follow(self, call: CursorStoreCall) -> None:
        if failures := self._failures.get(call):
            raise failures.pop(0)
