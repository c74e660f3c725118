"""MySQL and MariaDB: which of the ids in a range nobody has inserted, told from what two reads have seen.

The first read is a *peek*: it sees rows that aren't committed too. The second sees what is committed. A row that only
the peek has seen is in flight, or was rolled back in between. The other way round, each row that is committed between
the two would look as if it were in flight, and all that is behind it would have to wait for another round.
"""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

__all__ = ["Missing", "missing_ids"]


class Missing(NamedTuple):
    """What is to be done about a range of ids."""

    ids: Sequence[int]
    """The least of the ids that nobody has inserted, below ``end``."""
    total: int
    """How many these are altogether."""
    end: int
    """The last id that was looked at, or the one before the first in flight."""
    in_flight: int | None
    """The first id in flight, if there is one."""


def missing_ids(
    first: int, last: int, *, peeked: Sequence[int], committed: Sequence[int], limit: int, most: int
) -> Missing:
    """Return which of the ids from ``first`` to ``last`` are missing, up to the first in flight.

    Beyond that there may be further ids of the same transaction, which it has drawn and not inserted yet.

    :param peeked: the ids in this range that the peek has seen, in order
    :param committed: those that the read after it has seen, in order
    :param limit: how many ids each of the two returns at most: what lies beyond the last of so many wasn't looked at
    :param most: how many missing ids to return at most
    """
    end = min([last, *(seen[-1] for seen in (peeked, committed) if len(seen) >= limit)])
    there = set(committed)
    in_flight = next((each for each in peeked if each <= end and each not in there), None)
    if in_flight is not None:
        end = in_flight - 1
    total = max(0, end - first + 1 - sum(1 for each in committed if first <= each <= end))
    ids = list(islice((each for each in range(first, end + 1) if each not in there), min(most, total)))
    return Missing(ids, total, end, in_flight)
