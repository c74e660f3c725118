"""A source of events that are polled from a function, such as the pages of a web service."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio

from reflex_aio.checks import check_callable, check_seconds
from reflex_aio.event import Event
from reflex_aio.stream import EventStream, StreamOptions

__all__ = ["PollSource"]

Poll: TypeAlias = Callable[[str], Awaitable[Sequence[Event]]]


class PollSource:
    """A source of the events that ``poll`` returns, for example from another service's pages.

    :param poll: an async function that returns the events after a cursor, where ``""`` is the beginning: any number of
        events, in an order that never changes; none if there are no more yet
    :param every: delay before polling again when there were no events, in seconds
    :param head: an async function that returns the newest event's id; without events, see
        :meth:`reflex_aio.stream.Source.head`. Without this function, and for streams with a ``lag``, all events after
        the stream's cursor are polled to find the head
    :param clock: returns the time, in seconds since 1970
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if ``every`` is not above 0
    """

    def __init__(
        self,
        poll: Poll,
        *,
        every: float = 60.0,
        head: Callable[[], Awaitable[str]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_callable("poll", poll, "an async function of a cursor")
        check_callable("head", head, none=True)
        self._poll = poll
        self._every = check_seconds("every", every)
        self._head = head
        self._clock = clock

    def __repr__(self) -> str:
        return f"PollSource({self._poll!r})"

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``. See :class:`~reflex_aio.stream.Source`."""
        return _PollStream(self, after, StreamOptions(from_head, to_head, lag))

    async def head(self) -> str:
        """Return the cursor of the newest event, or that of the beginning. See :class:`~reflex_aio.stream.Source`."""
        return await self._head_from("", None)

    async def _head_from(self, after: str, lag: float | None) -> str:
        if self._head is not None and not lag:
            return await self._head()
        while True:
            page = await self._after(after)
            old = [event for event in page if self._early(event, lag) <= 0]
            if old:
                after = old[-1].id
            if not page or len(old) < len(page):
                return after

    async def _after(self, cursor: str) -> Sequence[Event]:
        page = await self._poll(cursor)
        if page and page[0].id == cursor:
            # Otherwise the stream would repeat this event forever.
            raise RuntimeError(f"{self!r} returned event {cursor}: accepted are events after that one")
        return page

    def _early(self, event: Event, lag: float | None) -> float:
        """Return the time until ``event`` is old enough, in seconds."""
        return event.timestamp_us / 1_000_000 + lag - self._clock() if lag else 0.0


class _PollStream(EventStream):
    # The ids of another service.
    opaque_ids = True

    def __init__(self, source: PollSource, after: str, options: StreamOptions) -> None:
        super().__init__(after)
        self._source = source
        self._position = after
        self._options = options
        self._head: str | None = None

    async def _open(self) -> str:
        options = self._options
        if options.from_head or options.to_head:
            head = await self._source._head_from(self._position, options.lag)
            if options.from_head:
                self._position = head
            if options.to_head:
                self._head = head
        return self._position

    async def _read(self) -> Sequence[Event]:
        if self._position == self._head:
            return ()
        source, lag = self._source, self._options.lag
        page = await source._after(self._position)
        while not page:
            if self._head is not None:
                # The event that was the head when the stream was opened has been deleted.
                return ()
            await anyio.sleep(source._every)
            page = await source._after(self._position)
        if lag:
            await anyio.sleep(max(0.0, source._early(page[0], lag)))
            # Keep the first event even if the clock was set back: an empty page would end the stream.
            late = [index for index, event in enumerate(page) if index and source._early(event, lag) > 0]
            page = page[: late[0]] if late else page
        if self._head is not None:
            ends = [index + 1 for index, event in enumerate(page) if event.id == self._head]
            page = page[: ends[0]] if ends else page
        self._position = page[-1].id
        return page

    async def _close(self) -> None:
        """Do nothing: the stream holds no resources."""
