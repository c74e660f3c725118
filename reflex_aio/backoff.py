"""How long to wait before the next try."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with equal jitter: each delay is between half of its bound and the bound.

    Half of the bound is kept, so that a service that is down is never hammered by a run of short delays.
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    :param initial: the first bound, in seconds
    :param maximum: the greatest bound, in seconds
    :param factor: how much a bound is longer than the one before
    :raises ValueError: if a value is out of its range
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
        """Return how long to wait after so many failures, in seconds.

        :param failures: at least 1
        """
        # By logarithms first: of thousands of failures the power would overflow.
        steps = failures - 1
        if steps * math.log(self.factor) >= math.log(self.maximum / self.initial):
            bound = self.maximum
        else:
            bound = self.initial * self.factor**steps
        return random.uniform(bound / 2, bound)
