"""Streams at the head of a table: what they cost together, and that none of them harms another."""

import asyncio
import random
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import Event, StreamClosed
from reflex_aio.sql.events.table import EventsTable
from reflex_aio.sql.wakeups.notifier import LocalNotifier
from tests.core.cancelling import cancelled_by_task
from tests.fix_databases import Connect, Database
from tests.fix_processes import Spawn
from tests.fix_statements import Statements
from tests.reading import PAGE, SCAN, Reading, ran, reading
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

# Long enough not to help those that are woken.
table = EventsTable("events", poll_period=30.0)

# In a way that wakes no stream.
INSERT = "INSERT INTO events (foreign_id, type) VALUES ('1', 1) RETURNING id"


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """A connection that writes, to a database with the events table."""
    connection = await connect(server_settings={"application_name": "writer"})
    await table.create(connection)
    return connection


async def insert(connection: asyncpg.Connection, table: EventsTable = table) -> int:
    return int(await table.insert(connection, 1, 1))


async def burn(connection: asyncpg.Connection) -> None:
    """Draw an id that is never there."""
    await connection.execute("BEGIN")
    await insert(connection)
    await connection.execute("ROLLBACK")


async def committed(connection: asyncpg.Connection, after: int = 0) -> list[int]:
    rows = await connection.fetch("SELECT id FROM events WHERE id > $1 ORDER BY id", after)
    return [row[0] for row in rows]


async def nothing_borrowed(pool: asyncpg.Pool) -> None:
    # Not at once, as asyncpg replaces closed connections in the background.
    await eventually(
        lambda: pool.get_size() == pool.get_idle_size(), "every connection given back", within=1.0
    )


@asynccontextmanager
async def many(count: int, pool: asyncpg.Pool, table: EventsTable = table) -> AsyncIterator[list[Reading]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(reading(table.stream(pool, from_head=True))) for _ in range(count)
        ]


# What an insert costs.


@pytest.mark.suite_server
@pytest.mark.parametrize(("inserts", "pause"), [(100, 0.0), (4, 1.0)])
async def test_a_hundred_streams_cost_two_statements_for_an_insert(
    inserts: int,
    pause: float,
    pool: asyncpg.Pool,
    writer: asyncpg.Connection,
    statements: Statements,
    database: Database,
) -> None:
    async with many(100, pool) as streams:
        for _ in range(3):
            last = await insert(writer)
            await asyncio.gather(*(stream.reached(last) for stream in streams))
        # The streams have released the connections with which they were opened.
        await eventually(lambda: pool.get_size() - pool.get_idle_size() <= 2, "given back")
        statements.taken()
        clock = asyncio.get_running_loop().time
        began = clock()
        for _ in range(inserts):
            last = await insert(writer)
            await asyncio.gather(*(stream.reached(last) for stream in streams))
            await asyncio.sleep(pause)
        seconds = clock() - began
        taken = [statement for statement in statements.taken() if statement.application != "writer"]
    scans = [statement for statement in taken if SCAN in statement.text]
    counts = Counter(statement.text for statement in taken)
    # One reads the event, one notifies other processes. Scans keep later gaps short, however many inserts there are.
    assert len(taken) - len(scans) <= 2 * inserts, counts
    assert len(scans) <= seconds * 10 + 1, counts


# Slow streams.


