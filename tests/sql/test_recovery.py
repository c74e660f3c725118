"""Streams whose connections or server are lost: a clear error, nothing missed, nothing left behind."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import (
    Backoff,
    ConnectionLost,
    Consumer,
    Event,
    EventStream,
    MemoryCursorStore,
    ReflexError,
    Spec,
    run,
    run_forever,
)
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.hooks import Hooks
from reflex_aio.sql.events import EventsTable
from tests.fix_databases import Connect, Database
from tests.fix_proxy import Proxy
from tests.reading import PAGE, SCAN, ran, reading
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

events = EventsTable("events", poll_period=0.05)

QUICKLY = Backoff(0.01, 0.1)

# In a way that wakes nobody.
INSERT = "INSERT INTO events (foreign_id, type) VALUES ('1', 1) RETURNING id"


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """A connection that writes, to a database with the events table."""
    connection = await connect()
    await events.create(connection)
    return connection


@pytest_asyncio.fixture
async def readers(database: Database, writer: asyncpg.Connection) -> AsyncIterator[asyncpg.Pool]:
    """A pool for streams, whose connections are told by their name."""
    async with asyncpg.create_pool(
        database.dsn, min_size=0, max_size=5, server_settings={"application_name": "readers"}
    ) as pool:
        yield pool


async def insert(connection: asyncpg.Connection) -> int:
    return int(await events.insert(connection, 1, 1))


async def burn(connection: asyncpg.Connection) -> None:
    """Draw an id that is never there."""
    await connection.execute("BEGIN")
    await insert(connection)
    await connection.execute("ROLLBACK")


async def kill(connection: asyncpg.Connection, application: str = "readers") -> int:
    """End the connections of an application; return how many there were."""
    killed: int = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE application_name = $1 AND datname = current_database()",
        application,
    )
    return killed


async def read_to(stream: EventStream, last: int) -> list[int]:
    """Read up to the event ``last``, whatever connections are lost meanwhile."""
    ids: list[int] = []
    async with asyncio.timeout(20.0):
        while ids[-1:] != [last]:
            try:
                ids += [int(event.id) for event in await stream.read_page()]
            except ConnectionLost:
                await asyncio.sleep(0.01)
    return ids


@asynccontextmanager
async def consuming(pool: asyncpg.Pool, table: EventsTable = events) -> AsyncIterator[list[int]]:
    """Run a consumer for ever; yields the ids that it is handed."""
    handled: list[int] = []

    async def handle(event: Event) -> None:
        handled.append(int(event.id))

    spec = Spec(table.source(pool), MemoryCursorStore(), Consumer("consumer", handle))
    running = asyncio.create_task(run_forever(spec, backoff=QUICKLY))
    try:
        yield handled
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def handled_to(handled: list[int], last: int, *, times: int = 1) -> None:
    await eventually(lambda: handled[-times:] == [last] * times, lambda: f"{last} handled: {handled[-3:]}")


# Connections that are ended.


async def test_a_connection_ended_while_a_stream_is_idle_is_a_lost_connection_and_the_stream_goes_on(
    readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with events.stream(readers) as stream:
        first = await insert(writer)
        assert await read_to(stream, first) == [first]
        read = asyncio.create_task(stream.read_page())
        for _ in range(3):
            await kill(writer)
            with pytest.raises(ConnectionLost, match="events: the database can't be reached"):
                await read
            await burn(writer)
            last = await insert(writer)
            assert await read_to(stream, last) == [last]
            read = asyncio.create_task(stream.read_page())
            # Until the tail has a connection again.
            await eventually(lambda: readers.get_size() > readers.get_idle_size(), "borrowed")
        read.cancel()
        await asyncio.wait([read])


@pytest.mark.parametrize("at", ["page", "scan"])
async def test_a_connection_ended_under_a_statement_is_a_lost_connection_and_the_stream_goes_on(
    at: str, readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder, locker = await connect(), await connect()
    async with events.stream(readers) as stream:
        expected = [await insert(writer)]
        assert await read_to(stream, 1) == expected
        read = asyncio.create_task(stream.read_page())
        if at == "scan":
            await holder.execute("BEGIN")
            await insert(holder)
            await insert(writer)
            await ran(writer, SCAN)
        # Statements on the table wait.
        await locker.execute("BEGIN; LOCK TABLE events" if at == "page" else "SELECT 1")
        if at == "scan":
            # Writers hold a lock that lets none be made anew; scans wait behind the one that waits.
            waiting = asyncio.create_task(locker.execute("BEGIN; LOCK TABLE events"))

        async def blocked() -> str:
            return str(
                await writer.fetchval(
                    "SELECT max(query) FROM pg_stat_activity WHERE application_name = 'readers'"
                    " AND wait_event_type = 'Lock' AND state = 'active'"
                )
                or ""
            )

        query = await eventually(blocked, "a statement of the stream waits")
        assert (SCAN in query) == (at == "scan")
        await kill(writer)
        with pytest.raises(ConnectionLost):
            await read
        if at == "scan":
            await holder.execute("COMMIT")
            await waiting
        await locker.execute("COMMIT")
        last = await insert(writer)
        ids = await read_to(stream, last)
        assert ids == list(range(2, last + 1))


async def test_run_raises_a_lost_connection_and_run_forever_goes_on(
    readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    handled: list[int] = []

    async def handle(event: Event) -> None:
        handled.append(int(event.id))

    running = asyncio.create_task(
        run(Spec(events.source(readers), MemoryCursorStore(), Consumer("once", handle)))
    )
    async with consuming(readers) as for_ever:
        for _ in range(3):
            last = await insert(writer)
            await handled_to(for_ever, last)
            await kill(writer)
        with pytest.raises(ConnectionLost):
            await running
        last = await insert(writer)
        await handled_to(for_ever, last)
        assert for_ever == list(range(1, last + 1))
    assert handled == for_ever[: len(handled)]


# Servers that go away and come back.


class Restarts:
    """What may happen to a server."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._server = server

    async def __call__(self, how: str) -> None:
        if how == "kill -9":
            await self._server.kill()
            await self._server.start()
        elif how == "a backend killed":
            # The server ends all others, and begins anew by itself.
            victim = await asyncpg.connect(self._server.dsn)
            os.kill(victim.get_server_pid(), signal.SIGKILL)
            await eventually(victim.is_closed, "the backend gone")
            victim.terminate()
        else:
            mode: Literal["fast", "immediate"] = "fast" if how == "fast" else "immediate"
            await self._server.restart(mode)


