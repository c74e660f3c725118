"""A consumer whose handler says itself when an event is consumed."""

from typing import Unpack

from reflex_aio.consumer import ConsumerOptions, HandlerOf
from reflex_aio.event import Event
from reflex_aio.running.manual_commit import SessionConsumer, Turn

__all__ = ["AckConsumer", "AckEvent"]


class AckEvent:
    """An event that moves the cursor when it is acknowledged."""

    __slots__ = ("_ticket", "_turn", "event")

    def __init__(self, event: Event, ticket: int, turn: "Turn[AckEvent]") -> None:
        self.event: Event = event
        self._ticket = ticket
        self._turn = turn

    def __repr__(self) -> str:
        return f"AckEvent({self.event!r})"

    async def ack(self) -> None:
        """Move the cursor to this event: it and all those before it are consumed.

        Does nothing if it is there or beyond, as a later event was acknowledged.

        :raises StreamClosed: if the run that handed over the event has ended; it will come again
        """
        await self._turn.finish_through(self._ticket)


class AckConsumer(SessionConsumer[AckEvent]):
    """Consumes events one after the other; the cursor moves when one of them is acknowledged.

    The handler may acknowledge an event later than it returns: the last one of several at once, say, or from
    another task. It gets the next event meanwhile. Those that aren't acknowledged when the run ends come again.

    :param handler: an async function of an :class:`AckEvent`
    :param options: as :class:`~reflex_aio.consumer.Consumer` takes them
    """

    def __init__(
        self, name: str, handler: HandlerOf[AckEvent], **options: Unpack[ConsumerOptions[AckEvent]]
    ) -> None:
        super().__init__(name, handler, **options)

    def session(self, turn: Turn[AckEvent]) -> "_AckSession":
        """Begin a run."""
        return _AckSession(turn)


class _AckSession:
    def __init__(self, turn: Turn[AckEvent]) -> None:
        self._turn = turn

    async def consume(self, event: Event) -> None:
        await self._turn.handle(AckEvent(event, self._turn.begin(event), self._turn), (event,))

    async def finish(self) -> None:
        """Return at once: what isn't acknowledged by now never will be."""
