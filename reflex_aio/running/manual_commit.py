"""Consumers that commit their cursor themselves: the interface between them and a run, and the low watermark."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Protocol, TypeVar, TypeVarTuple, Unpack

from reflex_aio.consumer import BaseConsumer
from reflex_aio.errors import StreamClosed
from reflex_aio.event import Event
from reflex_aio.running.cursor_writer import CursorWriter
from reflex_aio.tasks import Group

__all__ = ["ManualCommitConsumer", "Processor", "RunContext", "Watermark"]

Args = TypeVarTuple("Args")
Item = TypeVar("Item")


class RunContext(Generic[Item]):
    """The run of a processor: the tickets of its events, its cursor, its tasks.

    The cursor is committed up to the event before the first unfinished one. Skipped events between them count as
    finished.

    :param handle: passes an item, made of the events, to the consumer, and calls the hooks
    """

    def __init__(
        self,
        cursor: CursorWriter,
        group: Group,
        handle: Callable[[Item, Sequence[Event]], Awaitable[None]],
    ) -> None:
        self._cursor = cursor
        self._group = group
        self._watermark = Watermark()
        self._closed = False
        self.handle = handle
        self.advanced: bool = False
        """True if a finished event's cursor was committed."""

    @property
    def unfinished(self) -> int:
        """The number of events that were begun, from the first unfinished one on."""
        return len(self._watermark)

    @property
    def first_unfinished(self) -> str:
        """The id of the first unfinished event; ``""`` if there is none."""
        return self._watermark.first_unfinished

    def start(self, work: Callable[[Unpack[Args]], Awaitable[None]], *args: *Args) -> None:
        """Start ``work`` in a task. An exception ends the run; the end of the run cancels the task."""
        self._group.start(work, *args)

    def begin(self, event: Event) -> int:
        """Add an event, in the order of the stream, and return its ticket, by which it is finished."""
        return self._watermark.begin(event.id)

    def skip(self, event: Event) -> None:
        """Add an event that needs no work, in the order of the stream."""
        watermark, before = self._watermark, self._watermark.cursor
        watermark.skip(event.id)
        if watermark.cursor != before:
            self._cursor.skip(watermark.cursor)

    async def finish(self, *tickets: int) -> None:
        """Finish these events. Returns when the cursor is stored, if it moves.

        :raises StreamClosed: if the run has ended; its unfinished events will be delivered again
        """
        before = self._open_cursor()
        for ticket in tickets:
            self._watermark.finish(ticket)
        await self._commit_after(before)

    async def finish_through(self, ticket: int) -> None:
        """Finish this event and all before it. Returns when the cursor is stored, if it moves.

        :raises StreamClosed: if the run has ended; its unfinished events will be delivered again
        """
        before = self._open_cursor()
        self._watermark.finish_through(ticket)
        await self._commit_after(before)

    @asynccontextmanager
    async def transaction_through(self, ticket: int, event: Event) -> AsyncIterator[Any]:
        """Finish ``event``, which has this ticket, and all before it, in a transaction of the cursor store.

        The context yields the transaction's connection. Writes on it are committed together with the cursor.

        :raises CursorConflict: if the stored cursor is not where this run left it
        :raises StreamClosed: if the run has ended; its unfinished events will be delivered again
        """
        self._open_cursor()
        async with self._cursor.transaction(event.id) as connection:
            yield connection
        self._watermark.finish_through(ticket)
        self.advanced = True
        if self._watermark.cursor != event.id:
            self._cursor.skip(self._watermark.cursor)

    def close(self) -> None:
        """Refuse to finish events from now on."""
        self._closed = True

    def _open_cursor(self) -> str:
        if self._closed:
            raise StreamClosed(
                "the run that delivered the event has ended: the event will be delivered again"
            )
        return self._watermark.cursor

    async def _commit_after(self, before: str) -> None:
        if self._watermark.cursor != before:
            await self._cursor.set(self._watermark.cursor)
            self.advanced = True


class Processor(Protocol):
    """Processes the events of one run."""

    async def process(self, event: Event) -> None:
        """Begin an event that the filters accepted. The next one is delivered when this returns."""
        ...

    async def drain(self) -> None:
        """Return when the events in hand are finished, as far as possible. Called at the end of the stream."""
        ...


class ManualCommitConsumer(BaseConsumer[Item], ABC):
    """Base of consumers that commit their cursor themselves, through a processor that is made for each run."""

    @abstractmethod
    def processor(self, context: RunContext[Item]) -> Processor:
        """Return the processor of a new run."""


class Watermark:
    """The low watermark of events that are begun in order and finished in any order.

    Its length is the number of events from the first unfinished one on, without skipped ones.
    """

    def __init__(self) -> None:
        self._cursor = ""
        # The cursors after the watermark, of which the first has the ticket _first.
        self._cursors: deque[str] = deque()
        self._first = 0
        self._finished: set[int] = set()
        # The first cursors of those that skip() has replaced, by ticket.
        self._replaced: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._cursors)

    @property
    def cursor(self) -> str:
        """The cursor of the last event before the first unfinished one; ``""`` if there is none."""
        return self._cursor

    @property
    def first_unfinished(self) -> str:
        """The cursor of the first unfinished event; ``""`` if there is none."""
        return self._replaced.get(self._first, self._cursors[0]) if self._cursors else ""

    def begin(self, cursor: str) -> int:
        """Add an event with this cursor after those present, and return its ticket."""
        self._cursors.append(cursor)
        return self._first + len(self._cursors) - 1

    def skip(self, cursor: str) -> None:
        """Add an event with this cursor after those present, which counts as finished."""
        if self._cursors:
            # Merged with the event before, so that skipped events take no memory.
            self._replaced.setdefault(self._first + len(self._cursors) - 1, self._cursors[-1])
            self._cursors[-1] = cursor
        else:
            self._cursor = cursor

    def finish(self, ticket: int) -> None:
        """Mark an event as finished. An event before the watermark may be finished again.

        :raises ValueError: if there is no such ticket
        """
        self._check(ticket)
        if ticket < self._first:
            return
        self._finished.add(ticket)
        while self._first in self._finished:
            self._advance()

    def finish_through(self, ticket: int) -> None:
        """Mark an event and all before it as finished.

        :raises ValueError: if there is no such ticket
        """
        self._check(ticket)
        while self._first <= ticket or self._first in self._finished:
            self._advance()

    def _advance(self) -> None:
        self._finished.discard(self._first)
        if self._replaced:
            self._replaced.pop(self._first, None)
        self._cursor = self._cursors.popleft()
        self._first += 1

    def _check(self, ticket: int) -> None:
        if not 0 <= ticket < self._first + len(self._cursors):
            raise ValueError(f"ticket {ticket} does not exist: accepted is one returned by begin()")