async def connected(server: EmbeddedPostgres) -> asyncpg.Connection:
    """Connect as soon as the server lets one."""
    while True:
        try:
            return await asyncpg.connect(server.dsn)
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.02)


@pytest.mark.every_postgres
async def test_streams_recover_from_restarts_with_gaps_open_and_closed_and_miss_nothing(
    own_server: EmbeddedPostgres,
) -> None:
    restart = Restarts(own_server)
    async with asyncpg.create_pool(own_server.dsn, min_size=0, max_size=10) as pool:
        writer = await connected(own_server)
        await events.create(writer)
        async with events.stream(pool) as stream, consuming(pool) as handled:
            expected, ids = [], []
            for how in ("fast", "immediate", "kill -9", "a backend killed"):
                for gap_open in (False, True):
                    expected.append(await insert(writer))
                    await burn(writer)
                    expected.append(await insert(writer))
                    if gap_open:
                        holder = await connected(own_server)
                        await holder.execute("BEGIN")
                        await insert(holder)
                        expected.append(await insert(writer))
                        await ran(writer, SCAN)
                    read = asyncio.create_task(read_to(stream, expected[-1]))
                    await restart(how)
                    if gap_open:
                        holder.terminate()
                    writer.terminate()
                    writer = await connected(own_server)
                    ids += await read
                    expected.append(await insert(writer))
                    ids += await read_to(stream, expected[-1])
                    rows = await writer.fetch("SELECT id FROM events ORDER BY id")
                    assert ids == expected == [row[0] for row in rows], how
                    await handled_to(handled, expected[-1])
            assert handled == expected
        await writer.close()


