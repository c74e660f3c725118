"""Streams of events, and the sources that they come from."""

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

BEGINNING = "0"
"""A cursor that precedes all events: see :meth:`Source.head`."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Where a stream starts and ends, and how old its events are.

    :param from_head: start after the head, whatever cursor is given
    :param to_head: end after the head, instead of waiting for further events
    :param lag: deliver an event once it is this old, in seconds; the head is then the newest event that is
    :raises ValueError: if ``lag`` is negative, or not finite
    :raises TypeError: if a value has the wrong type
    """

    from_head: bool = False
    to_head: bool = False
    lag: float | None = None

    def __post_init__(self) -> None:
        check_bool("from_head", self.from_head)
        check_bool("to_head", self.to_head)
        check_seconds("lag", self.lag, zero=True, none=True)


class Cancellable(Protocol):
    """What ends a read that waits."""

    def cancel(self) -> None:
        """End it, if it waits."""


class Feed(Cancellable, Protocol):
    """What hands events to a stream, which takes them when it likes.

    To be cancelled is to raise StreamClosed from then on, and to wake who waits for an arrival.
    """

    def take(self) -> Sequence[Event] | None:
        """Return the next events; none if there are none yet, and ``None`` if there will be none any more.

        :raises ReflexError: whatever has ended it
        """

    def arrival(self) -> Awaitable[None] | None:
        """Return what to await before there may be something to :meth:`take`; ``None`` if there may be now.

        To be cancelled meanwhile loses nothing.
        """


