"""A consumer of events in batches, limited by size, by age or by both."""

from typing import Any, Unpack

import anyio

from reflex_aio.checks import check_count, check_seconds
from reflex_aio.consumer import ConsumerOptions, HandlerOf
from reflex_aio.event import Event
from reflex_aio.running.manual_commit import ManualCommitConsumer, RunContext

__all__ = ["BatchConsumer", "BatchProcessor", "check_limits"]


class BatchConsumer(ManualCommitConsumer[list[Event]]):
    """Consumes events in batches, in order and one after the other. The cursor is committed after each batch.

    A batch is handled when it has ``size`` events, when its first event was received ``age`` seconds ago, or at the end
    of the stream, whichever is first. No events are read while the handler runs.

    :param handler: an async function of a list of at least one event. An exception ends the run, with the cursor before
        the batch
    :param size: greatest number of events in a batch; ``None`` for no limit, which may need much memory
    :param age: longest time that the first event of a batch waits, in seconds; ``None`` for no limit
    :param options: those of :class:`~reflex_aio.consumer.Consumer`; ``recover`` gets the batch
    :raises ValueError: if both limits are ``None``, or one is out of range
    :raises TypeError: if a limit is not a number
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
        check_limits(size, age)
        self.size = size
        self.age = age

    def processor(self, context: RunContext[list[Event]]) -> "BatchProcessor":
        """Return the processor of a new run."""
        return BatchProcessor(context, self.size, self.age)


def check_limits(size: object, age: object) -> None:
    """Check the limits of a batch.

    :raises ValueError: if both are ``None``, or one is out of range
    :raises TypeError: if one is not a number
    """
    if size is None and age is None:
        raise ValueError("size and age are both None: accepted is a limit for at least one of them")
    check_count("size", size, least=1, none=True)
    check_seconds("age", age, none=True)


class BatchProcessor:
    """Collects events into batches."""

    def __init__(self, context: RunContext[Any], size: int | None, age: float | None) -> None:
        self._context = context
        self._size = size
        self._age = age
        self._events: list[Event] = []
        self._last = 0
        self._due = 0.0
        self._begun: anyio.Event | None = None
        # Held while a batch is changed or handled.
        self._lock = anyio.Lock(fast_acquire=True)
        if age is not None:
            context.start(self._handle_when_due)

    async def process(self, event: Event) -> None:
        """Add an event to the batch, and handle the batch if it is full."""
        async with self._lock:
            self._last = self._context.begin(event)
            self._events.append(event)
            if len(self._events) == self._size:
                await self._handle()
            elif len(self._events) == 1 and self._age is not None:
                self._due = anyio.current_time() + self._age
                if self._begun is not None:
                    self._begun.set()
                    self._begun = None

    async def drain(self) -> None:
        """Handle the last batch."""
        async with self._lock:
            if self._events:
                await self._handle()

    async def _handle_when_due(self) -> None:
        # One task for all batches: a task per batch would still be waiting long after its batch was full.
        while True:
            if not self._events:
                self._begun = anyio.Event()
                await self._begun.wait()
            await anyio.sleep_until(self._due)
            async with self._lock:
                # A batch that was begun in the meantime is due later.
                if self._events and self._due <= anyio.current_time():
                    await self._handle()

    async def _handle(self) -> None:
        events, self._events = self._events, []
        await self.handle_batch(events, self._last)

    async def handle_batch(self, events: list[Event], last: int) -> None:
        """Handle and finish these events, of which the last has the ticket ``last``."""
        await self._context.handle(events, events)
        await self._context.finish_through(last)
