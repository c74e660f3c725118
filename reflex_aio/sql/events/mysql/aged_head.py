"""MySQL and MariaDB: which ids were drawn long enough ago that their writers ought to have inserted them."""

from collections import deque

__all__ = ["AgedHead"]

# How far apart the ids that are kept were seen at least, in seconds: a dozen of them are as good as all.
_STEP = 0.01


class AgedHead:
    """The greatest id that had been seen a while ago.

    Every id below it had been drawn by then. It moves on with what is seen, however many gaps open meanwhile: a timer
    for each gap, or each page, would start anew with every gap.

    :param age: how long ago, in seconds
    """

    def __init__(self, age: float) -> None:
        self._age = age
        # What was seen and when, both rising; of those that are old enough only the last is kept.
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, id: int, now: float) -> None:
        """Take in that there is a row of this id. ``now`` never goes back, in seconds."""
        if self._seen and (id <= self._seen[-1][1] or now - self._seen[-1][0] < _STEP):
            return
        self._seen.append((now, id))
        self._drop(now)

    def at(self, now: float) -> int:
        """Return the greatest id seen at least ``age`` before ``now``; 0 if none was."""
        self._drop(now)
        return self._seen[0][1] if self._seen and self._is_old(self._seen[0], now) else 0

    def due(self, position: int, now: float) -> float | None:
        """Return in how many seconds an id above ``position`` will be old enough; ``None`` if none was seen yet."""
        for at, seen in self._seen:
            if seen > position:
                return max(0.0, at + self._age - now)
        return None

    def forget(self) -> None:
        """Start anew, after any error: the ids may be another server's."""
        self._seen.clear()

    def _drop(self, now: float) -> None:
        while len(self._seen) > 1 and self._is_old(self._seen[1], now):
            self._seen.popleft()

    def _is_old(self, seen: tuple[float, int], now: float) -> bool:
        return now - seen[0] >= self._age
