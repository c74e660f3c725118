"""A consumer of several events at once."""

from typing import Any, Unpack

import anyio

from reflex_aio.checks import check_count, check_seconds
from reflex_aio.consumer import ConsumerOptions, HandlerOf
from reflex_aio.event import Event
from reflex_aio.running.manual_commit import SessionConsumer, Turn

__all__ = ["BatchConsumer", "BatchSession"]


class BatchConsumer(SessionConsumer[list[Event]]):
    """Consumes events in batches, in order and one after the other; the cursor moves after each batch.

    A batch is handed over when it has ``size`` events, when its first event came ``age`` seconds ago, or when
    the stream ends; whichever is first. While the handler is busy no event is read.

    :param handler: an async function of a list of events, at least one. What it raises ends the run at once,
        with the cursor before the batch
    :param size: how many events a batch has at most; ``None`` for any number, which take memory
    :param age: how long the first event of a batch waits at most, in seconds; ``None`` for any time
    :param options: as :class:`~reflex_aio.consumer.Consumer` takes them; ``recover`` is handed the batch
    :raises ValueError: if both limits are ``None``, or one is out of its range
    :raises TypeError: if a limit is no number
    """

    def __init__(
        self,
        name: str,
        handler: HandlerOf[list[Event]],
        *,
        size: int | None = None,
        age: float | None = None,
        **options: Unpack[ConsumerOptions[list[Event]]],
    ) -> None:
        super().__init__(name, handler, **options)
        if size is None and age is None:
            raise ValueError("size and age are both None: accepted is a limit for at least one of them")
        self.size: int | None = check_count("size", size, least=1, none=True)
        self.age: float | None = check_seconds("age", age, none=True)

    def session(self, turn: Turn[list[Event]]) -> "BatchSession":
        """Begin a run."""
        return BatchSession(turn, self.size, self.age)


class BatchSession:
    """Gathers events, and hands them over."""

    def __init__(self, turn: Turn[Any], size: int | None, age: float | None) -> None:
        self._turn = turn
        self._size = size
        self._age = age
        self._events: list[Event] = []
        self._last = 0
        self._due = 0.0
        self._begun: anyio.Event | None = None
        # Held by whoever adds to the batch or hands it over.
        self._lock = anyio.Lock(fast_acquire=True)
        if age is not None:
            turn.start(self._hand_over_in_time)

    async def consume(self, event: Event) -> None:
        async with self._lock:
            self._last = self._turn.begin(event)
            self._events.append(event)
            if len(self._events) == self._size:
                await self._hand_over()
            elif len(self._events) == 1 and self._age is not None:
                self._due = anyio.current_time() + self._age
                if self._begun is not None:
                    self._begun.set()
                    self._begun = None

    async def finish(self) -> None:
        async with self._lock:
            if self._events:
                await self._hand_over()

    async def _hand_over_in_time(self) -> None:
        # One task for all batches: one for each would still wait when its batch has long been full.
        while True:
            if not self._events:
                self._begun = anyio.Event()
                await self._begun.wait()
            await anyio.sleep_until(self._due)
            async with self._lock:
                # Not a batch that was begun meanwhile.
                if self._events and self._due <= anyio.current_time():
                    await self._hand_over()

    async def _hand_over(self) -> None:
        events, self._events = self._events, []
        await self.finish_batch(events, self._last)

    async def finish_batch(self, events: list[Event], last: int) -> None:
        """Consume these events, of which the last one has the ticket ``last``, and finish them."""
        await self._turn.handle(events, events)
        await self._turn.finish_through(last)
