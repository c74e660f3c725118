"""Each pattern on a table, and on the same table over gRPC, with its cursors in a table."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import Consumer, CursorStore, Event, Runner, Source, Spec, run
from reflex_aio.consumer import BaseConsumer
from reflex_aio.filters import all_of, any_of, by_metadata
from reflex_aio.patterns import (
    AckConsumer,
    BatchConsumer,
    ConcurrentConsumer,
    DeadLetterConsumer,
    LogRecorder,
    PollSource,
    by_foreign_id,
    retrying,
    shards,
    wait_for_event,
)
from reflex_aio.rpc import RemoteSource, StreamServer
from reflex_aio.sql import CursorsTable, ErrorsTable, EventsTable
from reflex_aio.testing import read_events
from tests.fix_databases import Connect
from tests.patterns.making import Handling
from tests.rpc.serving import serving
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

events = EventsTable("events", metadata=True)
cursors, old_cursors = CursorsTable("cursors"), CursorsTable("old_cursors")
errors = ErrorsTable("consumer_errors")

COUNT = 20


@dataclass
class Place:
    source: Source
    store: CursorStore
    pool: Any
    connection: Any

    async def insert(self, count: int) -> None:
        """Insert events of three rows, with burnt ids between them."""
        for number in range(count):
            transaction = self.connection.transaction()
            await transaction.start()
            await events.insert(self.connection, "burnt", 1)
            await transaction.rollback()
            await events.insert(self.connection, number % 3, number % 2 + 1, metadata=str(number).encode())

    async def ids(self) -> list[int]:
        return [row["id"] for row in await self.connection.fetch("SELECT id FROM events ORDER BY id")]

    async def run(
        self,
        consumer: BaseConsumer[Any],
        store: CursorStore | None = None,
        start: str | CursorStore = "beginning",
    ) -> str:
        """Consume up to the head, running again after each ValueError, and return the cursor then."""
        while True:
            try:
                await run(Spec(self.source, store or self.store, consumer, start=start, to_head=True))
            except ValueError:
                continue
            return await self.store.get(consumer.name)


@pytest_asyncio.fixture(params=["sql", "grpc"])
async def place(request: pytest.FixtureRequest, pool: asyncpg.Pool, connect: Connect) -> AsyncIterator[Place]:
    connection = await connect()
    for table in (events, cursors, old_cursors, errors):
        await table.create(connection)
    async with AsyncExitStack() as stack:
        source: Source = events.source(pool)
        if request.param == "grpc":
            source = RemoteSource(await stack.enter_async_context(serving(StreamServer(source))))
        made = Place(source, cursors.store(pool), pool, connection)
        await made.insert(COUNT)
        yield made


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda handling: AckConsumer("c", handling.ack), id="ack"),
        pytest.param(lambda handling: BatchConsumer("c", handling.batch, size=3), id="batch"),
        pytest.param(lambda handling: BatchConsumer("c", handling.batch, age=0.01), id="aged-batch"),
        pytest.param(lambda handling: ConcurrentConsumer("c", handling.one, limit=4), id="concurrent"),
        pytest.param(
            lambda handling: ConcurrentConsumer("c", handling.one, limit=2, ordered_by=by_foreign_id),
            id="ordered",
        ),
        pytest.param(
            lambda handling: DeadLetterConsumer("c", handling.one, LogRecorder(), retries=9), id="dead-letter"
        ),
        pytest.param(lambda handling: Consumer("c", retrying(handling.one, retries=1)), id="retrying"),
    ],
)
async def test_events_are_consumed_though_the_handler_fails_now_and_then(
    place: Place, make: Callable[[Handling], BaseConsumer[Any]]
) -> None:
    expected = await place.ids()
    failing = {str(number) for number in expected[::7]}

    def fail_once(event: Event) -> None:
        if event.id in failing:
            failing.remove(event.id)
            raise ValueError("now and then")

    handling = Handling(fail_once)
    assert await place.run(make(handling)) == str(expected[-1])
    assert set(handling.finished) == set(expected)


@pytest.mark.parametrize("kind", ["batch", "concurrent"])
async def test_live_events_are_consumed_until_cancelled(place: Place, kind: str) -> None:
    handling, expected = Handling(), await place.ids()
    consumer: BaseConsumer[Any] = (
        BatchConsumer("c", handling.batch, size=100, age=0.05)
        if kind == "batch"
        else ConcurrentConsumer("c", handling.one, limit=3)
    )
    running = asyncio.create_task(run(Spec(place.source, place.store, consumer)))

    async def all_consumed() -> bool:
        return await place.store.get("c") == str(expected[-1])

    await eventually(all_consumed)
    await place.insert(3)
    expected = await place.ids()
    await eventually(all_consumed)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert sorted(handling.finished) == expected


async def test_shards_share_the_events(place: Place) -> None:
    handled: dict[str, set[int]] = {}
    for shard in shards("c", 3, key=by_foreign_id):
        handling = Handling()
        await place.run(ConcurrentConsumer(shard.name, handling.one, limit=2, filter=shard))
        handled[shard.name] = set(handling.finished)
    assert set.union(*handled.values()) == set(await place.ids())
    assert sum(map(len, handled.values())) == COUNT
    assert len(set((await place.store.all()).values())) == 1


async def test_dead_letters_are_rows_of_the_errors_table(place: Place) -> None:
    expected = await place.ids()

    def fail(event: Event) -> None:
        if int(event.id) in expected[:2]:
            raise ValueError("never")

    handling = Handling(fail)
    consumer = DeadLetterConsumer("c", handling.one, errors.recorder(place.pool), retries=1)
    assert await place.run(consumer) == str(expected[-1])
    assert handling.finished == expected[2:]
    rows = await place.connection.fetch("SELECT consumer, event_id FROM consumer_errors ORDER BY id")
    assert [tuple(row) for row in rows] == [("c", str(number)) for number in expected[:2]]


async def test_new_consumer_starts_at_the_head(place: Place) -> None:
    handling, head = Handling(), (await place.ids())[-1]
    consumer = Consumer("c", handling.one)
    assert await place.run(consumer, start="head") == str(head)
    assert handling.finished == []
    await place.insert(2)
    await place.run(consumer, start="head")
    assert handling.finished == (await place.ids())[-2:]


async def test_new_consumer_of_an_empty_table_starts_before_its_first_event(place: Place) -> None:
    await place.connection.execute("TRUNCATE events RESTART IDENTITY")
    handling = Handling()
    consumer = Consumer("c", handling.one)
    assert await place.run(consumer, start="head") == "0"
    await place.insert(2)
    await place.run(consumer, start="head")
    assert handling.finished == await place.ids()


async def test_cursor_of_another_table_is_taken_over_at_once_though_the_store_writes_behind(
    place: Place,
) -> None:
    expected, old, stored = await place.ids(), old_cursors.store(place.pool), list[str]()

    async def see(event: Event) -> None:
        if not stored:
            stored.append(await place.store.get("c"))
        handling.finished.append(int(event.id))

    handling = Handling()
    behind = cursors.store(place.pool, flush_every=60.0)
    await old.set("c", str(expected[4]))
    assert await place.run(Consumer("c", see), behind, start=old) == str(expected[-1])
    assert handling.finished == expected[5:]
    assert stored == [str(expected[4])]


async def test_event_is_waited_for(place: Place) -> None:
    async def count_exceeds(count: int) -> bool:
        return bool(await place.pool.fetchval("SELECT count(*) > $1 FROM events", count))

    waiting = asyncio.create_task(
        wait_for_event(place.source, 2, types={1}, poll=lambda: count_exceeds(10**6), every=0.01)
    )
    async with asyncio.timeout(deadline(20)):
        while not waiting.done():
            await place.insert(6)
    found = waiting.result()
    assert found is not None
    assert (found.foreign_id, found.type) == ("2", 1)
    assert await wait_for_event(place.source, 2, poll=lambda: count_exceeds(COUNT)) is None


async def test_filters_of_metadata_pass_over_what_they_do_not_want(place: Place) -> None:
    expected = await place.ids()
    wanted = any_of(
        by_metadata(int, lambda number: number < 3),
        all_of(lambda event: event.type == 2, lambda event: event.foreign_id == "0"),
    )
    handling = Handling()
    assert await place.run(BatchConsumer("c", handling.batch, size=2, filter=wanted)) == str(expected[-1])
    assert handling.finished == [
        number for index, number in enumerate(expected) if index < 3 or index % 6 == 3
    ]


async def test_rows_of_another_table_can_be_polled(place: Place) -> None:
    """The source is asked page by page, as an interface of another service would be."""

    async def poll(after: str) -> list[Event]:
        async with place.source.stream(after, to_head=True) as stream:
            return (await stream.read_page())[:7]

    handling = Handling()
    await run(Spec(PollSource(poll), place.store, Consumer("c", handling.one), to_head=True))
    assert handling.finished == await place.ids()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda handle: Consumer("c", handle), id="plain"),
        pytest.param(lambda handle: Consumer("c", handle, types=[1]), id="filtered"),
        pytest.param(lambda handle: ConcurrentConsumer("c", handle, limit=4), id="concurrent"),
    ],
)
async def test_runner_is_drained_in_the_midst_of_events_and_at_the_head(
    place: Place, make: Callable[[Any], BaseConsumer[Any]]
) -> None:
    begun: list[int] = []
    finished: list[int] = []
    go_on = asyncio.Event()

    async def handle(event: Event) -> None:
        begun.append(int(event.id))
        await go_on.wait()
        finished.append(int(event.id))

    def runner() -> Runner:
        return Runner([Spec(place.source, place.store, make(handle))])

    async with runner() as busy:
        await eventually(lambda: begun)
        busy.end()
        go_on.set()
    assert sorted(finished) == sorted(begun)
    assert max(finished) <= int(await place.store.get("c")) < (await place.ids())[-1]

    async with runner():
        last = (await place.ids())[-1]

        async def is_at_the_head() -> bool:
            return int(await place.store.get("c")) == last

        await eventually(is_at_the_head)
    # What was in hand was not handed out again, and nothing was left out.
    wanted = [int(event.id) for event in await read_events(place.source) if make(handle).wants(event)]
    assert sorted(begun) == sorted(finished) == wanted
