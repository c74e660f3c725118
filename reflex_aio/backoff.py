"""Exponential backoff: the delays before retries, and the news that a service answers again."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import anyio
from anyio.lowlevel import RunVar

__all__ = ["Backoff", "next_answer", "report_answer"]

# Set at the next answer of a service in this event loop; None if nobody waits for it.
_answered: RunVar[anyio.Event | None] = RunVar("reflex_aio_answered", None)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with equal jitter: each delay is between half of its bound and the bound.

    Half of the bound is guaranteed, so that a run of short delays never overloads a service that is down.
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    :param initial: first bound, in seconds
    :param maximum: greatest bound, in seconds
    :param factor: growth of the bound from one delay to the next
    :raises ValueError: if a value is out of range
    """

    initial: float = 0.1
    maximum: float = 30.0
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.maximum < math.inf:
            raise ValueError(
                f"initial={self.initial}, maximum={self.maximum}: accepted is 0 < initial <= maximum < inf"
            )
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"factor {self.factor} is out of range: accepted is 1 <= factor < inf")

    def delays(self) -> Iterator[float]:
        """Yield the delays before the second try, the third and so on, in seconds, without end."""
        for failures in itertools.count(1):
            yield self.delay(failures)

    def delay(self, failures: int) -> float:
        """Return the delay after ``failures`` failures, in seconds.

        :param failures: at least 1
        """
        # Compare logarithms first: after thousands of failures the power would overflow.
        steps = failures - 1
        if steps * math.log(self.factor) >= math.log(self.maximum / self.initial):
            bound = self.maximum
        else:
            bound = self.initial * self.factor**steps
        return random.uniform(bound / 2, bound)


def report_answer() -> None:
    """End all calls of :func:`next_answer` in this event loop: a service has answered."""
    answered = _answered.get()
    if answered is not None:
        _answered.set(None)
        answered.set()


async def next_answer() -> None:
    """Wait until a service has answered another caller in this event loop."""
    answered = _answered.get()
    if answered is None:
        answered = anyio.Event()
        _answered.set(answered)
    await answered.wait()
