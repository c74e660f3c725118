"""When to look for events that nothing tells of."""

import math

__all__ = ["Polling"]

# The share of a pause that its end may go unnoticed.
_SHARE = 0.1


class Polling:
    """How long a reader waits before it looks again. Pure: it is told the time, in seconds of any clock.

    While events flow it is the floor. The longer nothing has happened, the longer it is: an event that comes after a
    pause is found within a tenth of that pause, and an idle table is asked once in a ceiling. With the floor at the
    ceiling that is always the period, as where wake-ups tell of events and polling is the safety net alone.

    :param floor: the shortest period, in seconds; no more than the ceiling counts
    :param ceiling: the longest period, in seconds
    """

    def __init__(self, *, floor: float, ceiling: float) -> None:
        self._floor, self._ceiling = min(floor, ceiling), ceiling
        self._happened_at = -math.inf

    def happened(self, now: float) -> None:
        """Tell that there were new events, or a wake-up."""
        self._happened_at = now

    def period(self, now: float) -> float:
        """Return how long to wait from ``now``, in seconds."""
        return min(self._ceiling, max(self._floor, (now - self._happened_at) * _SHARE))
