"""A consumer that records what it can't consume."""

from typing import Protocol, Unpack, runtime_checkable

from reflex_aio.checks import check_instance
from reflex_aio.consumer import ConsumerOptions, Handler
from reflex_aio.event import Event
from reflex_aio.patterns.giving_up import GivingUpConsumer

__all__ = ["DeadLetterConsumer", "ErrorRecorder"]


@runtime_checkable
class ErrorRecorder(Protocol):
    """Keeps the errors of consumers, so that somebody may look at them. An errors table makes one."""

    async def record(self, *, consumer: str, event: Event, error: Exception) -> None:
        """Record that ``consumer`` failed on ``event``. It may have been recorded before."""
        ...


class DeadLetterConsumer(GivingUpConsumer):
    """Consumes events one after the other, and records one that has failed too often instead.

    The first ``retries`` errors on an event end the run, as with any consumer, and ``run_forever`` tries again,
    with its backoff. They are counted in memory, or where the spec keeps its
    ``attempts``. To try again in place, without ending the run, wrap the handler
    by :func:`~reflex_aio.patterns.retrying`. What the recorder raises ends the run too, with the cursor before the
    event.

    :param handler: an async function of an event
    :param recorder: where the errors are recorded, such as ``errors_table.recorder(pool)``
    :param retries: how many errors on one event end the run; the next one is recorded
    :param options: as :class:`~reflex_aio.consumer.Consumer` takes them
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
        super().__init__(name, handler, retries=retries, **options)
        check_instance(
            "recorder", recorder, ErrorRecorder, "an ErrorRecorder, such as errors_table.recorder(pool)"
        )
        self.recorder = recorder

    async def give_up(self, event: Event, error: Exception) -> None:
        """Record the error."""
        await self.recorder.record(consumer=self.name, event=event, error=error)
