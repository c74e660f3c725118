"""The memory that pages of large events take, counted in bytes that are sent by the database and kept by streams."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio import Event, EventStream
from reflex_aio.memory import MemoryEvents
from reflex_aio.sql import EventsTable
from reflex_aio.sql.events.loader import PageLimits
from reflex_aio.sql.events.tail import TailFeed
from tests.fix_backends import Backend
from tests.reading import reading

pytestmark = pytest.mark.asyncio

BUDGET = 4000
events = EventsTable("large_events", metadata=True, trace=True, page_size=40, page_bytes=BUDGET)
# Small ones, jumps in both directions, values at the limits of the first page, and single events above the budget.
PLANS: dict[str, list[int]] = {
    "small": [3] * 100,
    "as large as a small page accepts": [50] * 90 + [51] * 5,
    "large": [900] * 20,
    "larger than a page": [9000] * 5,
    "small, then large": [0] * 45 + [3900] * 5 + [10] * 50,
    "one large among small ones": [1] * 30 + [20_000] + [1] * 60,
    "alternating": [1, 3000] * 15,
}


@pytest_asyncio.fixture
async def writer(backend: Backend) -> Any:
    connection = await backend.connect()
    await events.create(connection)
    return connection


class Sent:
    """The bytes of metadata and traces in the result of each statement that the driver has run."""

    def __init__(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[tuple[int, int]] = []
        driver = type(backend.driver)
        fetch = driver.fetch

        async def counted(driver: Any, connection: Any, sql: str, *args: Any) -> Any:
            rows = await fetch(driver, connection, sql, *args)
            values = [len(value) for value in _flat(rows) if isinstance(value, bytes) and value[:1] == b"m"]
            if values:
                self.sizes.append((sum(values), len(values)))
            return rows

        monkeypatch.setattr(driver, "fetch", counted)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return [value]
    # An asyncpg.Record has values().
    return [part for each in (value.values() if hasattr(value, "values") else value) for part in _flat(each)]


@pytest.fixture
def sent(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(backend, monkeypatch)


def of_sizes(sizes: Sequence[int]) -> list[tuple[int, int, bytes | None, bytes | None]]:
    return [(i, 1, b"m" * size or None, b"m" * (size // 3)) for i, size in enumerate(sizes)]


def contents(given: Sequence[Event]) -> list[tuple[int, int, bytes | None, bytes | None]]:
    return [(int(event.foreign_id), event.type, event.metadata, event.trace) for event in given]


async def pages(stream: EventStream, *, batches: bool = False) -> list[list[Event]]:
    found = []
    async with stream:
        while page := await (stream.read_batch() if batches else stream.read_page()):
            found.append(list(page))
    return found


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("batches", [False, True])
async def test_neither_the_database_sends_nor_a_page_has_more_bytes_than_its_limit(
    backend: Backend, backend_pool: Any, writer: Any, sent: Sent, plan: str, batches: bool
) -> None:
    given = of_sizes(PLANS[plan])
    await events.insert_many(writer, given)
    found = await pages(events.stream(backend_pool, to_head=True), batches=batches)
    assert contents([event for page in found for event in page]) == given
    for page in found:
        size = sum(len(event.metadata or b"") + len(event.trace or b"") for event in page)
        assert size <= BUDGET or len(page) == 1
    assert all(size <= BUDGET + 2 * 40 or values <= 2 for size, values in sent.sizes)


async def test_small_events_take_as_many_queries_as_without_a_limit(
    backend_pool: Any, writer: Any, sent: Sent
) -> None:
    await events.insert_many(writer, of_sizes([30] * 120))
    assert [len(page) for page in await pages(events.stream(backend_pool, to_head=True))] == [40] * 3
    assert [values for _, values in sent.sizes] == [80] * 3


async def test_after_large_events_pages_are_as_large_as_before(backend_pool: Any, writer: Any) -> None:
    await events.insert_many(writer, of_sizes([5000] * 3 + [1] * 500))
    found = await pages(events.stream(backend_pool, to_head=True))
    assert [len(page) for page in found[-6:-1]] == [40] * 5


@pytest.mark.parametrize("lagging", [False, True])
async def test_any_sizes_are_delivered_once_and_in_order(
    backend_pool: Any, writer: Any, lagging: bool
) -> None:
    seed = random.randrange(2**32)
    print(f"seed: {seed}")
    chosen = random.Random(seed)
    sizes = [int(chosen.choice([3, 60, 500, 5000]) * chosen.random()) for _ in range(300)]
    given = of_sizes(sizes)
    await events.insert_many(writer, given)
    # Only a stream with a lag, or to the head, keeps reading pages of its own.
    stream = events.stream(backend_pool, lag=0.001 if lagging else None)
    async with stream:
        found = [await anext(stream) for _ in given]
    assert contents(found) == given


async def test_streams_at_the_head_keep_no_more_than_the_limit(backend_pool: Any, writer: Any) -> None:
    async with events.stream(backend_pool, from_head=True) as stalled, _reader(backend_pool) as (fast, tail):
        feed = stalled._fed_by
        assert isinstance(feed, TailFeed)
        for size in [900] * 12 + [9000] + [1] * 12:
            last = await events.insert(writer, 1, 1, metadata=b"m" * size)
            await events.wake(writer)
            await fast.reached(int(last))
            sections = {id(section): section for each in (tail._recent, feed._sections) for section in each}
            for kept in (tail._recent, feed._sections):
                assert len(kept) <= 1 or sum(map(_size, kept)) <= BUDGET
            assert all(_size(section) <= BUDGET for section in tail._recent)
        assert sections
        # The one that was detached misses nothing.
        ids = [int((await anext(stalled)).id) for _ in range(25)]
        assert ids == fast.ids


@asynccontextmanager
async def _reader(pool: Any) -> AsyncIterator[Any]:
    async with reading(events.stream(pool, from_head=True)) as fast:
        feed = fast.stream._fed_by
        assert isinstance(feed, TailFeed)
        yield fast, feed._tail


def _size(section: Any) -> int:
    return sum(400 + len(event.metadata or b"") + len(event.trace or b"") for event in section.events)


# Without a database.


async def test_pages_from_memory_have_a_limit_too() -> None:
    memory = MemoryEvents()
    for size in [1 << 20] * 9 + [5 << 20] + [1] * 3:
        await memory.insert(1, 1, metadata=bytes(size))
    found = await pages(memory.stream(to_head=True))
    assert [len(page) for page in found] == [3, 3, 3, 1, 3]


async def test_the_number_of_events_follows_their_size() -> None:
    limits = PageLimits(1000, 1_000_000, columns=1)
    assert (limits.count, limits.value_size) == (1000, 1000)
    limits.exceeded(100_000)
    assert (limits.count, limits.value_size) == (7, 142_857)
    limits.kept(100_000)
    assert limits.count == 7
    limits.kept(60_000)
    assert limits.count == 15
    limits.exceeded(5_000_000)
    assert limits.count == 1
    assert limits.value_size >= 1 << 30
    for _ in range(20):
        limits.kept(10)
    assert (limits.count, limits.reduced) == (1000, False)


async def test_a_page_that_the_server_refuses_is_never_tried_again() -> None:
    limits = PageLimits(10, 1_000_000, columns=1)
    limits.refused()
    limits.kept(0)
    assert limits.count == 5
