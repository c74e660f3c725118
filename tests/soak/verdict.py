"""What a soak test has shown: deliveries, stalls after faults, and growth."""

import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class Delivery:
    """What one consumer was given."""

    consumer: str
    expected: int
    missed: int
    doubled: int
    """Deliveries of events that had been delivered before."""
    disordered: int
    """Events whose first delivery came after that of a later event."""
    foreign: int
    """Events that were delivered, and never committed, or belong to another shard."""
    stall: float
    """The longest time without an effect after the end of a fault, in seconds."""
    stalled_by: str
    """The name of that fault."""
    exactly_once: bool

    @property
    def right(self) -> bool:
        return not (self.missed or self.disordered or self.foreign or (self.exactly_once and self.doubled))


def delivery(
    consumer: str,
    expected: set[int],
    effects: Sequence[tuple[int, float]],
    faults: Sequence[tuple[float, float, str]],
    *,
    exactly_once: bool,
) -> Delivery:
    """Compare the effects of a consumer with the events that it should have been given.

    :param effects: event ids and times, in the order of their effects
    :param faults: beginning, end and name of each, in order
    """
    first: dict[int, None] = {}
    for event_id, _ in effects:
        first.setdefault(event_id)
    order = list(first)
    greatest, disordered = 0, 0
    for event_id in order:
        disordered += event_id < greatest
        greatest = max(greatest, event_id)
    stall, stalled_by = longest_stall([at for _, at in effects], [(end, name) for _, end, name in faults])
    return Delivery(
        consumer,
        len(expected),
        len(expected - first.keys()),
        len(effects) - len(first),
        disordered,
        len(first.keys() - expected),
        stall,
        stalled_by,
        exactly_once,
    )


def longest_stall(times: Sequence[float], ends: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """Return the longest time from the end of a fault to the next effect, over all faults, and the fault's name.

    Faults that follow before that effect do not count anew: a consumer that stands still over several of them has
    stood still since the first.
    """
    times = sorted(times)
    longest = 0.0, ""
    for before, after in pairwise(times):
        ended = bisect_right(ends, (before, ""))
        if ended < len(ends) and ends[ended][0] < after:
            end, name = ends[ended]
            longest = max(longest, (after - end, name))
    return longest


@dataclass
class Growth:
    """One measure of one kind of process over time.

    :param factor: by how much it may grow, as a factor, and
    :param summand: added to that
    """

    name: str
    factor: float
    summand: float
    values: list[float] = field(default_factory=list)

    @property
    def early(self) -> float:
        quarter = len(self.values) // 4
        return statistics.median(self.values[quarter : 2 * quarter] or self.values or [0.0])

    @property
    def late(self) -> float:
        return statistics.median(self.values[-(len(self.values) // 4) :] or self.values or [0.0])

    @property
    def right(self) -> bool:
        return self.late <= self.early * self.factor + self.summand
