"""Which ids can never appear any more: the bookkeeping that decides it on PostgreSQL, without a database.

``nextval`` takes a lock on the sequence that its transaction holds to the end, before anyone knows the id. So an id
that was drawn before a scan of these locks is either visible to every later statement, lost for ever, or owned by one
of the holders that the scan lists. What remains is to tell which ids a holder can own, and to keep to those below.
"""

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Holder", "Horizon"]


class Holder(NamedTuple):
    """A transaction that holds the sequence's lock.

    ``key`` is its virtual transaction id: ``PREPARE TRANSACTION`` keeps it, and empties only ``pid``. In the moment of
    commit it can read ``N/0``, which is harmless: a holder more.
    """

    key: str
    pid: int | None

    @property
    def prepared(self) -> bool:
        """Whether the transaction is prepared, waiting for COMMIT PREPARED."""
        return self.pid is None


class Horizon:
    """For each holder, a lower bound of the ids that it can own; and so the ids that are resolved.

    To be fed with every scan, in the order in which they were made. After an error or a reconnect there may be holders
    that no scan saw begin: start anew.
    """

    def __init__(self) -> None:
        self._bounds: dict[str, int] = {}
        self._highest: int | None = None
        self.resolved = 0

    def scanned(self, top: int, holders: Iterable[Holder]) -> bool:
        """Take in a scan: the greatest id that was visible before it listed the holders.

        Ids up to ``resolved`` are then resolved: a statement that begins after this sees all of them that will ever be.

        :param top: may have been seen at any time before, as its row may have been deleted since; but no later
        :return: whether anything has changed since the scan before
        """
        before, highest = self._bounds, self._highest
        self._bounds = {holder.key: self._bound(holder, before, highest) for holder in holders}
        # A top that is lower than before means that the newest rows were deleted; their ids stay drawn.
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
            # The lock table isn't read in one instant, and a PREPARE in the middle of it can hide a holder from one
            # scan: this may be any of those before, those that seemed to have ended included.
            return min(highest, *before.values()) if before else highest
        # It held nothing when the scan before was made, so that it draws ids above those drawn by then.
        return highest
