"""What a run knows of failed attempts at its consumer's events, and what it adds."""

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

__all__ = ["Attempting"]

logger = logging.getLogger(__name__)

# How long writing an attempt may take, in seconds.
_TIMEOUT = 10.0


class Attempting:
    """The failed attempts at a consumer's events, for one run of it.

    They are read when the run begins, and by nobody else meanwhile: a failure ends the run. So events that never failed
    cost nothing. What can't be written is logged, and raises nothing: it would take the place of the handler's error.

    :param backoff: how long to wait after which attempt
    """

    def __init__(self, consumer: BaseConsumer[Any], store: AttemptStore, backoff: Backoff) -> None:
        self._consumer = consumer
        self._store = store
        self._backoff = backoff
        self._attempts: dict[str, Attempts] = {}
        self._read_at = 0.0
        self._handled: list[str] = []
        self._failed: Event | None = None

    async def begin(self, cursor: str) -> None:
        """Read the attempts, and tell the consumer; forget those at events up to the run's cursor."""
        self._attempts = dict(await self._store.get(self._consumer.name))
        self._read_at = anyio.current_time()
        # Somebody has moved the cursor past them, or they could not be forgotten when they were consumed.
        self._handled = [event_id for event_id in self._attempts if _passed(event_id, cursor)]
        await self.forget_handled()
        self._consumer.restore_attempts(
            {event_id: attempts.count for event_id, attempts in self._attempts.items()}
        )

    def seconds_left(self, event: Event) -> float:
        """Return in how many seconds ``event`` is to be tried; negative, or 0, if it may be at once."""
        attempts = self._attempts.get(event.id)
        return 0.0 if attempts is None else self._read_at + attempts.seconds_left - anyio.current_time()

    def failed(self, event: Event) -> None:
        """Note that an attempt at ``event`` failed. What fails after it, fails because the run ends."""
        if self._failed is None:
            self._failed = event

    def handled(self, events: Sequence[Event]) -> bool:
        """Note that ``events`` are handled; tell whether there are attempts to be forgotten."""
        if self._attempts:
            self._handled += [event.id for event in events if event.id in self._attempts]
        return bool(self._handled)

    async def forget_handled(self) -> None:
        """Forget the attempts at events that are handled."""
        for event_id in list(self._handled):
            await self._write(self._store.clear(self._consumer.name, event_id), event_id)
            self._attempts.pop(event_id, None)
            # Another task may have done the same.
            with suppress(ValueError):
                self._handled.remove(event_id)

    async def end(self) -> None:
        """Write what isn't written yet. Raises nothing, and takes no longer than some seconds."""
        if self._failed is not None:
            event_id = self._failed.id
            before = self._attempts.get(event_id)
            delay = self._backoff.delay(1 if before is None else before.count + 1)
            await self._write(self._store.record(self._consumer.name, event_id, delay=delay), event_id)
        with anyio.move_on_after(_TIMEOUT):
            await self.forget_handled()

    async def _write(self, writing: Awaitable[None], event_id: str) -> None:
        try:
            with anyio.fail_after(_TIMEOUT):
                await writing
        except Exception:
            logger.exception(
                "consumer %s: the attempts at event %s could not be written", self._consumer.name, event_id
            )


def _passed(event_id: str, cursor: str) -> bool:
    return event_id == cursor or is_behind(event_id, cursor)
