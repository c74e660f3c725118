"""Failed attempts at events, kept for longer than the process that made them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["AttemptStore", "Attempts", "check_attempt"]

# A year, in seconds.
_LONGEST_DELAY = 366 * 86_400


@dataclass(frozen=True, slots=True)
class Attempts:
    """What a store knows of a consumer's failed attempts at one event."""

    count: int
    """How many there were."""
    seconds_left: float
    """When the next one is due, in seconds from now by the store's clock; negative if it is overdue."""


@runtime_checkable
class AttemptStore(Protocol):
    """Keeps how often each consumer has failed on events that it hasn't consumed yet, and when to try again.

    What time it is, the store tells: those who ask may be other processes than those who have told.
    """

    async def get(self, consumer: str) -> Mapping[str, Attempts]:
        """Return the failed attempts of the consumer by event id; empty if there are none."""
        ...

    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        """Count one more failed attempt at an event. The next one is due in ``delay`` seconds from now."""
        ...

    async def clear(self, consumer: str, event_id: str) -> None:
        """Forget the attempts at an event. Does nothing if there are none."""
        ...


def check_attempt(consumer: str, event_id: str, delay: float = 0.0) -> None:
    """Check that an attempt can be stored.

    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of its range, or holds what a database can't
    """
    for what, text in (("consumer name", consumer), ("event id", event_id)):
        if not isinstance(text, str):
            raise TypeError(f"{what} {text!r} is a {type(text).__name__}: accepted is a str")
        if not text or "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(
                f"{what} {text!r} is not accepted: it is empty, or holds a NUL or a lone surrogate"
            )
    if isinstance(delay, bool) or not isinstance(delay, (int, float)):
        raise TypeError(
            f"delay {delay!r} is a {type(delay).__name__}: accepted is a number of seconds from 0"
        )
    if not 0 <= delay <= _LONGEST_DELAY:
        raise ValueError(
            f"delay {delay} is out of range: accepted is a number of seconds from 0 to {_LONGEST_DELAY}"
        )
