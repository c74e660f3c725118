"""A consumer of each kind, which writes down what its handler has finished."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest
from anyio.lowlevel import checkpoint

from reflex_aio import Consumer, Event
from reflex_aio.consumer import BaseConsumer
from reflex_aio.memory import MemoryEvents
from reflex_aio.patterns import AckConsumer, AckEvent, BatchConsumer, ConcurrentConsumer

__all__ = ["Handling", "each_consumer", "some"]

# Called with an event before it counts as finished.
Before: TypeAlias = Callable[[Event], Any]


class Handling:
    """Handlers for each kind of consumer, which wait before and after, and what they have finished.

    :param before: called with each event; what it returns is awaited, unless it is ``None``
    """

    def __init__(self, before: Before = lambda event: None) -> None:
        self.before = before
        self.finished: list[int] = []

    async def one(self, event: Event) -> None:
        await checkpoint()
        if (wait := self.before(event)) is not None:
            await wait
        self.finished.append(int(event.id))
        await checkpoint()

    async def ack(self, event: AckEvent) -> None:
        await self.one(event.event)
        await event.ack()

    async def batch(self, events: Sequence[Event]) -> None:
        await checkpoint()
        for event in events:
            if (wait := self.before(event)) is not None:
                await wait
        self.finished += [int(event.id) for event in events]
        await checkpoint()


def by_parity(event: Event) -> int:
    return int(event.id) % 2


MAKE: dict[str, Callable[..., BaseConsumer[Any]]] = {
    "plain": lambda handling, **options: Consumer("c", handling.one, **options),
    "ack": lambda handling, **options: AckConsumer("c", handling.ack, **options),
    "batch": lambda handling, **options: BatchConsumer("c", handling.batch, size=2, **options),
    "aged-batch": lambda handling, **options: BatchConsumer("c", handling.batch, age=5.0, **options),
    "concurrent": lambda handling, **options: ConcurrentConsumer("c", handling.one, limit=3, **options),
    "ordered": lambda handling, **options: ConcurrentConsumer(
        "c", handling.one, limit=2, ordered_by=by_parity, **options
    ),
}

each_consumer = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


async def some(count: int) -> MemoryEvents:
    source = MemoryEvents()
    for number in range(1, count + 1):
        await source.insert(number, 1)
    return source
