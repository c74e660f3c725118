"""The verdict on a consumer: a comparison of the committed events with the recorded deliveries."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class EventRow(NamedTuple):
    """The compared columns of an event."""

    id: int
    type: int
    foreign_id: str


class Delivery(NamedTuple):
    """The delivery of an event to a process."""

    process: int
    event: EventRow


@dataclass(frozen=True)
class Verdict:
    """The result of the comparison for one consumer."""

    consumer: str
    committed: int
    delivered: int
    """The number of deliveries, repeated ones included."""
    distinct: int
    """The number of different events that were delivered."""
    missing: int
    """The number of committed events that were not delivered."""
    foreign: int
    """The number of delivered events that were not committed, or not with these values."""
    in_order: bool
    """True if each process received events in the order of their ids, and no restart skipped one."""
    at_head: bool
    """True if the stored cursor is the id of the last committed event."""

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

    :param committed: the events in the table, in the order of their ids
    :param deliveries: the deliveries that the consumer recorded, in their order
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
        in_order=all(_is_increasing(events) for events in (firsts, *by_process.values())),
        at_head=cursor == (str(committed[-1].id) if committed else ""),
    )


def _is_increasing(events: Sequence[EventRow]) -> bool:
    return all(before.id < after.id for before, after in pairwise(events))
