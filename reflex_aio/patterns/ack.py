"""A consumer whose handler acknowledges events, in order or several at once."""

from typing import Unpack

from reflex_aio.consumer import ConsumerOptions, HandlerOf
from reflex_aio.event import Event
from reflex_aio.running.manual_commit import ManualCommitConsumer, RunContext

__all__ = ["AckConsumer", "AckEvent"]


class AckEvent:
    """An event that is consumed when it is acknowledged."""

    __slots__ = ("_context", "_ticket", "event")

    def __init__(self, event: Event, ticket: int, context: "RunContext[AckEvent]") -> None:
        self.event: Event = event
        self._ticket = ticket
        self._context = context

    def __repr__(self) -> str:
        return f"AckEvent({self.event!r})"

    async def ack(self) -> None:
        """Commit the cursor of this event: it and all events before it are consumed.

        Does nothing if a later event was acknowledged before.

        :raises StreamClosed: if the run that delivered the event has ended; the event will be delivered again
        """
        await self._context.finish_through(self._ticket)


class AckConsumer(ManualCommitConsumer[AckEvent]):
    """Consumes events one after the other, and commits the cursor of an event when it is acknowledged.

    The handler may return before it acknowledges an event, and gets the next event then. It may, for example,
    acknowledge the last of several events, or from another task. Events that are not acknowledged when the run ends are
    delivered again.

    :param handler: an async function of an :class:`AckEvent`
    :param options: those of :class:`~reflex_aio.consumer.Consumer`
    """

    def __init__(
        self, name: str, handler: HandlerOf[AckEvent], **options: Unpack[ConsumerOptions[AckEvent]]
    ) -> None:
        super().__init__(name, handler, **options)

    def processor(self, context: RunContext[AckEvent]) -> "_AckProcessor":
        """Return the processor of a new run."""
        return _AckProcessor(context)


class _AckProcessor:
    def __init__(self, context: RunContext[AckEvent]) -> None:
        self._context = context

    async def process(self, event: Event) -> None:
        ticket = self._context.begin(event)
        await self._context.handle(AckEvent(event, ticket, self._context), (event,))

    async def drain(self) -> None:
        """Return at once: events that are not acknowledged by now are delivered again."""
