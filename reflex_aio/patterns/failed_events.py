"""A consumer that records events which fail again and again as dead letters, and continues after them."""

import logging
from collections.abc import Mapping
from typing import Protocol, Unpack, runtime_checkable

from reflex_aio.checks import check_count, check_instance
from reflex_aio.consumer import Consumer, ConsumerOptions, Handler
from reflex_aio.event import Event
from reflex_aio.tasks import pending_cancellations

__all__ = ["DeadLetterConsumer", "ErrorRecorder", "LogRecorder"]

logger = logging.getLogger(__name__)


@runtime_checkable
class ErrorRecorder(Protocol):
    """Records dead letters, in a table (``errors_table.recorder(pool)``) or in the log (:class:`LogRecorder`)."""

    async def record(self, *, consumer: str, event: Event, error: Exception) -> None:
        """Record that ``consumer`` failed on ``event``. The same failure may be recorded more than once."""
        ...


class LogRecorder:
    """Logs dead letters as errors, and stores them nowhere: the consumer skips these events."""

    async def record(self, *, consumer: str, event: Event, error: Exception) -> None:
        """Log the failure at level ERROR, with its traceback."""
        logger.error(
            "consumer %s skips event %s, on which it failed",
            consumer,
            event.id,
            exc_info=error,
            extra={"consumer": consumer, "event_id": event.id, "foreign_id": event.foreign_id},
        )


class DeadLetterConsumer(Consumer):
    """Consumes events one after the other. An event that has failed too often is recorded, and counts as consumed.

    The first ``retries`` errors on an event end the run, as with any consumer, and ``run_forever`` restarts it with its
    backoff. They are counted in memory, or in the attempt store if the spec has ``attempts``. To retry without ending
    the run, wrap the handler with :func:`~reflex_aio.patterns.retrying`. An error of the recorder ends the run too,
    with the cursor before the event.

    :param handler: an async function of an event
    :param recorder: where failures are recorded, such as ``errors_table.recorder(pool)`` or ``LogRecorder()``
    :param retries: number of errors on one event that end the run; the next error is recorded
    :param options: those of :class:`~reflex_aio.consumer.Consumer`
    :raises ValueError: if ``retries`` is negative
    :raises TypeError: if an argument has the wrong type
    """

    def __init__(
        self,
        name: str,
        handler: Handler,
        recorder: ErrorRecorder,
        *,
        retries: int,
        **options: Unpack[ConsumerOptions[Event]],
    ) -> None:
        super().__init__(name, handler, **options)
        check_instance(
            "recorder",
            recorder,
            ErrorRecorder,
            "an ErrorRecorder, such as errors_table.recorder(pool) or LogRecorder()",
        )
        self.recorder = recorder
        self.retries: int = check_count("retries", retries, least=0)
        self._failing = ""
        self._errors = 0
        self._stored: Mapping[str, int] = {}

    def restore_attempts(self, attempts: Mapping[str, int]) -> None:
        """Continue to count from these numbers of failed attempts."""
        self._stored = attempts

    async def consume(self, item: Event) -> None:
        """Call the handler with the event, and record the event if it has failed too often."""
        pending_before = pending_cancellations()
        try:
            await super().consume(item)
        except Exception as exc:
            # An error during clean-up may have replaced a cancellation, which is not a failed attempt.
            if pending_cancellations() > pending_before or not self._is_last_attempt(item):
                raise
            await self.recorder.record(consumer=self.name, event=item, error=exc)
        self._failing, self._errors = "", 0

    def _is_last_attempt(self, event: Event) -> bool:
        if self._failing != event.id:
            self._failing, self._errors = event.id, 0
        # The stored number may be greater, if another process counted too, or less, if it could not be written.
        self._errors = max(self._errors, self._stored.get(event.id, 0)) + 1
        return self._errors > self.retries