class _Page(list[Event]):
    """A page that can be referenced weakly."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class Retained:
    """A loader that counts the events of the pages that are still referred to."""

    def __init__(self) -> None:
        self._pages: weakref.WeakSet[_Page] = weakref.WeakSet()
        self.most = 0

    async def __call__(self, connection: object, events: Sequence[Event]) -> Sequence[Event]:
        page = _Page(events)
        self._pages.add(page)
        self.most = max(self.most, self.now)
        return page

    @property
    def now(self) -> int:
        return sum(len(page) for page in self._pages)


async def test_a_stream_that_does_not_read_keeps_few_events_and_misses_none(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    retained = Retained()
    counted = table.replace(loader=retained)
    async with counted.stream(pool, from_head=True) as slow:
        async with reading(counted.stream(pool, from_head=True)) as fast:
            for _ in range(100):
                await writer.execute(
                    "INSERT INTO events (foreign_id, type) SELECT i, 1 FROM generate_series(1, 2000) i"
                )
                await table.insert(writer, 1, 1)
            assert len(await fast.reached(200_100, within=30.0)) == 200_100
        assert 10_000 <= retained.most < 30_000
        async with aclosing(slow):
            ids: list[int] = []
            while len(ids) < 200_100:
                ids += [int(event.id) for event in await slow.read_page()]
        assert ids == list(range(1, 200_101))


async def test_a_slow_stream_does_not_hold_back_the_others(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with (
        table.stream(pool, from_head=True) as slow,
        reading(table.stream(pool, from_head=True)) as fast,
    ):
        for _ in range(50):
            await fast.reached(await insert(writer))
        assert len(await slow.read_page()) > 0


# Joining and leaving.


@pytest.mark.parametrize("number", range(2))
async def test_streams_that_join_anywhere_while_events_flow_get_what_follows_their_cursor(
    number: int, seed: int, pool: asyncpg.Pool, connect: Connect, writer: asyncpg.Connection
) -> None:
    chance = random.Random(f"{seed} {number}")
    small = table.replace(page_size=chance.choice([1, 3, 1000]))
    head, enough = 0, False

    async def write(connection: asyncpg.Connection, chance: random.Random) -> None:
        nonlocal head
        while not enough:
            transaction = connection.transaction()
            await transaction.start()
            for _ in range(chance.choice([1, 1, 1, 3])):
                last = await insert(connection)
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() / 50)
            if chance.random() < 0.2:
                await transaction.rollback()
            else:
                await transaction.commit()
                head = max(head, last)

    async def join(chance: random.Random) -> tuple[int, list[int]]:
        await asyncio.sleep(chance.random())
        after = chance.choice([0, head // 2, max(0, head - chance.randrange(5)), head])
        ids: list[int] = []
        async with small.stream(pool, str(after)) as stream:
            for _ in range(chance.randrange(40)):
                ids += [int(event.id) for event in await stream.read_page()]
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() / 20)
        return after, ids

    async with reading(small.stream(pool)) as steady:
        writers = [
            asyncio.create_task(write(await connect(), random.Random(chance.random()))) for _ in range(4)
        ]
        joined = await asyncio.gather(*(join(random.Random(chance.random())) for _ in range(60)))
        enough = True
        await asyncio.gather(*writers)
        expected = await committed(writer)
        assert await steady.reached(expected[-1]) == expected
    for after, ids in joined:
        begin = next((i for i, event_id in enumerate(expected) if event_id > after), len(expected))
        assert ids == expected[begin : begin + len(ids)], f"after {after}"
    assert sum(map(bool, (ids for _, ids in joined))) > 30


async def test_streams_close_in_any_order(pool: asyncpg.Pool, writer: asyncpg.Connection) -> None:
    chance = random.Random(7)
    async with many(20, pool) as streams:
        left = list(streams)
        chance.shuffle(left)
        while left:
            last = await insert(writer)
            await asyncio.gather(*(stream.reached(last) for stream in left))
            closed = left.pop()
            closed.task.cancel()
            await asyncio.wait([closed.task])
            await closed.stream.aclose()
    assert [len(stream.ids) for stream in streams] != [20] * 20


@pytest.mark.parametrize("end", [True, False], ids=["ended", "closed"])
async def test_a_stream_that_ends_while_it_waits_is_fed_no_more(
    end: bool, pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with many(2, pool) as (kept, other):
        last = await insert(writer)
        await asyncio.gather(kept.reached(last), other.reached(last))
        stream: Any = kept.stream
        feeds = stream._fed_by._tail._feeds
        assert len(feeds) == 2
        if end:
            other.stream.end()
            await other.task
        else:
            closing = asyncio.create_task(other.stream.aclose())
            assert isinstance(await other.failure(), StreamClosed)
            await closing
        await other.stream.aclose()
        assert len(feeds) == 1
        later = await insert(writer)
        await kept.reached(later)
        assert other.ids[-1] == last


async def test_a_stream_opened_at_the_head_begins_there_though_it_reads_later(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    await insert(writer)
    async with table.stream(pool, from_head=True) as stream:
        last = await insert(writer)
        assert [int(event.id) for event in await stream.read_page()] == [last]


# Gaps.


async def test_a_stream_beyond_a_gap_does_not_wait_at_it(
    pool: asyncpg.Pool, connect: Connect, writer: asyncpg.Connection
) -> None:
    holder = await connect()
    async with reading(table.stream(pool, from_head=True)) as behind:
        await holder.execute("BEGIN")
        held = await insert(holder)
        first = await insert(writer)
        await ran(await connect(), SCAN)
        async with (
            reading(table.stream(pool, from_head=True)) as beyond,
            reading(table.stream(pool, str(held))) as at,
        ):
            last = await insert(writer)
            assert await beyond.reached(last) == [last]
            assert await at.reached(last) == [first, last]
            assert behind.ids == []
            await holder.execute("COMMIT")
            assert await behind.reached(last) == [held, first, last]
            last = await insert(writer)
            for stream in (behind, beyond, at):
                await stream.reached(last)
            assert (len(behind.ids), len(beyond.ids), len(at.ids)) == (4, 2, 3)


async def test_a_stream_is_not_held_up_when_the_tail_meets_a_gap_behind_it(
    pool: asyncpg.Pool, connect: Connect, writer: asyncpg.Connection
) -> None:
    holder, notifier = await connect(), LocalNotifier()
    own = table.replace(notifier=notifier)
    async with reading(own.stream(pool, from_head=True)) as behind:
        await behind.reached(await insert(writer, own))
        await holder.execute("BEGIN")
        held = await insert(holder, own)
        # The tail is not woken, and the stream attaches at a later position.
        first = await writer.fetchval(INSERT)
        async with own.stream(pool, str(first)) as stream:
            read = asyncio.create_task(stream.read_page())
            await ran(await connect(), PAGE, times=0)
            last = [await insert(writer, own)]
            assert [int(event.id) for event in await read] == last
            last.append(await insert(writer, own))
            assert [int(event.id) for event in await stream.read_page()] == last[1:]
            await holder.execute("COMMIT")
            assert await behind.reached(last[1]) == [1, held, first, *last]


async def test_a_stream_that_joins_from_further_on_gets_what_follows_its_own_cursor(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    notifier = LocalNotifier()
    own = table.replace(notifier=notifier)
    async with reading(own.stream(pool, from_head=True)) as behind:
        # Twice, as the wake-up of the first may have come while the tail was beginning, and make it look once more.
        for _ in range(2):
            await behind.reached(await insert(writer, own))
        # The tail is not woken.
        first = await writer.fetchval(INSERT)
        async with reading(own.stream(pool, from_head=True)) as stream:
            assert behind.ids == [1, 2]
            last = await insert(writer, own)
            assert await stream.reached(last) == [last]
            assert await behind.reached(last) == [1, 2, first, last]


@pytest.mark.suite_server
async def test_after_a_gap_one_reader_serves_all_again(
    pool: asyncpg.Pool, connect: Connect, writer: asyncpg.Connection, statements: Statements
) -> None:
    holder = await connect()
    async with many(5, pool) as behind:
        await holder.execute("BEGIN")
        await insert(holder)
        await insert(writer)
        await ran(await connect(), SCAN)
        async with many(5, pool) as beyond:
            for _ in range(3):
                last = await insert(writer)
                await asyncio.gather(*(stream.reached(last) for stream in beyond))
            await holder.execute("COMMIT")
            for _ in range(3):
                last = await insert(writer)
                await asyncio.gather(*(stream.reached(last) for stream in (*behind, *beyond)))
            statements.taken()
            for _ in range(10):
                last = await insert(writer)
                await asyncio.gather(*(stream.reached(last) for stream in (*behind, *beyond)))
            pages = [statement for statement in statements.taken() if PAGE in statement.text]
            assert len(pages) <= 11


# Cancellation.


@pytest.mark.parametrize("mode", ["tail", "own pages", "lag"])
async def test_a_read_cancelled_at_any_wait_neither_loses_nor_doubles(
    mode: str, pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    for i in range(30):
        await (burn if i % 5 == 4 else insert)(writer)
    options: dict[str, Any] = {"lag": 0.001} if mode == "lag" else {}
    ids: list[int] = []
    async with table.replace(page_size=3, poll_period=0.02).stream(pool, **options) as stream:

        async def read() -> None:
            ids.extend([int(event.id) for event in await stream.read_page()])

        for _ in range(30):
            if mode == "tail":
                await insert(writer)
            step = 1
            while await cancelled_by_task(step, read()):
                step += 1
                if mode == "tail" and step > 3:
                    await insert(writer)
                if step > 50:
                    break
            if ids and ids[-1] == (await committed(writer))[-1]:
                break
        expected = await committed(writer)
        while ids[-1] < expected[-1]:
            await read()
        assert ids == expected


@pytest.mark.parametrize("options", [{}, {"to_head": True}, {"lag": 0.01}, {"from_head": True}])
async def test_a_stream_closed_at_any_moment_leaves_nothing_behind(
    options: dict[str, Any], pool: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    for i in range(10):
        await (burn if i % 3 == 2 else insert)(writer)
    for step in range(60):
        stream = table.stream(pool, **options)
        read = asyncio.create_task(stream.read_page())
        for _ in range(step):
            await asyncio.sleep(0)
        await stream.aclose()
        await asyncio.wait([read])
    await nothing_borrowed(pool)
    watcher = await connect()

    async def nothing_runs() -> bool:
        return not await watcher.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
            " AND pid <> pg_backend_pid()"
        )

    await eventually(nothing_runs, "no statement and no transaction left on the server")


async def test_an_opening_cancelled_at_any_wait_leaves_nothing_behind(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    for _ in range(3):
        await insert(writer)

    async def look() -> None:
        async with table.stream(pool, to_head=True) as stream:
            assert len(await stream.read_page()) == 3

    step = 1
    while await cancelled_by_task(step, look()):
        await nothing_borrowed(pool)
        step += 1
    assert step > 5


# A loader of the user's own.


async def test_a_loader_that_fails_at_the_head_is_tried_again(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    fail = True

    async def load(connection: object, events: Sequence[Event]) -> Sequence[Event]:
        if fail:
            raise LookupError("as the test wants it")
        return events

    async with table.replace(loader=load).stream(pool, from_head=True) as stream:
        last = await insert(writer)
        for _ in range(2):
            with pytest.raises(LookupError):
                await stream.read_page()
        fail = False
        assert [int(event.id) for event in await stream.read_page()] == [last]


# Wake-ups.


class Broker:
    """A notifier of the user's own."""

    def __init__(self) -> None:
        self._local = LocalNotifier()
        self.calls: list[str] = []

    def notify(self, table: str) -> None:
        self._local.notify(table)

    def subscribe(self, table: str, wake: Callable[[], None]) -> Callable[[], None]:
        self.calls.append(f"subscribed to {table}")
        leave = self._local.subscribe(table, wake)

        def unsubscribe() -> None:
            self.calls.append("left")
            leave()

        return unsubscribe


