"""Attempt stores with one fault each."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from anyio.lowlevel import checkpoint

from reflex_aio import Attempts, AttemptStore
from reflex_aio.memory import MemoryAttemptStore

FaultyAttempts = Callable[[], AbstractAsyncContextManager[AttemptStore]]

ATTEMPT_FAULTS: list[tuple[str, FaultyAttempts]] = []


def caught_by(rule: str) -> Callable[[Any], Any]:
    """Add a fault, and the rule that has to tell of it."""

    def add(kind: Any) -> Any:
        @asynccontextmanager
        async def make() -> AsyncIterator[AttemptStore]:
            yield kind()

        make.__name__ = kind.__name__
        ATTEMPT_FAULTS.append((rule, make))
        return kind

    return add


@caught_by("store_is_an_attempt_store")
class HasNoClear:
    def __init__(self) -> None:
        store = MemoryAttemptStore()
        self.get, self.record = store.get, store.record


@caught_by("attempts_are_counted")
class CountsToOne(MemoryAttemptStore):
    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        await self.clear(consumer, event_id)
        await super().record(consumer, event_id, delay=delay)


@caught_by("next_attempt_is_due_after_the_last_delay")
class KeepsTheLongestDelay(MemoryAttemptStore):
    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        attempts = (await self.get(consumer)).get(event_id)
        longest = delay if attempts is None else max(delay, attempts.seconds_left)
        await super().record(consumer, event_id, delay=longest)


@caught_by("time_left_decreases")
class ClockStandsStill(MemoryAttemptStore):
    def __init__(self) -> None:
        super().__init__(clock=lambda: 0.0)


@caught_by("cleared_attempts_are_gone")
class ClearsTheConsumer(MemoryAttemptStore):
    async def clear(self, consumer: str, event_id: str) -> None:
        for each in await self.get(consumer):
            await super().clear(consumer, each)


@caught_by("cleared_attempts_are_gone")
class ClearsNothing(MemoryAttemptStore):
    async def clear(self, consumer: str, event_id: str) -> None:
        """Forgotten."""


@caught_by("cleared_attempts_are_gone")
class ComplainsAboutClearing(MemoryAttemptStore):
    async def clear(self, consumer: str, event_id: str) -> None:
        if event_id not in await self.get(consumer):
            raise LookupError(event_id)
        await super().clear(consumer, event_id)


@caught_by("consumers_and_events_are_apart")
class NamesWithoutCase(MemoryAttemptStore):
    async def get(self, consumer: str) -> Mapping[str, Attempts]:
        return await super().get(consumer.lower())

    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        await super().record(consumer.lower(), event_id, delay=delay)


@caught_by("concurrent_attempts_are_all_counted")
class LooksAndThenCounts(MemoryAttemptStore):
    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        before = (await self.get(consumer)).get(event_id)
        # Others may look meanwhile.
        await checkpoint()
        await self.clear(consumer, event_id)
        for _ in range(1 if before is None else before.count + 1):
            await super().record(consumer, event_id, delay=delay)


@caught_by("cancelled_record_is_done_or_not")
class CountsTwice(MemoryAttemptStore):
    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        await super().record(consumer, event_id, delay=delay)
        await super().record(consumer, event_id, delay=delay)
        await checkpoint()
        self._attempts[consumer, event_id] = 1, self._attempts[consumer, event_id][1]


@caught_by("invalid_attempt_is_refused")
class ChecksNothing(MemoryAttemptStore):
    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        await super().record(str(consumer) or "a", str(event_id) or "7", delay=1.0)