async def test_a_transaction_left_prepared_over_a_crash_holds_its_event_back_and_is_not_missed(
    own_server: EmbeddedPostgres,
) -> None:
    restart = Restarts(own_server)
    async with asyncpg.create_pool(own_server.dsn, min_size=0, max_size=10) as pool:
        writer = await connected(own_server)
        await events.create(writer)
        async with consuming(pool, events.replace(wakeups=None)) as handled:
            for how in ("immediate", "a backend killed"):
                await writer.execute("BEGIN")
                held = int(await writer.fetchval(INSERT))
                await writer.execute(f"PREPARE TRANSACTION '{held}'")
                await writer.fetchval(INSERT)
                await ran(writer, SCAN)
                await restart(how)
                writer.terminate()
                writer = await connected(own_server)
                last = int(await writer.fetchval(INSERT))
                await ran(writer, SCAN, times=10)
                assert held not in handled
                await writer.execute(f"COMMIT PREPARED '{held}'")
                await handled_to(handled, last)
            rows = await writer.fetch("SELECT id FROM events ORDER BY id")
            assert handled == [row[0] for row in rows]
        await writer.close()


# The connection that listens.


class Heard(Hooks):
    def __init__(self) -> None:
        self.ready = self.lost = 0

    def listener_ready(self) -> None:
        self.ready += 1

    def listener_lost(self, error: BaseException, delay: float) -> None:
        self.lost += 1


