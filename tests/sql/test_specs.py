"""Consuming a table's events, with the cursor in a table: everything that people put together, on every database."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import Backoff, Consumer, Event, Spec, run, run_forever
from reflex_aio.errors import FilterError
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql import CursorsTable, EventsTable, transaction
from tests.fix_backends import Backend
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

CREATED, RENAMED, DELETED = 1, 2, 3

users = EventsTable("user_events", metadata=True, poll_period=0.2)
mails = EventsTable("mail_events", foreign_id="bigint", poll_period=0.2)
cursors = CursorsTable("cursors")

stores = pytest.mark.parametrize("flush_every", [None, 0.05], ids=["at-once", "write-behind"])


class Consumed:
    """A handler that keeps what it is given, and fails on the foreign ids that it is told to."""

    def __init__(self, *fails_on: str) -> None:
        self.events: list[Event] = []
        self._fails_on = set(fails_on)

    async def __call__(self, event: Event) -> None:
        if event.foreign_id in self._fails_on:
            raise ZeroDivisionError(event.foreign_id)
        self.events.append(event)

    @property
    def ids(self) -> list[int]:
        return [int(event.id) for event in self.events]

    async def reach(self, id: int, *, within: float = 20.0) -> None:
        """Wait until the event ``id`` was consumed, or a later one."""
        await eventually(
            lambda: self.ids[-1:] >= [id],
            lambda: f"event {id} consumed, after {self.ids[-3:]}",
            within=within,
        )


@pytest.fixture
def pool(backend_pool: Any) -> Any:
    return backend_pool


@pytest_asyncio.fixture
async def writer(backend: Backend) -> Any:
    """A connection to a database that has all the tables."""
    connection = await backend.connect()
    await made(connection)
    return connection


async def made(connection: Any) -> None:
    for table in (users, mails, cursors):
        await table.create(connection)


async def insert(connection: Any, *kinds: int) -> list[int]:
    """Insert an event of each type, and return their ids."""
    return list(map(int, await users.insert_many(connection, [(f"row-{kind}", kind) for kind in kinds])))


@asynccontextmanager
async def running(spec: Spec) -> AsyncIterator[asyncio.Task[None]]:
    """Run ``spec`` for ever in the background."""
    task = asyncio.create_task(run_forever(spec, backoff=Backoff(initial=0.01, maximum=0.1)))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()


@stores
async def test_each_run_consumes_what_came_since_the_last(
    pool: Any, writer: Any, flush_every: float | None
) -> None:
    consumed = Consumed()
    store = cursors.store(pool, flush_every=flush_every)
    spec = Spec(users.source(pool), store, Consumer("c", consumed), to_head=True)
    expected: list[int] = []
    for _ in range(3):
        expected += await insert(writer, CREATED, RENAMED)
        await run(spec)
        await run(spec)
        assert consumed.ids == expected
        assert await cursors.all(writer) == {"c": str(expected[-1])}


@stores
async def test_consumers_of_other_names_have_cursors_of_their_own(
    pool: Any, writer: Any, flush_every: float | None
) -> None:
    store, source = cursors.store(pool, flush_every=flush_every), users.source(pool)
    expected = await insert(writer, *[CREATED] * 50)
    consumed = {f"c-{number}": Consumed() for number in range(5)}
    async with asyncio.TaskGroup() as group:
        for name, handler in consumed.items():
            group.create_task(run(Spec(source, store, Consumer(name, handler), to_head=True)))
    assert [handler.ids for handler in consumed.values()] == [expected] * 5
    assert await cursors.all(writer) == dict.fromkeys(consumed, "50")


@stores
async def test_events_that_are_filtered_out_move_the_cursor_too(
    pool: Any, writer: Any, flush_every: float | None
) -> None:
    await users.insert_many(
        writer,
        [
            (1, CREATED, b"eu"),
            (2, RENAMED, b"eu"),
            (3, CREATED, b"us"),
            (4, CREATED, b"eu"),
            (5, DELETED, b"eu"),
        ],
    )
    consumed = Consumed()
    consumer = Consumer("c", consumed, types={CREATED, RENAMED}, filter=lambda event: event.metadata == b"eu")
    await run(Spec(users.source(pool), cursors.store(pool, flush_every=flush_every), consumer, to_head=True))
    assert consumed.ids == [1, 2, 4]
    assert await cursors.all(writer) == {"c": "5"}


async def test_a_filter_that_fails_stops_the_run_before_its_event(pool: Any, writer: Any) -> None:
    await insert(writer, CREATED, RENAMED, DELETED)
    consumed = Consumed()
    consumer = Consumer("c", consumed, filter=lambda event: 1 // (event.type - RENAMED) < 9)
    with pytest.raises(FilterError, match="c: the filter failed on event 2"):
        await run(Spec(users.source(pool), cursors.store(pool), consumer, to_head=True))
    assert consumed.ids == [1]
    assert await cursors.all(writer) == {"c": "1"}


@stores
async def test_a_handler_that_fails_stops_the_run_and_gets_its_event_again(
    pool: Any, writer: Any, flush_every: float | None
) -> None:
    await insert(writer, CREATED, RENAMED, DELETED)
    source, store = users.source(pool), cursors.store(pool, flush_every=flush_every)
    failing = Consumed(f"row-{RENAMED}")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await run(Spec(source, store, Consumer("c", failing), to_head=True))
        assert await cursors.all(writer) == {"c": "1"}
    assert failing.ids == [1]
    mended = Consumed()
    await run(Spec(source, store, Consumer("c", mended), to_head=True))
    assert mended.ids == [2, 3]


@stores
async def test_a_failure_that_is_recovered_from_is_passed(
    pool: Any, writer: Any, flush_every: float | None
) -> None:
    await insert(writer, CREATED, RENAMED, DELETED)
    recovered: list[tuple[str, str]] = []

    async def recover(event: Event, error: Exception) -> None:
        recovered.append((event.id, repr(error)))

    consumed = Consumed(f"row-{RENAMED}")
    consumer = Consumer("c", consumed, recover=recover)
    await run(Spec(users.source(pool), cursors.store(pool, flush_every=flush_every), consumer, to_head=True))
    assert consumed.ids == [1, 3]
    assert recovered == [("2", "ZeroDivisionError('row-2')")]
    assert await cursors.all(writer) == {"c": "3"}


async def test_a_handler_may_write_and_insert_further_events_with_the_same_pool(
    backend: Backend, pool: Any, writer: Any
) -> None:
    await backend.fetch(writer, "CREATE TABLE mails (id int PRIMARY KEY, recipient varchar(20))")
    sent: list[str] = []

    async def queue_mail(event: Event) -> None:
        async with pool.acquire() as connection, transaction(connection):
            await backend.fetch(connection, f"INSERT INTO mails VALUES ({event.id}, '{event.foreign_id}')")
            await mails.insert(connection, event.id, CREATED)

    async def send_mail(event: Event) -> None:
        async with pool.acquire() as connection:
            sent.append(
                await backend.value(connection, f"SELECT recipient FROM mails WHERE id = {event.foreign_id}")
            )

    store = cursors.store(pool)
    async with (
        running(Spec(users.source(pool), store, Consumer("queue", queue_mail))),
        running(Spec(mails.source(pool), store, Consumer("send", send_mail))),
    ):
        for number in range(20):
            async with pool.acquire() as connection, transaction(connection):
                await users.insert(connection, f"user-{number}", CREATED)
        await eventually(lambda: len(sent) == 20, lambda: f"20 mails sent, after {sent}")
    assert sent == [f"user-{number}" for number in range(20)]


async def test_a_run_from_the_head_ignores_the_stored_cursor_and_moves_it(pool: Any, writer: Any) -> None:
    await insert(writer, *[CREATED] * 5)
    await cursors.set(writer, "c", "2")
    consumed = Consumed()
    spec = Spec(users.source(pool), cursors.store(pool), Consumer("c", consumed), from_head=True)
    async with running(spec):
        inserted: list[int] = []

        async def consumed_one() -> bool:
            # Until the stream is open, an event may lie before the head.
            inserted.extend(await insert(writer, RENAMED))
            return bool(consumed.ids)

        await eventually(consumed_one, "an event is consumed")

        async def cursor_is_at_the_last() -> bool:
            return await cursors.all(writer) == {"c": str(inserted[-1])}

        # The cursor moves after the event is consumed, and not if the run is cancelled before.
        await eventually(cursor_is_at_the_last, "the last one too, and the cursor is there")
    assert consumed.ids == inserted[-len(consumed.ids) :]


async def test_a_consumer_with_a_lag_is_given_events_of_that_age(
    backend: Backend, pool: Any, writer: Any
) -> None:
    ages: list[float] = []

    async def consume(event: Event) -> None:
        now = await backend.value(writer, backend.now)
        ages.append(float(now) - event.timestamp_us / 1_000_000)

    spec = Spec(users.source(pool), cursors.store(pool), Consumer("c", consume), lag=0.3)
    async with running(spec):
        await insert(writer, CREATED, CREATED)
        await eventually(lambda: len(ages) == 2, "both are consumed")
    assert min(ages) >= 0.3


async def test_a_run_that_is_cancelled_stores_the_cursor_of_what_was_consumed(pool: Any, writer: Any) -> None:
    consumed = Consumed()
    store = cursors.store(pool, flush_every=3600.0)
    spec = Spec(users.source(pool), store, Consumer("c", consumed))
    expected: list[int] = []
    for _ in range(2):
        async with running(spec):
            expected += await insert(writer, *[CREATED] * 10)
            await consumed.reach(expected[-1])
        assert await cursors.all(writer) == {"c": str(expected[-1])}
    assert consumed.ids == expected


async def write_until_the_server_is_down(dsn: str, committed: list[int]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        while True:
            committed += await insert(connection, CREATED)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
        # What asyncpg raises depends on the moment.
        connection.terminate()


@stores
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_consumer_goes_on_after_the_server_was_restarted(
    own_server: EmbeddedPostgres, flush_every: float | None, mode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    consumed, committed = Consumed(), list[int]()
    async with asyncpg.create_pool(own_server.dsn, min_size=1, max_size=5) as pool:
        async with pool.acquire() as connection:
            await made(connection)
        store = cursors.store(pool, flush_every=flush_every)
        async with running(Spec(users.source(pool), store, Consumer("c", consumed))):
            for _ in range(2):
                writing = asyncio.create_task(write_until_the_server_is_down(own_server.dsn, committed))
                await consumed.reach(len(committed) + 20)
                await own_server.restart(mode)
                await writing
        # Stopped and started, it consumes the rest, of which there may be more than its writer was told.
        await run(Spec(users.source(pool), store, Consumer("c", consumed), to_head=True))
        async with pool.acquire() as connection:
            there = [row[0] for row in await connection.fetch("SELECT id FROM user_events ORDER BY id")]
            assert await cursors.all(connection) == {"c": str(there[-1])}
    assert set(committed) <= set(there)
    assert list(dict.fromkeys(consumed.ids)) == there
    # To have lost the server is no failure of the consumer's.
    told = [record for record in caplog.records if record.name == "reflex_aio.running.supervisor"]
    assert told
    assert {record.levelname for record in told} == {"INFO"}
