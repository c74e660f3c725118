"""A consumer of several events side by side."""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Unpack

import anyio

from reflex_aio.checks import check_callable, check_count
from reflex_aio.consumer import ConsumerOptions, Handler
from reflex_aio.event import Event
from reflex_aio.running.manual_commit import SessionConsumer, Turn

__all__ = ["ConcurrentConsumer"]


class ConcurrentConsumer(SessionConsumer[Event]):
    """Consumes up to ``limit`` events at a time; the cursor stands before the first one that isn't finished.

    When a handler raises, no further event is begun, those in flight are cancelled, and the run ends with
    that error. Events that were finished after the cursor come again.

    :param handler: an async function of an event, which runs in a task of its own
    :param limit: how many events are in flight at most
    :param ordered_by: a plain function of an event, such as :func:`~reflex_aio.patterns.by_foreign_id`: of
        events for which it returns the same, each is begun when the one before is finished. ``None`` for no order
    :param window: how many events are begun at most from the first unfinished one on, and so how many come
        again at most
    :param options: as :class:`~reflex_aio.consumer.Consumer` takes them
    :raises ValueError: if a number is out of its range
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

    def session(self, turn: Turn[Event]) -> "_ConcurrentSession":
        """Begin a run."""
        return _ConcurrentSession(turn, self)


class _ConcurrentSession:
    def __init__(self, turn: Turn[Event], consumer: ConcurrentConsumer) -> None:
        self._turn = turn
        self._window = consumer.window
        self._ordered_by = consumer.ordered_by
        self._free = anyio.Semaphore(consumer.limit, fast_acquire=True)
        # The events of each key that a task works on, but for the one in flight.
        self._queues: dict[Hashable, deque[tuple[Event, int]]] = {}
        self._progress: anyio.Event | None = None

    async def consume(self, event: Event) -> None:
        while self._turn.unfinished >= self._window:
            await self._next_progress()
        ticket = self._turn.begin(event)
        key = ticket if self._ordered_by is None else self._ordered_by(event)
        if key in self._queues:
            self._queues[key].append((event, ticket))
            return
        await self._free.acquire()
        self._queues[key] = deque([(event, ticket)])
        self._turn.start(self._work_off, key)

    async def finish(self) -> None:
        while self._queues:
            await self._next_progress()

    async def _work_off(self, key: Hashable) -> None:
        queue = self._queues[key]
        while queue:
            event, ticket = queue.popleft()
            await self._turn.handle(event, (event,))
            await self._turn.finish(ticket)
            self._progressed()
        del self._queues[key]
        self._free.release()
        self._progressed()

    async def _next_progress(self) -> None:
        self._progress = anyio.Event()
        await self._progress.wait()

    def _progressed(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None
