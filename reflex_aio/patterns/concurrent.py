"""A consumer of several events at a time, optionally in order per key."""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Unpack

import anyio

from reflex_aio.checks import check_callable, check_count
from reflex_aio.consumer import ConsumerOptions, Handler
from reflex_aio.event import Event
from reflex_aio.running.manual_commit import ManualCommitConsumer, RunContext

__all__ = ["ConcurrentConsumer"]


class ConcurrentConsumer(ManualCommitConsumer[Event]):
    """Consumes up to ``limit`` events at a time. The cursor is committed up to the first event that is not finished.

    When a handler raises, no more events are begun, those in flight are cancelled, and the run ends with that error.
    Events that were finished after the cursor are delivered again.

    :param handler: an async function of an event, called in a task of its own
    :param limit: greatest number of events in flight
    :param ordered_by: a plain function of an event, such as :func:`~reflex_aio.patterns.by_foreign_id`. Events for
        which it returns the same value are handled in order, one after the other. ``None`` for no order
    :param window: greatest number of events from the first unfinished one to the last one begun. It is also the
        greatest number of events that are delivered again
    :param options: those of :class:`~reflex_aio.consumer.Consumer`
    :raises ValueError: if a number is out of range
    :raises TypeError: if a value has the wrong type
    """

    def __init__(
        self,
        name: str,
        handler: Handler,
        *,
        limit: int,
        ordered_by: Callable[[Event], Hashable] | None = None,
        window: int = 10_000,
        **options: Unpack[ConsumerOptions[Event]],
    ) -> None:
        super().__init__(name, handler, **options)
        check_callable("ordered_by", ordered_by, "a plain function", none=True)
        self.limit: int = check_count("limit", limit, least=1)
        self.ordered_by = ordered_by
        self.window: int = check_count("window", window, least=limit)

    def processor(self, context: RunContext[Event]) -> "_ConcurrentProcessor":
        """Return the processor of a new run."""
        return _ConcurrentProcessor(context, self)


class _ConcurrentProcessor:
    def __init__(self, context: RunContext[Event], consumer: ConcurrentConsumer) -> None:
        self._context = context
        self._window = consumer.window
        self._ordered_by = consumer.ordered_by
        self._free = anyio.Semaphore(consumer.limit, fast_acquire=True)
        # The waiting events of each key that has a task. The event in flight is not among them.
        self._queues: dict[Hashable, deque[tuple[Event, int]]] = {}
        self._progress: anyio.Event | None = None

    async def process(self, event: Event) -> None:
        while self._context.unfinished >= self._window:
            await self._wait_for_progress()
        ticket = self._context.begin(event)
        key = ticket if self._ordered_by is None else self._ordered_by(event)
        if key in self._queues:
            self._queues[key].append((event, ticket))
            return
        await self._free.acquire()
        self._queues[key] = deque([(event, ticket)])
        self._context.start(self._process_queue, key)

    async def drain(self) -> None:
        while self._queues:
            await self._wait_for_progress()

    async def _process_queue(self, key: Hashable) -> None:
        queue = self._queues[key]
        while queue:
            event, ticket = queue.popleft()
            await self._context.handle(event, (event,))
            await self._context.finish(ticket)
            self._notify_progress()
        del self._queues[key]
        self._free.release()
        self._notify_progress()

    async def _wait_for_progress(self) -> None:
        self._progress = anyio.Event()
        await self._progress.wait()

    def _notify_progress(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None
