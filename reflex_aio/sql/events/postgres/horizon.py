"""PostgreSQL: the horizon, up to which no missing id can appear any more. Bookkeeping without a database.

``nextval`` takes a lock on the sequence, which its transaction holds to its end, before the id is known. So an id that
was drawn before a scan of these locks is visible to every later statement, or lost for ever, or owned by one of the
holders that the scan lists. What remains is to bound the ids that each holder can own, and to stay below these bounds.
"""

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Holder", "Horizon"]


class Holder(NamedTuple):
    """A transaction that holds the sequence's lock.

    ``key`` is its virtual transaction id: ``PREPARE TRANSACTION`` keeps it, and only clears ``pid``. At the moment of
    its commit it can be read as ``N/0``, which is harmless: one holder more.
    """

    key: str
    pid: int | None

    @property
    def prepared(self) -> bool:
        """True if the transaction is prepared, and waits for COMMIT PREPARED."""
        return self.pid is None


class Horizon:
    """The resolved ids, from a lower bound of the ids that each holder can own.

    Every scan must be passed to it, in the order in which they were made. After an error or a reconnect, holders may
    have begun that no scan has seen: use a new object.
    """

    def __init__(self) -> None:
        self._bounds: dict[str, int] = {}
        self._highest: int | None = None
        self.resolved = 0
        """The id up to which every id is resolved."""

    def scanned(self, top: int, holders: Iterable[Holder]) -> bool:
        """Add a scan. A statement that begins after it sees all ids up to :attr:`resolved` that will ever be visible.

        :param top: the greatest id that was visible before the holders were listed. It may have been seen at any
            earlier time, as its row may have been deleted since, but at no later one
        :return: whether anything has changed since the last scan
        """
        before, highest = self._bounds, self._highest
        self._bounds = {holder.key: self._bound(holder, before, highest) for holder in holders}
        # If top has decreased, the newest rows were deleted; their ids remain drawn.
        self._highest = max(top, highest or 0)
        self.resolved = min(self._highest, *self._bounds.values()) if self._bounds else self._highest
        return self._bounds.keys() != before.keys() or self._highest != highest

    @staticmethod
    def _bound(holder: Holder, before: dict[str, int], highest: int | None) -> int:
        if highest is None:
            # It may have held the lock for any time: it can own any id.
            return 0
        if holder.key in before:
            return before[holder.key]
        if holder.prepared:
            # The lock table is not read atomically, and a PREPARE during the read can hide a holder from one scan. So
            # this may be any earlier holder, including those that seemed to have ended.
            return min(highest, *before.values()) if before else highest
        # It held nothing at the time of the last scan, so it draws ids above those that were drawn by then.
        return highest
