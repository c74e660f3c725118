"""Consumers that move their cursor themselves: the seam between them and :func:`~reflex_aio.running.run.run`."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Generic, Protocol, TypeVar, TypeVarTuple, Unpack

from reflex_aio.consumer import BaseConsumer
from reflex_aio.errors import StreamClosed
from reflex_aio.event import Event
from reflex_aio.running.cursor_writer import MovingCursor
from reflex_aio.running.watermark import Watermark
from reflex_aio.tasks import Group

__all__ = ["Session", "SessionConsumer", "Turn"]

Args = TypeVarTuple("Args")
Item = TypeVar("Item")


class Turn(Generic[Item]):
    """What a session has of its run: its events' tickets, its cursor, its tasks.

    The cursor stands after the last event before the first one that is begun and not finished. Events that
    the filters pass over between them need no work.

    :param handle: hands an item, made of these events, to the consumer, and tells the hooks
    """

    def __init__(
        self,
        cursor: MovingCursor,
        group: Group,
        handle: Callable[[Item, Sequence[Event]], Awaitable[None]],
    ) -> None:
        self._cursor = cursor
        self._group = group
        self._watermark = Watermark()
        self._closed = False
        self.handle = handle
        self.moved: bool = False
        """Whether the stored cursor has moved over an event that was finished."""

    @property
    def unfinished(self) -> int:
        """How many events were begun, from the first unfinished one on."""
        return len(self._watermark)

    def start(self, work: Callable[[Unpack[Args]], Awaitable[None]], *args: *Args) -> None:
        """Do ``work`` beside the run. What it raises ends the run; what still goes on when it ends is cancelled."""
        self._group.start(work, *args)

    def begin(self, event: Event) -> int:
        """Take on an event, in the stream's order, and return its ticket: not finished until it is said to be."""
        return self._watermark.begin(event.id)

    def pass_over(self, event: Event) -> None:
        """Leave an event out, in the stream's order."""
        watermark, before = self._watermark, self._watermark.cursor
        watermark.pass_over(event.id)
        if watermark.cursor != before:
            self._cursor.pass_over(watermark.cursor)

    async def finish(self, *tickets: int) -> None:
        """Finish these events; return when the cursor is stored, if it moves.

        :raises StreamClosed: if the run has ended; its unfinished events will come again
        """
        before = self._checked()
        for ticket in tickets:
            self._watermark.finish(ticket)
        await self._move_from(before)

    async def finish_through(self, ticket: int) -> None:
        """Finish this event and all those before it; return when the cursor is stored, if it moves.

        :raises StreamClosed: if the run has ended; its unfinished events will come again
        """
        before = self._checked()
        self._watermark.finish_through(ticket)
        await self._move_from(before)

    @asynccontextmanager
    async def finishing_through(self, ticket: int, event: Event) -> AsyncIterator[Any]:
        """Finish ``event``, whose ticket it is, and all those before it, in a transaction of the cursor store.

        The context yields its connection, for what is to be stored with the cursor, and commits both or neither.

        :raises CursorConflict: if the cursor isn't where this run has left it
        :raises StreamClosed: if the run has ended; its unfinished events will come again
        """
        self._checked()
        async with self._cursor.moving(event.id) as connection:
            yield connection
        self._watermark.finish_through(ticket)
        self.moved = True
        if self._watermark.cursor != event.id:
            self._cursor.pass_over(self._watermark.cursor)

    def close(self) -> None:
        """Finish nothing any more."""
        self._closed = True

    def _checked(self) -> str:
        if self._closed:
            raise StreamClosed("the run that handed over the event has ended: the event will come again")
        return self._watermark.cursor

    async def _move_from(self, before: str) -> None:
        if self._watermark.cursor != before:
            await self._cursor.set(self._watermark.cursor)
            self.moved = True


class Session(Protocol):
    """What a consumer does with the events of one run."""

    async def consume(self, event: Event) -> None:
        """Begin ``event``, which the filters let through; the next one comes when this returns."""
        ...

    async def finish(self) -> None:
        """Return when what was begun and can be finished is finished: the stream has ended."""
        ...


class SessionConsumer(BaseConsumer[Item], ABC):
    """A consumer that moves its cursor itself: ``run`` makes a session for each run, and sets nothing."""

    compares: ClassVar[bool] = False
    """Whether a run moves the cursor only from where it has left it. Otherwise from wherever it is, but forward."""

    @abstractmethod
    def session(self, turn: Turn[Item]) -> Session:
        """Begin a run."""
