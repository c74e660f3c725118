"""What the consumers have in common that let an event go which fails again and again."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Unpack

from reflex_aio.checks import check_count
from reflex_aio.consumer import Consumer, ConsumerOptions, Handler
from reflex_aio.event import Event
from reflex_aio.tasks import pending_cancellations

__all__ = ["GivingUpConsumer"]


class GivingUpConsumer(Consumer, ABC):
    """Ends its run with the first ``retries`` errors on an event, and gives it up with the next.

    So it is ``run_forever`` that tries again. The errors are counted in memory, after a restart of the process from
    none; unless the spec has ``attempts``, where the count is kept.
    """

    def __init__(
        self, name: str, handler: Handler, *, retries: int, **options: Unpack[ConsumerOptions[Event]]
    ) -> None:
        super().__init__(name, handler, **options)
        self.retries: int = check_count("retries", retries, least=0)
        self._failing = ""
        self._errors = 0
        self._kept: Mapping[str, int] = {}

    @abstractmethod
    async def give_up(self, event: Event, error: Exception) -> None:
        """Let ``event`` go, after this last error; it counts as consumed when this returns."""

    def restore_attempts(self, attempts: Mapping[str, int]) -> None:
        """Go on counting from these errors."""
        self._kept = attempts

    async def consume(self, item: Event) -> None:
        """Hand the event to the handler, and give it up if that has failed too often."""
        pending_before = pending_cancellations()
        try:
            await super().consume(item)
        except Exception as exc:
            # A failed clean-up may have taken the place of a cancellation, which counts for nothing.
            if pending_cancellations() > pending_before or not self._used_up(item):
                raise
            await self.give_up(item, exc)
        self._failing, self._errors = "", 0

    def _used_up(self, event: Event) -> bool:
        if self._failing != event.id:
            self._failing, self._errors = event.id, 0
        # Others may have counted meanwhile; or what is kept could not be written.
        self._errors = max(self._errors, self._kept.get(event.id, 0)) + 1
        return self._errors > self.retries