async def test_streams_go_on_when_the_connection_that_listens_is_ended(
    readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    seldom = events.replace(poll_period=60.0)
    listeners = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'readers reflex_aio' AND query LIKE $1"

    async def listens() -> bool:
        return bool(await writer.fetchval(listeners, "%pg_notify%") == 1)

    async with reading(seldom.stream(readers, from_head=True)) as stream:
        for _ in range(3):
            # As another process would tell it.
            await eventually(listens, "the hub listens, and has tested it")
            last = await writer.fetchval(INSERT)
            await writer.execute("SELECT pg_notify('reflex_aio', 'public.events')")
            await stream.reached(last)
            assert await kill(writer, "readers reflex_aio") == 1
            # Nobody hears this one; but whoever comes back looks.
            last = await writer.fetchval(INSERT)
            await writer.execute("SELECT pg_notify('reflex_aio', 'public.events')")
            await stream.reached(last)
        assert stream.ids == list(range(1, 7))


async def test_an_event_whose_notification_is_lost_is_found_by_polling(
    readers: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with reading(events.stream(readers, from_head=True)) as stream:
        for _ in range(3):
            await stream.reached(await writer.fetchval(INSERT))


# The network.


@pytest_asyncio.fixture
async def through_proxy(proxy: Proxy, writer: asyncpg.Connection) -> AsyncIterator[asyncpg.Pool]:
    async with asyncpg.create_pool(proxy.dsn, min_size=0, max_size=5) as pool:
        yield pool


@pytest.mark.parametrize("gap", [False, True], ids=["at the head", "at a gap"])
async def test_connections_that_are_cut_are_lost_connections_and_the_stream_goes_on(
    gap: bool, proxy: Proxy, through_proxy: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await connect()
    ids = [await insert(writer)]
    for _ in range(3):
        async with events.stream(through_proxy, str(ids[-1])) as stream:
            read = asyncio.create_task(stream.read_page())
            if gap:
                await holder.execute("BEGIN")
                await insert(holder)
                await insert(writer)
                await ran(writer, SCAN)
            else:
                await ran(writer, PAGE, times=1)
            await proxy.drop_connections()
            with pytest.raises(ConnectionLost):
                await read
            if gap:
                await holder.execute("COMMIT")
            await burn(writer)
            ids += await read_to(stream, await insert(writer))
    rows = await writer.fetch("SELECT id FROM events ORDER BY id")
    assert ids == [row[0] for row in rows]


@pytest.mark.parametrize("gap", [False, True], ids=["at the head", "at a gap"])
async def test_a_silent_server_is_a_lost_connection_after_the_query_timeout(
    gap: bool, proxy: Proxy, through_proxy: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await connect()
    impatient = events.replace(query_timeout=0.3)
    async with impatient.stream(through_proxy) as stream:
        assert await read_to(stream, await insert(writer)) == [1]
        read = asyncio.create_task(stream.read_page())
        if gap:
            await holder.execute("BEGIN")
            await insert(holder)
            await insert(writer)
            await ran(writer, SCAN)
        else:
            await ran(writer, PAGE, times=1)
        proxy.stall()
        with pytest.raises(ConnectionLost, match=r"has not answered within 0\.3 s"):
            await read
        with pytest.raises(ConnectionLost):
            await stream.read_page()
        proxy.resume()
        if gap:
            await holder.execute("COMMIT")
        last = await insert(writer)
        assert await read_to(stream, last) == list(range(2, last + 1))


async def test_a_stream_on_a_silent_server_closes_at_once(
    proxy: Proxy, through_proxy: asyncpg.Pool, writer: asyncpg.Connection
) -> None:
    async with asyncio.timeout(5.0):
        async with events.stream(through_proxy) as stream:
            await read_to(stream, await insert(writer))
            read = asyncio.create_task(stream.read_page())
            await ran(writer, PAGE, times=1)
            proxy.stall()
        with pytest.raises(ReflexError):
            await read
    proxy.resume()


# The user's pool.


async def test_a_pool_of_one_connection_is_shared_with_the_handler(
    database: Database, writer: asyncpg.Connection
) -> None:
    handled: list[int] = []
    for i in range(60):
        await (burn if i % 5 == 4 else insert)(writer)
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=1) as pool:

        async def handle(event: Event) -> None:
            async with pool.acquire() as connection:
                handled.append(await connection.fetchval("SELECT $1::bigint", int(event.id)))

        source = events.replace(page_size=7).source(pool)
        async with asyncio.timeout(20.0):
            await run(Spec(source, MemoryCursorStore(), Consumer("to head", handle), to_head=True))
            spec = Spec(source, MemoryCursorStore({"live": handled[-1]}), Consumer("live", handle))
            running = [asyncio.create_task(run(spec)) for _ in range(2)]
            for _ in range(10):
                await burn(writer)
                last = await insert(writer)
                await handled_to(handled, last, times=2)
        for task in running:
            task.cancel()
        await asyncio.wait(running)


@pytest.mark.parametrize("activity", ["idle", "active", "at a gap", "paging"])
async def test_closing_the_pool_under_streams_ends_at_once_and_is_an_error_to_them(
    activity: str, readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    for _ in range(50):
        await insert(writer)
    table = events.replace(page_size=1) if activity == "paging" else events
    stop = False

    async def write() -> None:
        while not stop:
            await insert(writer)

    async with reading(table.stream(readers)) as stream, reading(table.stream(readers, lag=0.01)) as other:
        holder = await connect()
        if activity != "paging":
            await stream.reached(50)
            await other.reached(50)
        writing = None
        if activity == "active":
            writing = asyncio.create_task(write())
            await stream.reached(60)
        elif activity == "at a gap":
            await holder.execute("BEGIN")
            await insert(holder)
            await insert(writer)
            await ran(await connect(), SCAN)
        async with asyncio.timeout(3.0):
            await readers.close()
        stop = True
        for one in (stream, other):
            error = await one.failure()
            assert isinstance(error, ReflexError)
            assert "pool is clos" in str(error)
        if writing is not None:
            await writing
