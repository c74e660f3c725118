"""The interfaces of event streams and their sources."""

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, runtime_checkable

import anyio

from reflex_aio.checks import check_bool, check_seconds
from reflex_aio.errors import StreamClosed
from reflex_aio.event import Event, EventBatch
from reflex_aio.tasks import shielded

__all__ = ["EventStream", "Source", "StreamOptions"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Far beyond any use, so that a time minus a lag is one that every database knows.
_LONGEST_LAG = 1_000_000_000.0

BEGINNING = "0"
"""A cursor that precedes all events: see :meth:`Source.head`."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """The start and the end of a stream, and the minimum age of its events.

    :param from_head: start after the head, whatever cursor is given
    :param to_head: end after the head, instead of waiting for more events
    :param lag: deliver an event when it has this age, in seconds, up to 1e9. The head is then the newest event that has
        it
    :raises ValueError: if ``lag`` is out of its range
    :raises TypeError: if a value has the wrong type
    """

    from_head: bool = False
    to_head: bool = False
    lag: float | None = None

    def __post_init__(self) -> None:
        check_bool("from_head", self.from_head)
        check_bool("to_head", self.to_head)
        check_seconds("lag", self.lag, zero=True, most=_LONGEST_LAG, none=True)


class Cancellable(Protocol):
    """A read that can be cancelled."""

    def cancel(self) -> None:
        """Cancel the read, if it waits."""


class Feed(Cancellable, Protocol):
    """A buffer from which a stream takes events.

    After :meth:`cancel`, the methods raise StreamClosed, and the awaitable of :meth:`arrival` returns.
    """

    def take(self) -> Sequence[Event] | None:
        """Return the next events: an empty sequence if there are none yet, ``None`` if the feed has ended.

        :raises ReflexError: if an error ended the feed
        """

    def arrival(self) -> Awaitable[None] | None:
        """Return an awaitable that returns when events may have arrived; ``None`` if :meth:`take` may be called now.

        No events are lost if the caller is cancelled.
        """


class EventStream(ABC):
    """Events in order, as an asynchronous iterator and an asynchronous context manager.

    ::

        async with source.stream(after) as stream:
            async for event in stream:
                ...

    Entering the stream opens it, and resolves the head for ``from_head`` and ``to_head``. A stream that is not entered
    is opened by its first read. One task reads at a time. Any task may close the stream; a read that waits at that time
    raises :class:`~reflex_aio.errors.StreamClosed`, as does every later one. A read that is cancelled loses no events:
    the next one continues after the last event that was returned. With ``to_head``, the iteration ends after the head;
    no other stream ends by itself.

    A source implements :meth:`_open`, :meth:`_read` and :meth:`_close`. A stream that takes its events from a
    :class:`Feed` sets ``_fed_by``, and implements :meth:`_take_fed` too.

    Event ids are decimal integers above 0, each greater than the one before, unless the stream sets :attr:`opaque_ids`.
    """

    opaque_ids: bool = False
    """True if ids have no order, or are no integers: then each is merely a text of its own. Clients over gRPC check ids
    accordingly."""

    # ``__anext__`` is a slot and not a method. It is set to that of a generator, so that ``async for`` calls it without
    # another Python frame, which at a million events a second would take a tenth of the time.
    __slots__ = ("__anext__", "__dict__", "__weakref__")

    if TYPE_CHECKING:

        def __anext__(self) -> Awaitable[Event]:
            """Return the next event."""

    def __init__(self, after: str) -> None:
        self._after = after
        self._last: Event | None = None
        self._ready: Iterator[Event] = iter(())
        self._opened = False
        self._ended = False
        self._closed: anyio.Event | None = None
        self._in_batches = False
        self._fed_by: Feed | None = None
        self._busy: Cancellable | None = None
        self._idle: anyio.Event | None = None
        self._events: AsyncGenerator[Event, None] | None = None
        self._set_next(self._start)

    @abstractmethod
    async def _open(self) -> str:
        """Prepare to read, and return the cursor to start after, with ``from_head`` resolved.

        Called again if it was cancelled or raised.
        """

    @abstractmethod
    async def _read(self) -> Sequence[Event] | None:
        """Return the next events, at least one, or an empty sequence after the head of a ``to_head`` stream.

        ``None`` means that the next events come from the feed. Called again if it was cancelled or raised: it must then
        continue after the last page that it returned. Also called after the end.
        """

    def _take_fed(self) -> Sequence[Event] | None:
        """Return the result of the feed's ``take``, and unset ``_fed_by`` if the feed has ended.

        Called instead of :meth:`_read` while ``_fed_by`` is set. When a hundred streams wait for one event, every
        coroutine in between counts, and a cancel scope for each read would take as much time as everything else.
        """
        raise NotImplementedError

    @abstractmethod
    async def _close(self) -> None:
        """Release all resources of the stream, which may never have been opened.

        Called once, while no open or read runs, shielded, and on asyncio in a task of its own.
        """

    @property
    def cursor(self) -> str:
        """The cursor of the last event that was returned; before the first, the one that the stream starts after."""
        return self._after if self._last is None else self._last.id

    async def __aenter__(self) -> Self:
        try:
            await self._guarded(self._ensure_open)
        except BaseException as exc:
            await self.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except Exception:
            if exc is None:
                raise
            # The body's exception is raised: it may be a cancellation, which must not be lost.
            logger.exception("%r could not be closed", self)

    def __aiter__(self) -> Self:
        return self

    async def read_page(self) -> list[Event]:
        """Wait for an event, and return all events that are ready; an empty list at the end of the stream.

        :raises StreamClosed: if the stream was closed
        """
        page = list(self._ready)
        if not page:
            # A copy, because the source may keep the page.
            page = list(await self._next_page())
        if page:
            self._last = page[-1]
        return page

    async def read_batch(self) -> EventBatch:
        """Return the same as :meth:`read_page`, as columns.

        For code that only forwards events: a table's stream then creates no event objects.

        :raises StreamClosed: if the stream was closed
        """
        # Later reads are expected to be of the same kind.
        self._in_batches = True
        batch = EventBatch.of(list(self._ready) or await self._next_page())
        if batch:
            self._after, self._last = batch.ids[-1], None
        return batch

    def end(self) -> None:
        """End the iteration: no more events are returned, and a read that waits returns.

        This lets a reader finish the events in hand. Unlike :meth:`aclose`, it returns at once, and the stream must
        still be closed. It may be called repeatedly, by any task. If the stream is being opened, the opening raises
        :class:`~reflex_aio.errors.StreamClosed`.
        """
        if self._ended or self._closed is not None:
            return
        self._ended = True
        self._ready = iter(())
        self._set_next(self._raise_end)
        if self._busy is not None:
            self._busy.cancel()

    async def aclose(self) -> None:
        """Close the stream, and wait until its resources are released, even if cancelled.

        It may be called repeatedly, by any task.
        """
        if self._closed is None:
            self._closed = anyio.Event()
            self._ready = iter(())
            self._set_next(self._raise_closed)
            await shielded(self._finish(self._closed))
        else:
            await shielded(self._closed.wait())

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_opened", False) and self._closed is None:
            _warn(
                f"{self!r} was never closed: use it in an 'async with'",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    def _set_next(self, method: Callable[[], Awaitable[Event]]) -> None:
        self.__anext__ = method  # type: ignore[method-assign]

    def _start(self) -> Awaitable[Event]:
        self._events = self._generate()
        # Set before the first step, so that a second reader gets this generator too, and is refused by it.
        self._set_next(self._events.__anext__)
        return self.__anext__()

    async def _raise_closed(self) -> Event:
        raise StreamClosed

    async def _raise_end(self) -> Event:
        raise StopAsyncIteration

    async def _generate(self) -> AsyncGenerator[Event, None]:
        try:
            while True:
                for event in self._ready:
                    self._last = event
                    yield event
                page: Sequence[Event] | None
                feed = self._fed_by
                if feed is None or self._busy is not None or self._ended or self._closed is not None:
                    if not (page := await self._next_page()):
                        return
                else:
                    # The same as in _next_page, without its coroutine and calls: when a hundred streams wait for one
                    # event, these would take a quarter of the time.
                    if (arrival := feed.arrival()) is not None:
                        self._busy = feed
                        try:
                            await arrival
                        finally:
                            self._busy = None
                            if self._idle is not None:
                                self._idle.set()
                        # Another task may have set these, which mypy does not consider.
                        if self._ended or self._closed is not None:
                            continue  # type: ignore[unreachable]
                    if not (page := self._take_fed()):
                        continue
                self._ready = iter(page)
        finally:
            # A generator that was ended by an exception, such as a cancellation, would silently end the iteration.
            if self._closed is None:
                self._set_next(self._start)

    async def _next_page(self) -> Sequence[Event]:
        """Return the next events, or none at the end of the stream."""
        page: Sequence[Event] | None = None
        try:
            while page is None and not self._ended:
                feed = self._fed_by
                if feed is None:
                    page = await self._guarded(self._read_opened)
                    continue
                self._begin(feed)
                try:
                    while (page := self._take_fed()) is not None and not page:
                        if (arrival := feed.arrival()) is not None:
                            await arrival
                finally:
                    self._done()
                self._check_open()
        except StreamClosed:
            if self._closed is not None or not self._ended:
                raise
        # A read may return although it was cancelled by end(): its events are dropped.
        return () if page is None or self._ended else page

    async def _read_opened(self) -> Sequence[Event] | None:
        await self._ensure_open()
        return await self._read()

    async def _ensure_open(self) -> None:
        if not self._opened:
            self._after = await self._open()
            self._opened = True

    async def _guarded(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run ``work``. If another task closes the stream, cancel it and raise StreamClosed."""
        scope = anyio.CancelScope()
        self._begin(scope)
        try:
            with scope:
                done = await work()
                # The work may return although it was cancelled by a close: its result is dropped.
                self._check_open()
                return done
        finally:
            self._done()
        raise StreamClosed

    def _begin(self, read: Cancellable) -> None:
        self._check_open()
        if self._busy is not None:
            raise RuntimeError("another task reads the stream: accepted is one task at a time")
        self._busy = read

    def _done(self) -> None:
        self._busy = None
        if self._idle is not None:
            self._idle.set()

    def _check_open(self) -> None:
        if self._closed is not None:
            raise StreamClosed

    async def _finish(self, closed: anyio.Event) -> None:
        try:
            if self._busy is not None:
                self._idle = anyio.Event()
                self._busy.cancel()
                await self._idle.wait()
            if self._events is not None:
                await self._events.aclose()
            await self._close()
        finally:
            closed.set()


@runtime_checkable
class Source(Protocol):
    """A source of events, such as a table with a pool, a remote service, or a list in memory."""

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``, where ``""`` is the beginning.

        For the options see :class:`StreamOptions`.
        """
        ...

    async def head(self) -> str:
        """Return the cursor of the newest event, or ``""`` if there is none.

        A source that returns ``""`` must accept ``"0"`` as a cursor that precedes all events: it is stored for
        consumers that start at the head of an empty source. If ids are such that ``"0"`` is no cursor, or not before
        all of them, the source returns another cursor that precedes all events instead of ``""``.
        """
        ...
