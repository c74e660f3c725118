"""Delivers events to the consumer when they are due, and reports the outcome to hooks."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio

from reflex_aio.consumer import BaseConsumer
from reflex_aio.event import Event
from reflex_aio.hooks import Hooks
from reflex_aio.running.retry_state import RetryState
from reflex_aio.tasks import pending_cancellations

__all__ = ["Delivery", "NotDue"]

# The longest sleep before the clock is read again, since it may be set in the meantime. In seconds.
_CLOCK_PERIOD = 1.0


class NotDue(Exception):
    """Ends a run that is draining, before an event that is not due."""


class Delivery:
    """Delivers events to a consumer during one run, each no sooner than it is due, and calls the hooks.

    :param lag: minimum age of an event, in seconds
    :param clock: returns the time, in seconds since 1970
    :param retry_state: failed attempts; ``None`` if they are not stored
    :param delayed: called with ``True`` before waiting for an event's next attempt, and with ``False`` afterwards
    """

    def __init__(
        self,
        consumer: BaseConsumer[Any],
        hooks: Hooks,
        *,
        lag: float | None,
        clock: Callable[[], float],
        retry_state: RetryState | None,
        delayed: Callable[[bool], None],
    ) -> None:
        self._consumer = consumer
        self._hooks = hooks
        self._lag = lag
        self._clock = clock
        self._retry_state = retry_state
        self._delayed = delayed
        self._ending = False
        self._waiting: anyio.CancelScope | None = None

    @property
    def is_plain(self) -> bool:
        """True if nothing is done around the handler. At a million events a second, reading the clock costs as much."""
        return type(self._hooks) is Hooks and not self._lag and self._retry_state is None

    def end(self) -> None:
        """Stop waiting for events that are not due."""
        self._ending = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def deliver(self, event: Event) -> None:
        """Wait until ``event`` is due, and consume it.

        :raises NotDue: if the run ends before the event is due
        """
        await self.receive(event)
        if await self.handle(event, (event,)) and self._retry_state is not None:
            await self._retry_state.clear_handled()

    async def receive(self, event: Event) -> None:
        """Wait until ``event`` is old enough and its next attempt is due, and report it to the hooks.

        :raises NotDue: if the run ends before the event is due
        """
        # A loop, because an event loop may end a sleep early: uvloop does so by up to a millisecond.
        while self._lag and (early := event.timestamp_us / 1_000_000 + self._lag - self._clock()) > 0:
            await self._wait(min(early, _CLOCK_PERIOD))
        if self._retry_state is not None and (early := self._retry_state.seconds_left(event)) > 0:
            self._delayed(True)
            await self._wait(early)
            self._delayed(False)
        self._hooks.event_received(self._consumer.name, event)

    async def _wait(self, seconds: float) -> None:
        if not self._ending:
            with anyio.CancelScope() as self._waiting:
                await anyio.sleep(seconds)
        if self._ending:
            raise NotDue

    async def handle(self, item: Any, events: Sequence[Event]) -> bool:
        """Consume ``item``, which is made of ``events``, and report the outcome to the hooks.

        :return: whether there are attempts to delete
        """
        hooks, consumer = self._hooks, self._consumer
        with hooks.handling(consumer.name, events):
            began, pending_before = time.perf_counter(), pending_cancellations()
            try:
                await consumer.consume(item)
            except Exception as exc:
                # Of a batch, the first event counts, since the cursor stays there. An error during clean-up may have
                # replaced a cancellation, which is not a failed attempt.
                if self._retry_state is not None and pending_cancellations() == pending_before:
                    self._retry_state.mark_failed(events[0])
                hooks.event_failed(consumer.name, events[0], exc, time.perf_counter() - began)
                raise
            seconds = time.perf_counter() - began
            for event in events:
                hooks.event_handled(consumer.name, event, seconds)
        return self._retry_state is not None and self._retry_state.mark_handled(events)
