"""The failed attempts that a run restores from an attempt store, and those that it adds."""

import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any

import anyio

from reflex_aio.attempts import Attempts, AttemptStore
from reflex_aio.backoff import Backoff
from reflex_aio.consumer import BaseConsumer
from reflex_aio.cursor import is_behind
from reflex_aio.event import Event

__all__ = ["RetryState"]

logger = logging.getLogger(__name__)

# How long a write to the attempt store may take, in seconds.
_TIMEOUT = 10.0


class RetryState:
    """The failed attempts at a consumer's events during one run.

    They are read once, at the start: a failure ends the run, so events that never failed cost nothing. Errors of the
    attempt store's writes are logged and not raised, since they would replace the handler's error.

    :param backoff: delays between attempts
    """

    def __init__(self, consumer: BaseConsumer[Any], store: AttemptStore, backoff: Backoff) -> None:
        self._consumer = consumer
        self._store = store
        self._backoff = backoff
        self._attempts: dict[str, Attempts] = {}
        self._read_at = 0.0
        # Events that were handled, and whose attempts are still stored.
        self._handled: list[str] = []
        self._failed: Event | None = None

    async def load(self, cursor: str) -> None:
        """Read the attempts and pass their numbers to the consumer. Delete those at events up to the run's cursor."""
        self._attempts = dict(await self._store.get(self._consumer.name))
        self._read_at = anyio.current_time()
        # The cursor was moved past these events by hand, or their attempts could not be deleted when they were handled.
        self._handled = [event_id for event_id in self._attempts if _is_passed(event_id, cursor)]
        await self.clear_handled()
        self._consumer.restore_attempts(
            {event_id: attempts.count for event_id, attempts in self._attempts.items()}
        )

    def seconds_left(self, event: Event) -> float:
        """Return the time until the next attempt at ``event`` is due, in seconds; 0 or less if it is due."""
        attempts = self._attempts.get(event.id)
        return 0.0 if attempts is None else self._read_at + attempts.seconds_left - anyio.current_time()

    def mark_failed(self, event: Event) -> None:
        """Record that an attempt at ``event`` failed. Later failures are ignored: the end of the run causes them."""
        if self._failed is None:
            self._failed = event

    def mark_handled(self, events: Sequence[Event]) -> bool:
        """Record that ``events`` were handled. Return whether there are attempts to delete."""
        if self._attempts:
            self._handled += [event.id for event in events if event.id in self._attempts]
        return bool(self._handled)

    async def clear_handled(self) -> None:
        """Delete the attempts at events that were handled."""
        for event_id in list(self._handled):
            await self._write(self._store.clear(self._consumer.name, event_id), event_id)
            self._attempts.pop(event_id, None)
            # Another task may have removed it.
            with suppress(ValueError):
                self._handled.remove(event_id)

    async def save(self) -> None:
        """Write the outcome of the run's attempts. Raises nothing, and is limited in time."""
        if self._failed is not None:
            event_id = self._failed.id
            before = self._attempts.get(event_id)
            delay = self._backoff.delay(1 if before is None else before.count + 1)
            await self._write(self._store.record(self._consumer.name, event_id, delay=delay), event_id)
        with anyio.move_on_after(_TIMEOUT):
            await self.clear_handled()

    async def _write(self, writing: Awaitable[None], event_id: str) -> None:
        try:
            with anyio.fail_after(_TIMEOUT):
                await writing
        except Exception:
            logger.exception(
                "consumer %s: could not write the attempts at event %s",
                self._consumer.name,
                event_id,
                extra={"consumer": self._consumer.name, "event_id": event_id},
            )


def _is_passed(event_id: str, cursor: str) -> bool:
    return event_id == cursor or is_behind(event_id, cursor)