async def test_a_notifier_is_subscribed_to_before_the_head_is_loaded(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    broker = Broker()

    async def load(connection: object, events: Sequence[Event]) -> Sequence[Event]:
        broker.calls.append("loaded")
        return events

    own = table.replace(notifier=broker, loader=load)
    async with own.stream(pool, from_head=True) as stream:
        for _ in range(2):
            await insert(writer, own)
            await stream.read_page()
    assert broker.calls == ["subscribed to public.events", "loaded", "loaded", "left"]


async def test_a_wake_up_while_the_head_is_loaded_is_not_lost(
    database: Database, writer: asyncpg.Connection
) -> None:
    opened, answered, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Held(asyncpg.Connection):
        """Keeps back the first answer that the tail gets."""

        async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
            rows = await super().fetch(query, *args, **options)
            if "max(" in query:
                opened.set()
            elif PAGE in query and opened.is_set():
                answered.set()
                await go_on.wait()
            return rows

    own = table.replace(notifier=LocalNotifier())
    async with (
        asyncpg.create_pool(database.dsn, min_size=1, max_size=5, connection_class=Held) as pool,
        reading(own.stream(pool, from_head=True)) as stream,
    ):
        await answered.wait()
        last = await insert(writer, own)
        go_on.set()
        assert await stream.reached(last) == [last]


@pytest.mark.parametrize("wakeups", ["commit", "transaction", "trigger"])
async def test_streams_are_woken_by_this_process_and_others(
    wakeups: Any, pool: asyncpg.Pool, connect: Connect, spawn: Spawn, database: Database
) -> None:
    woken = table.replace(wakeups=wakeups)
    writer = await connect()
    await woken.create(writer)
    async with reading(woken.stream(pool)) as stream:
        for _ in range(3):
            await stream.reached(await insert(writer, woken))
        child = await spawn(insert_on_request, database.dsn, wakeups)
        await child.until("ready")
        for _ in range(3):
            await child.write_line("insert")
            await stream.reached(int(await child.line()))
        assert await committed(writer) == stream.ids == list(range(1, 7))
        await child.write_line("")
        await child.wait()


async def insert_on_request(dsn: str, wakeups: Any) -> None:
    writer = await asyncpg.connect(dsn)
    print("ready", flush=True)
    while await asyncio.to_thread(input):
        print(await insert(writer, table.replace(wakeups=wakeups)), flush=True)
    await writer.close()


async def test_streams_poll_where_nothing_wakes_them(pool: asyncpg.Pool, writer: asyncpg.Connection) -> None:
    polled = table.replace(wakeups=None, poll_period=0.05)
    async with reading(polled.stream(pool)) as stream:
        for _ in range(3):
            await stream.reached(await insert(writer, polled))


async def test_a_local_notifier_wakes_streams_of_its_loop(
    pool: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    local = table.replace(notifier=LocalNotifier())
    async with reading(local.stream(pool)) as stream:
        for _ in range(3):
            await stream.reached(await insert(writer, local))
