"""Whether a consumer got what it should have got, worked out from what was committed and what was delivered."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class EventRow(NamedTuple):
    """An event, as far as it is compared."""

    id: int
    type: int
    foreign_id: str


class Delivery(NamedTuple):
    """An event that a process was handed."""

    process: int
    event: EventRow


@dataclass(frozen=True)
class Verdict:
    """What became of the committed events at one consumer."""

    consumer: str
    committed: int
    delivered: int
    """How many deliveries there were, repeated ones too."""
    distinct: int
    """How many different events were delivered."""
    missing: int
    """How many committed events were not delivered."""
    foreign: int
    """How many events were delivered that were never committed, or not like that."""
    in_order: bool
    """Whether each process got events in the order of their ids, and none was passed over by a restart."""
    at_head: bool
    """Whether the stored cursor is that of the last committed event."""

    @property
    def repeated(self) -> int:
        return self.delivered - self.distinct

    @property
    def passed(self) -> bool:
        return not self.missing and not self.foreign and self.in_order and self.at_head


def judge(
    consumer: str, committed: Sequence[EventRow], deliveries: Sequence[Delivery], cursor: str
) -> Verdict:
    """Return the verdict on a consumer.

    :param committed: the events that the table has, in the order of their ids
    :param deliveries: what the consumer recorded, in the order in which it did
    :param cursor: the consumer's stored cursor
    """
    expected, firsts = set(committed), list(dict.fromkeys(delivery.event for delivery in deliveries))
    by_process: dict[int, list[EventRow]] = {}
    for process, event in deliveries:
        by_process.setdefault(process, []).append(event)
    return Verdict(
        consumer=consumer,
        committed=len(expected),
        delivered=len(deliveries),
        distinct=len(firsts),
        missing=len(expected.difference(firsts)),
        foreign=len(set(firsts).difference(expected)),
        in_order=all(_rises(events) for events in (firsts, *by_process.values())),
        at_head=cursor == (str(committed[-1].id) if committed else ""),
    )


def _rises(events: Sequence[EventRow]) -> bool:
    return all(before.id < after.id for before, after in pairwise(events))
