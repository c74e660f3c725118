"""A consumer that skips what it can't consume."""

import logging
from typing import Unpack

from reflex_aio.consumer import ConsumerOptions, Handler
from reflex_aio.event import Event
from reflex_aio.patterns.giving_up import GivingUpConsumer

__all__ = ["BestEffortConsumer"]

logger = logging.getLogger(__name__)


class BestEffortConsumer(GivingUpConsumer):
    """Consumes events one after the other, and skips one that has failed too often: that is logged as an error.

    The first ``retries`` errors on an event end the run, as with any consumer, and ``run_forever`` tries again,
    with its backoff. They are counted in memory, or where the spec keeps its
    ``attempts``. To try again in place, without ending the run, wrap the handler
    by :func:`~reflex_aio.patterns.retrying`.

    :param handler: an async function of an event
    :param retries: how many errors on one event end the run; the next one skips the event
    :param options: as :class:`~reflex_aio.consumer.Consumer` takes them
    :raises ValueError: if ``retries`` is negative
    """

    def __init__(
        self, name: str, handler: Handler, *, retries: int, **options: Unpack[ConsumerOptions[Event]]
    ) -> None:
        super().__init__(name, handler, retries=retries, **options)

    async def give_up(self, event: Event, error: Exception) -> None:
        """Say in the log that ``event`` is skipped."""
        logger.error(
            "consumer %s skips event %s, which it can't consume", self.name, event.id, exc_info=error
        )
