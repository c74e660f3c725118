"""From the stream to the consumer: when an event is due, and who is told what comes of it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from reflex_aio.consumer import BaseConsumer
from reflex_aio.event import Event
from reflex_aio.hooks import Hooks
from reflex_aio.running.retry_state import Attempting
from reflex_aio.tasks import pending_cancellations

__all__ = ["Delivery", "NotDue"]

# How long to sleep at most before looking at the clock again, which may be set meanwhile, in seconds.
_LOOK = 1.0


class NotDue(Exception):
    """Ends a run that is to end, before an event that isn't due."""


class Delivery:
    """Hands events to a consumer during one run, no sooner than they are due, and tells the hooks.

    :param lag: how old an event has to be, in seconds
    :param clock: tells the time, in seconds since 1970
    :param attempting: what is known of failed attempts, where these are kept
    :param held: called before and after an event is waited for whose next attempt isn't due, with whether it is
    """

    def __init__(
        self,
        consumer: BaseConsumer[Any],
        hooks: Hooks,
        *,
        lag: float | None,
        clock: Callable[[], float],
        attempting: Attempting | None,
        held: Callable[[bool], None],
    ) -> None:
        self._consumer = consumer
        self._hooks = hooks
        self._lag = lag
        self._clock = clock
        self._attempting = attempting
        self._held = held
        self._ending = False
        self._waiting: anyio.CancelScope | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done around the handler. At a million events a second, telling the time costs as much."""
        return type(self._hooks) is Hooks and not self._lag and self._attempting is None

    def end(self) -> None:
        """Wait for no event any more that isn't due."""
        self._ending = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def deliver(self, event: Event) -> None:
        """Consume ``event`` once it is due.

        :raises NotDue: if the run is to end before that
        """
        await self.receive(event)
        if await self.handle(event, (event,)) and self._attempting is not None:
            await self._attempting.forget_handled()

    async def receive(self, event: Event) -> None:
        """Return when ``event`` is old enough, and its next attempt due, and tell the hooks that it is there.

        :raises NotDue: if the run is to end before that
        """
        # More than once: an event loop may end a sleep early, as uvloop does, by up to a millisecond.
        while self._lag and (early := event.timestamp_us / 1_000_000 + self._lag - self._clock()) > 0:
            await self._wait(min(early, _LOOK))
        if self._attempting is not None and (early := self._attempting.seconds_left(event)) > 0:
            self._held(True)
            await self._wait(early)
            self._held(False)
        self._hooks.event_received(self._consumer.name, event)

    async def _wait(self, seconds: float) -> None:
        if not self._ending:
            with anyio.CancelScope() as self._waiting:
                await anyio.sleep(seconds)
        if self._ending:
            raise NotDue

    async def handle(self, item: Any, events: Sequence[Event]) -> bool:
        """Consume ``item``, which is made of these events, and tell the hooks.

        :return: whether there are attempts to be forgotten
        """
        hooks, consumer = self._hooks, self._consumer
        with hooks.handling(consumer.name, events):
            began, pending_before = time.perf_counter(), pending_cancellations()
            try:
                await consumer.consume(item)
            except Exception as exc:
                # Of several the first, as that is where the cursor stays. A failed clean-up may have taken the place of
                # a cancellation, which is no attempt.
                if self._attempting is not None and pending_cancellations() == pending_before:
                    self._attempting.failed(events[0])
                hooks.event_failed(consumer.name, events[0], exc, time.perf_counter() - began)
                raise
            seconds = time.perf_counter() - began
            for event in events:
                hooks.event_handled(consumer.name, event, seconds)
        return self._attempting is not None and self._attempting.handled(events)
