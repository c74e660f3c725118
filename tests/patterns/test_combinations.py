"""Each combination of store, consumer, start and options delivers exactly the right events, or is refused at once.

Events 1 to 6 are there when a run begins. Later there are 7 and 8, which a run to the head leaves to the next one.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeAlias

import anyio
import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import Consumer, CursorConflict, CursorStore, Event, Lease, Spec, run
from reflex_aio.consumer import BaseConsumer
from reflex_aio.memory import MemoryAttemptStore, MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import (
    AckConsumer,
    AckEvent,
    BatchConsumer,
    ConcurrentConsumer,
    DeadLetterConsumer,
    LogRecorder,
)
from reflex_aio.running.run import Run
from reflex_aio.sql import AtomicBatchConsumer, AtomicConsumer, CursorsTable
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

cursors = CursorsTable("cursors")

BEFORE, LATER = 6, 2
# Of the events before, those whose age is the lag; the later ones are inserted when all before have it.
OLD = 4
LAG = 100.0


class MinimalStore(CursorStore):
    """A store as a user writes one who needs nothing more: without fences, transactions or marks."""

    def __init__(self) -> None:
        self.cursors: dict[str, str] = {}

    async def get(self, name: str) -> str:
        return self.cursors.get(name, "")

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        if fence is not None:
            raise TypeError(f"fence {fence!r}: accepted is None")
        stored = self.cursors.get(name, "")
        if stored != (stored if expected is None else expected) or int(cursor) < int(stored or 0):
            raise CursorConflict(consumer=name, stored=stored, given=cursor, expected=expected)
        self.cursors[name] = cursor

    async def all(self) -> Mapping[str, str]:
        return dict(self.cursors)


@dataclass
class Seen:
    """Handlers of each kind, and what they were given."""

    ids: list[int] = field(default_factory=list)

    async def one(self, event: Event) -> None:
        self.ids.append(int(event.id))

    async def ack(self, event: AckEvent) -> None:
        await self.one(event.event)
        await event.ack()

    async def many(self, events: list[Event]) -> None:
        for event in events:
            await self.one(event)

    async def one_atomic(self, event: Event, connection: Any) -> None:
        assert await connection.fetchval("SELECT 1") == 1
        await self.one(event)

    async def many_atomic(self, events: list[Event], connection: Any) -> None:
        assert await connection.fetchval("SELECT 1") == 1
        await self.many(events)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


STORES: dict[str, Callable[[Any], CursorStore]] = {
    "memory": lambda pool: MemoryCursorStore(),
    "table": cursors.store,
    "write-behind": lambda pool: cursors.store(pool, flush_every=60.0),
    "minimal": lambda pool: MinimalStore(),
}
CONSUMERS: dict[str, Callable[[str, Seen], BaseConsumer[Any]]] = {
    "plain": lambda name, seen: Consumer(name, seen.one),
    "batch": lambda name, seen: BatchConsumer(name, seen.many, size=2, age=0.01),
    "concurrent": lambda name, seen: ConcurrentConsumer(name, seen.one, limit=3),
    "ack": lambda name, seen: AckConsumer(name, seen.ack),
    "dead-letter": lambda name, seen: DeadLetterConsumer(name, seen.one, LogRecorder(), retries=0),
    "atomic": lambda name, seen: AtomicConsumer(name, seen.one_atomic),
    "atomic-batch": lambda name, seen: AtomicBatchConsumer(name, seen.many_atomic, size=2, age=0.01),
}
# Where each of them starts: after so many events.
STARTS: dict[str, int] = {"beginning": 0, "head": BEFORE, "2": 2, "store": 3}

Options: TypeAlias = tuple[bool, bool, bool, bool]
NO_YES = (False, True)
OPTIONS: list[Options] = list(product(NO_YES, NO_YES, NO_YES, NO_YES))


@pytest_asyncio.fixture
async def made_pool(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Pool]:
    async with pool.acquire() as connection:
        await cursors.create(connection)
    yield pool


def refusal(store: str, consumer: str, start: str, options: Options) -> type[Exception] | None:
    """Return the error of a combination that cannot work."""
    from_head, *_ = options
    if consumer.startswith("atomic") and store != "table":
        return TypeError
    if from_head and start != "beginning":
        return ValueError
    return None


def expected_ids(start: str, options: Options) -> tuple[list[int], list[int], str]:
    """Return the events to the first head, those of the later ones that come too, and the cursor in the end."""
    from_head, to_head, lag, _ = options
    # With a lag, the head is the newest event of that age.
    head, last = OLD if lag else BEFORE, BEFORE + LATER
    if from_head:
        # Every run starts there, so one that ends there too has nothing to do.
        return ([], [], "") if to_head else ([], ids(head, last), str(last))
    first = STARTS[start]
    return ids(first, head), ids(max(first, head), last), str(last)


def ids(after: int, last: int) -> list[int]:
    return list(range(after + 1, last + 1))


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("store", STORES)
async def test_each_combination_works_or_is_refused_when_the_spec_is_made(
    store: str, consumer: str, made_pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The clock that jumps is read again at once.
    monkeypatch.setattr("reflex_aio.running.delivery._CLOCK_PERIOD", 0.001)
    for number, (start, options) in enumerate(product(STARTS, OPTIONS)):
        await check(store, consumer, start, options, name=f"c{number}", pool=made_pool)


async def check(
    store: str, consumer: str, start: str, options: Options, *, name: str, pool: asyncpg.Pool
) -> None:
    from_head, to_head, lag, attempts = options
    case = f"{store}, {consumer}, start={start}, {from_head=}, {to_head=}, {lag=}, {attempts=}"
    clock, seen = Clock(), Seen()
    source, cursor_store = MemoryEvents(clock=clock), STORES[store](pool)

    def make() -> Spec:
        return Spec(
            source,
            cursor_store,
            CONSUMERS[consumer](name, seen),
            start=MemoryCursorStore({name: STARTS["store"]}) if start == "store" else start,
            from_head=from_head,
            to_head=to_head,
            lag=LAG if lag else None,
            attempts=MemoryAttemptStore() if attempts else None,
            clock=clock,
        )

    async def insert(count: int) -> None:
        for row in range(count):
            await source.insert(row + 1, 1)

    async def insert_later() -> None:
        await insert(LATER)
        clock.now += LAG

    if (error := refusal(store, consumer, start, options)) is not None:
        with pytest.raises(error, match="accepted is"):
            make()
        return
    await insert(OLD)
    clock.now += LAG
    await insert(BEFORE - OLD)
    to_the_head, later, cursor = expected_ids(start, options)
    if to_head:
        await run(make())
        assert sorted(seen.ids) == to_the_head, case
        await insert_later()
        await run(make())
    else:
        opened = anyio.Event()
        live = Run(make(), opened=opened.set)
        async with anyio.create_task_group() as group:
            group.start_soon(live.run)
            await opened.wait()
            await eventually(lambda: sorted(seen.ids) == to_the_head, lambda: f"{case}: {seen.ids}")
            await insert_later()
            await eventually(lambda: len(seen.ids) >= len(to_the_head + later), lambda: f"{case}: {seen.ids}")
            live.end()
    in_order = sorted(seen.ids) if consumer == "concurrent" else seen.ids
    assert in_order == to_the_head + later, case
    assert await cursor_store.get(name) == cursor, case