class EventStream(ABC):
    """Events in order: an asynchronous iterator and an asynchronous context manager.

    ::

        async with source.stream(after) as stream:
            async for event in stream:
                ...

    Entering the stream opens it: the head that ``from_head`` and ``to_head`` speak of is the one at that
    moment. A stream that isn't entered is opened by its first read. One task reads at a time; any task may
    close the stream, and a read that waits meanwhile raises :class:`~reflex_aio.errors.StreamClosed`, as
    every later one does. A read that is cancelled loses nothing: the next one goes on after the last event
    that was handed out. With ``to_head`` the iteration ends after the head; no other stream ends by itself.

    Those who implement a source override :meth:`_open`, :meth:`_read` and :meth:`_close`. A stream that others feed
    may set ``_fed_by``, and then override :meth:`_take_fed` too.
    """

    # ``__anext__`` is a slot rather than a method: set to a generator's own, ``async for`` gets there without a frame
    # of Python in between, which at a million events a second would be a tenth of all there is to do.
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
        self._step_by(self._start)

    @abstractmethod
    async def _open(self) -> str:
        """Make ready to read, and return the cursor to start after, with ``from_head`` resolved.

        Called once more after it was cancelled or has raised.
        """

    @abstractmethod
    async def _read(self) -> Sequence[Event] | None:
        """Return the next events, at least one, or an empty sequence after the head of a ``to_head`` stream.

        ``None`` says that the next ones come from the feed that the stream has now.
        Called once more after it was cancelled or has raised: it must go on after the last page that it
        returned. Called after the end too.
        """

    def _take_fed(self) -> Sequence[Event] | None:
        """Return what the feed has, and forget a feed that has ended: :meth:`_read` is called again then.

        Called instead of :meth:`_read` while there is a ``_fed_by``. Where a hundred streams wait for one event, each
        coroutine on the way to it counts, and a cancel scope for each read would take as much as all else.
        """
        raise NotImplementedError

    @abstractmethod
    async def _close(self) -> None:
        """Give back everything that the stream holds; not much, if it was never opened.

        Called once, with no open or read under way, shielded, and on asyncio in a task of its own.
        """

    @property
    def cursor(self) -> str:
        """The cursor after the last event handed out; before that, the one that the stream starts after."""
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
            # What the body raised is the one to raise: a cancellation must not be lost.
            logger.exception("%r could not be closed", self)

    def __aiter__(self) -> Self:
        return self

    async def read_page(self) -> list[Event]:
        """Return all events that are ready, waiting for the first; an empty list at the end of the stream.

        :raises StreamClosed: if the stream was closed
        """
        page = list(self._ready)
        if not page:
            # A copy, as the source may keep the page.
            page = list(await self._next_page())
        if page:
            self._last = page[-1]
        return page

    async def read_batch(self) -> EventBatch:
        """Return what :meth:`read_page` does, as columns.

        For those who pass events on: of a table, no events are made on the way.

        :raises StreamClosed: if the stream was closed
        """
        # Whoever reads so once goes on so.
        self._in_batches = True
        batch = EventBatch.of(list(self._ready) or await self._next_page())
        if batch:
            self._after, self._last = batch.ids[-1], None
        return batch

    def end(self) -> None:
        """End the iteration: no further event is handed out, and a read that waits ends.

        For a reader that is to finish what it has in hand. Unlike :meth:`aclose` it waits for nothing, and the
        stream still has to be closed. May be called twice, and from any task; an opening that is under way
        raises :class:`~reflex_aio.errors.StreamClosed`.
        """
        if self._ended or self._closed is not None:
            return
        self._ended = True
        self._ready = iter(())
        self._step_by(self._no_more)
        if self._busy is not None:
            self._busy.cancel()

    async def aclose(self) -> None:
        """Close the stream and wait until it holds nothing any more, also if cancelled meanwhile.

        May be called twice, and from any task.
        """
        if self._closed is None:
            self._closed = anyio.Event()
            self._ready = iter(())
            self._step_by(self._refuse)
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

    def _step_by(self, step: Callable[[], Awaitable[Event]]) -> None:
        self.__anext__ = step  # type: ignore[method-assign]

    def _start(self) -> Awaitable[Event]:
        self._events = self._flow()
        # Set before the first step, so that a second reader meets this generator rather than one of its own.
        self._step_by(self._events.__anext__)
        return self.__anext__()

    async def _refuse(self) -> Event:
        raise StreamClosed

    async def _no_more(self) -> Event:
        raise StopAsyncIteration

    async def _flow(self) -> AsyncGenerator[Event, None]:
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
                    # As _next_page does it, without its coroutine and calls: where a hundred streams wait for one
                    # event, these would be a quarter of what it takes to hand it to them.
                    if (arrival := feed.arrival()) is not None:
                        self._busy = feed
                        try:
                            await arrival
                        finally:
                            self._busy = None
                            if self._idle is not None:
                                self._idle.set()
                        # By another task meanwhile, which mypy doesn't think of.
                        if self._ended or self._closed is not None:
                            continue  # type: ignore[unreachable]
                    if not (page := self._take_fed()):
                        continue
                self._ready = iter(page)
        finally:
            # A generator that ended, by a cancelled read say, would end the iteration in silence.
            if self._closed is None:
                self._step_by(self._start)

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
        # A read may have been past cancelling; what it brings is handed out no more.
        return () if page is None or self._ended else page

    async def _read_opened(self) -> Sequence[Event] | None:
        await self._ensure_open()
        return await self._read()

    async def _ensure_open(self) -> None:
        if not self._opened:
            self._after = await self._open()
            self._opened = True

    async def _guarded(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work``, which a close in another task ends with StreamClosed."""
        scope = anyio.CancelScope()
        self._begin(scope)
        try:
            with scope:
                done = await work()
                # It may have been past cancelling; what it brings is handed out no more.
                self._check_open()
                return done
        finally:
            self._done()
        raise StreamClosed

    def _begin(self, ended_by: Cancellable) -> None:
        self._check_open()
        if self._busy is not None:
            raise RuntimeError("the stream is being read by another task: one task reads a stream at a time")
        self._busy = ended_by

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
    """Anything that events can be streamed from: a table and a pool, a remote service, a test's list."""

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``, ``""`` being the beginning.

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
