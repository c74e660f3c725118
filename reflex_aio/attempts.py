"""Failed attempts at handling events, kept across restarts: the interface of attempt stores."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from reflex_aio.checks import check_seconds, check_text

__all__ = ["AttemptStore", "Attempts", "check_attempt"]

# A year, in seconds.
_LONGEST_DELAY = 366 * 86_400


@dataclass(frozen=True, slots=True)
class Attempts:
    """A consumer's failed attempts at one event."""

    count: int
    """The number of failed attempts."""
    seconds_left: float
    """The time until the next attempt is due, in seconds by the store's clock; negative if it is overdue."""


class AttemptStore(ABC):
    """Keeps, for each consumer, the failed attempts at events that it hasn't consumed yet.

    Only the store's own clock counts: the process that reads an attempt may not be the one that recorded it.
    """

    @abstractmethod
    async def get(self, consumer: str) -> Mapping[str, Attempts]:
        """Return the failed attempts of the consumer by event id; empty if there are none."""

    @abstractmethod
    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        """Count one more failed attempt at an event.

        :param delay: time until the next attempt is due, in seconds
        """

    @abstractmethod
    async def clear(self, consumer: str, event_id: str) -> None:
        """Delete the attempts at an event. Does nothing if there are none."""


def check_attempt(consumer: str, event_id: str, delay: float = 0.0) -> None:
    """Check the arguments of :meth:`AttemptStore.record`.

    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of range, or a database cannot store it
    """
    check_text("consumer name", consumer)
    check_text("event id", event_id)
    check_seconds("delay", delay, zero=True, most=_LONGEST_DELAY)
