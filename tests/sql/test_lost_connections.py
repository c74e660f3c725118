"""On every database, connections, servers and networks that are lost: a clear error, and nothing missed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio import (
    Backoff,
    ConnectionLost,
    Consumer,
    DatabaseError,
    Event,
    EventStream,
    ReflexError,
    Spec,
    run,
    run_forever,
)
from reflex_aio.hooks import Hooks
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.sql import CursorsTable, EventsTable
from tests.fix_backends import Backend, OwnServer
from tests.fix_proxy import Proxy
from tests.reading import reading
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio


class Pages(Hooks):
    """Counts the pages that were loaded, and the gaps that were met."""

    def __init__(self) -> None:
        self.loaded = self.gaps = 0

    def gap_detected(self, table: str, after: int, before: int) -> None:
        self.gaps += 1

    def page_loaded(self, table: str, rows: int, seconds: float) -> None:
        self.loaded += 1

    async def more(self, read: asyncio.Task[object], count: int = 3) -> None:
        """Return once so many more pages were loaded for a read, or it has failed.

        A stream may report one loss twice: for its own statement, and for one that it shares with others.
        """
        wanted = self.loaded + count
        await eventually(lambda: read.done() or self.loaded >= wanted, f"{count} more pages are loaded")

    async def gap_between(self, holding: "Writing", writing: "Writing") -> None:
        """Leave a gap open, and return once it is met: ``holding`` has its id."""
        before = self.gaps
        await holding.run("BEGIN")
        await holding.insert()
        await writing.insert()
        await eventually(lambda: self.gaps > before, "the gap is met")


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def events(pages: Pages) -> EventsTable:
    return EventsTable("events", poll_period=0.05, hooks=pages)


@pytest_asyncio.fixture
async def writer(backend: Backend, events: EventsTable) -> Any:
    """A connection that writes, to a database with the events table."""
    connection = await backend.connect()
    await events.create(connection)
    return connection


class Writing:
    """What a connection does to the table of events."""

    def __init__(self, backend: Backend, events: EventsTable, connection: Any) -> None:
        self._backend = backend
        self._events = events
        self._connection = connection

    async def insert(self) -> int:
        return int(await self._events.insert(self._connection, 1, 1))

    async def burn(self) -> None:
        """Draw an id that is never there."""
        await self.run("BEGIN")
        await self.insert()
        await self.run("ROLLBACK")

    async def run(self, statement: str) -> None:
        await self._backend.fetch(self._connection, statement)

    async def committed(self) -> list[int]:
        rows = await self._backend.fetch(
            self._connection, "SELECT id FROM events WHERE type <> 0 ORDER BY id"
        )
        return [row[0] for row in rows]


@pytest.fixture
def writing(backend: Backend, events: EventsTable, writer: Any) -> Writing:
    return Writing(backend, events, writer)


@pytest_asyncio.fixture
async def holding(backend: Backend, events: EventsTable, writer: Any) -> Writing:
    """Another connection, to hold a transaction open."""
    return Writing(backend, events, await backend.connect())


at_the_head_or_a_gap = pytest.mark.parametrize("gap", [False, True], ids=["at-the-head", "at-a-gap"])


async def read_to(stream: EventStream, last: int) -> list[int]:
    """Read up to the event ``last``, whatever connections are lost meanwhile."""
    ids: list[int] = []
    async with asyncio.timeout(deadline(20.0)):
        while ids[-1:] != [last]:
            try:
                ids += [int(event.id) for event in await stream.read_page()]
            except ConnectionLost:
                await asyncio.sleep(0.01)
    return ids


async def read_on(stream: EventStream, read: asyncio.Task[Sequence[Event]], last: int) -> list[int]:
    """Read up to the event ``last``, after a read that was under way when the connections were lost.

    The read fails if there was a statement under way, or if the library does not notice a loss before the next one. A
    connection that was lost while it was idle is replaced.
    """
    ids: list[int] = []
    await asyncio.wait([read], timeout=deadline(20.0))
    if (error := read.exception()) is None:
        ids += [int(event.id) for event in read.result()]
    else:
        assert isinstance(error, ConnectionLost)
        assert str(error).startswith("events: ")
    return ids if ids[-1:] == [last] else ids + await read_to(stream, last)


@asynccontextmanager
async def consuming(pool: Any, events: EventsTable) -> AsyncIterator[list[int]]:
    """Run a consumer for ever; yield the ids that it handles."""
    handled: list[int] = []

    async def handle(event: Event) -> None:
        handled.append(int(event.id))

    spec = Spec(events.source(pool), MemoryCursorStore(), Consumer("consumer", handle))
    running = asyncio.create_task(run_forever(spec, backoff=Backoff(0.01, 0.1)))
    try:
        yield handled
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def handled_to(handled: list[int], last: int, *, times: int = 1) -> None:
    await eventually(lambda: handled[-times:] == [last] * times, lambda: f"{last} handled: {handled[-3:]}")


# Connections that are ended.


async def test_a_connection_killed_while_a_stream_is_idle_is_replaced_and_the_stream_goes_on(
    backend: Backend, backend_pool: Any, events: EventsTable, writer: Any, writing: Writing, pages: Pages
) -> None:
    async with events.stream(backend_pool) as stream:
        ids = await read_to(stream, await writing.insert())
        for _ in range(3):
            read = asyncio.create_task(stream.read_page())
            await pages.more(read)
            assert await backend.kill_others(writer)
            await writing.burn()
            ids += await read_on(stream, read, await writing.insert())
        assert ids == await writing.committed()


@pytest.mark.one_library
async def test_a_connection_killed_under_a_statement_is_a_lost_connection_and_the_stream_goes_on(
    backend: Backend, backend_pool: Any, events: EventsTable, writer: Any, writing: Writing
) -> None:
    async with events.stream(backend_pool) as stream:
        ids = await read_to(stream, await writing.insert())
        read = asyncio.create_task(stream.read_page())
        for statement in backend.lock_table:
            await writing.run(statement.format("events"))
        # Not by the writer's connection: within a transaction, PostgreSQL shows the same activity again and again.
        await backend.waiting_for_tables(1)
        await backend.kill_others(writer)
        with pytest.raises(ConnectionLost):
            await read
        await writing.run(backend.unlock_tables)
        ids += await read_to(stream, await writing.insert())
        assert ids == await writing.committed()


async def test_run_raises_a_lost_connection_and_run_forever_goes_on(
    backend: Backend, backend_pool: Any, events: EventsTable, writer: Any, writing: Writing
) -> None:
    handled: list[int] = []

    async def handle(event: Event) -> None:
        handled.append(int(event.id))

    once = Spec(events.source(backend_pool), MemoryCursorStore(), Consumer("once", handle))
    running = asyncio.create_task(run(once))
    async with consuming(backend_pool, events) as for_ever:
        for _ in range(3):
            await handled_to(for_ever, await writing.insert())
            await backend.kill_others(writer)
        for statement in backend.lock_table:
            await writing.run(statement.format("events"))
        await backend.waiting_for_tables(1)
        await backend.kill_others(writer)
        with pytest.raises(ConnectionLost, match="events: the database can't be reached"):
            await running
        await writing.run(backend.unlock_tables)
        await handled_to(for_ever, await writing.insert())
        assert for_ever == await writing.committed()
    assert handled == for_ever[: len(handled)]


async def test_cursors_that_a_killed_connection_was_to_store_are_a_lost_connection_and_nothing_else(
    backend: Backend, backend_pool: Any, events: EventsTable, writer: Any, writing: Writing
) -> None:
    cursors = CursorsTable("cursors")
    await cursors.create(writer)
    await cursors.set(writer, "billing", "1")
    store = cursors.store(backend_pool)
    async with backend.driver.transaction(writer):
        await cursors.set(writer, "billing", "2")
        moving = asyncio.create_task(store.set("billing", "3"))
        await backend.waiting_for_locks(1)
        await backend.kill_others(writer)
        with pytest.raises(ConnectionLost, match="cursors: the database can't be reached"):
            await moving
    assert await store.get("billing") == "2"
    await store.set("billing", "3")
    assert await store.get("billing") == "3"


# Servers that go away and come back.


async def connected(own: OwnServer) -> Any:
    """Connect as soon as the server lets one."""

    async def connection() -> Any:
        try:
            return await own.backend.connect()
        except (OSError, own.backend.library_error):
            return None

    return await eventually(connection, "the server lets one connect")


@pytest.mark.parametrize("crash", [False, True], ids=["restarted", "kill -9"])
async def test_streams_and_consumers_recover_from_a_server_that_is_gone_with_gaps_open_and_miss_nothing(
    crash: bool, own_backend: OwnServer, events: EventsTable, pages: Pages
) -> None:
    backend, server = own_backend.backend, own_backend.server
    async with backend.pool(10) as pool:
        writer = await connected(own_backend)
        await events.create(writer)
        writing = Writing(backend, events, writer)
        async with events.stream(pool) as stream, consuming(pool, events) as handled:
            ids: list[int] = []
            for gap_open in (False, True):
                await writing.burn()
                ids += await read_to(stream, await writing.insert())
                if gap_open:
                    holding = Writing(backend, events, await connected(own_backend))
                    await pages.gap_between(holding, writing)
                read = asyncio.create_task(stream.read_page())
                if crash:
                    await server.kill()
                    await server.start()
                else:
                    await server.restart()
                writing = Writing(backend, events, await connected(own_backend))
                ids += await read_on(stream, read, await writing.insert())
                assert ids == await writing.committed()
                await handled_to(handled, ids[-1])
            assert handled == ids


@pytest.mark.one_library
async def test_run_reports_a_server_that_is_down(own_backend: OwnServer, events: EventsTable) -> None:
    async def handle(event: Event) -> None: ...

    backend = own_backend.backend
    async with backend.pool(5) as pool:
        await events.create(await connected(own_backend))
        spec = Spec(events.source(pool), MemoryCursorStore(), Consumer("c", handle), to_head=True)
        await run(spec)
        await own_backend.server.stop()
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="events: the database can't be reached"):
                await run(spec)
        await own_backend.server.start()
        await run(spec)


# Databases that refuse to be written to.


async def test_where_nothing_can_be_written_events_are_streamed_and_a_cursor_that_is_not_stored_stops_the_run(
    backend: Backend, events: EventsTable, writer: Any, writing: Writing
) -> None:
    cursors = CursorsTable("cursors")
    await cursors.create(writer)
    handled: list[int] = []

    async def handle(event: Event) -> None:
        handled.append(int(event.id))

    last = [await writing.insert() for _ in range(3)][-1]
    async with backend.pool(5, **backend.read_only) as pool:
        async with events.stream(pool) as stream:
            assert await read_to(stream, last) == await writing.committed()
        spec = Spec(events.source(pool), cursors.store(pool), Consumer("c", handle), to_head=True)
        with pytest.raises(DatabaseError, match=r"cursors: .*(?i:read.only transaction)"):
            await run(spec)
    assert handled == [1]
    assert await cursors.all(writer) == {}


# The network.


@pytest_asyncio.fixture
async def proxy(backend: Backend) -> AsyncIterator[Proxy]:
    async with Proxy(backend.dsn) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def through_proxy(backend: Backend, proxy: Proxy, writer: Any) -> AsyncIterator[Any]:
    async with backend.pool(5, **backend.by_way_of(proxy)) as pool:
        yield pool


@at_the_head_or_a_gap
async def test_connections_that_are_cut_are_lost_connections_and_the_stream_goes_on(
    gap: bool,
    proxy: Proxy,
    through_proxy: Any,
    events: EventsTable,
    writing: Writing,
    holding: Writing,
    pages: Pages,
) -> None:
    ids = [await writing.insert()]
    for _ in range(3):
        async with events.stream(through_proxy, str(ids[-1])) as stream:
            read = asyncio.create_task(stream.read_page())
            if gap:
                await pages.gap_between(holding, writing)
            else:
                await pages.more(read)
            await proxy.drop_connections()
            if gap:
                await holding.run("COMMIT")
            await writing.burn()
            ids += await read_on(stream, read, await writing.insert())
    assert ids == await writing.committed()


@pytest.mark.one_library
async def test_a_network_that_is_gone_for_a_while_is_a_lost_connection_as_long(
    proxy: Proxy, through_proxy: Any, events: EventsTable, writing: Writing, pages: Pages
) -> None:
    async with events.stream(through_proxy) as stream, consuming(through_proxy, events) as handled:
        ids = await read_to(stream, await writing.insert())
        await proxy.stop()
        for _ in range(3):
            with pytest.raises(ConnectionLost, match="events: the database can't be reached"):
                await stream.read_page()
        last = await writing.insert()
        await proxy.start()
        ids += await read_to(stream, last)
        await handled_to(handled, last)
        assert handled == ids == await writing.committed()


@at_the_head_or_a_gap
async def test_a_silent_server_is_a_lost_connection_after_the_query_timeout(
    gap: bool,
    proxy: Proxy,
    through_proxy: Any,
    events: EventsTable,
    writing: Writing,
    holding: Writing,
    pages: Pages,
) -> None:
    async with events.replace(query_timeout=0.3).stream(through_proxy) as stream:
        ids = await read_to(stream, await writing.insert())
        read = asyncio.create_task(stream.read_page())
        if gap:
            await pages.gap_between(holding, writing)
        else:
            await pages.more(read)
        proxy.stall()
        with pytest.raises(ConnectionLost, match=r"did not answer within 0\.3 s"):
            await read
        with pytest.raises(ConnectionLost):
            await stream.read_page()
        proxy.resume()
        if gap:
            await holding.run("COMMIT")
        ids += await read_to(stream, await writing.insert())
        assert ids == await writing.committed()


async def test_a_stream_on_a_silent_server_closes_at_once(
    proxy: Proxy, through_proxy: Any, events: EventsTable, writing: Writing, pages: Pages
) -> None:
    async with asyncio.timeout(deadline(5.0)):
        async with events.stream(through_proxy) as stream:
            await read_to(stream, await writing.insert())
            read = asyncio.create_task(stream.read_page())
            await pages.more(read)
            proxy.stall()
        with pytest.raises(ReflexError):
            await read
    proxy.resume()


# The user's pool.


async def test_a_pool_of_one_connection_is_shared_with_the_handler(
    backend: Backend, events: EventsTable, writing: Writing
) -> None:
    handled: list[int] = []
    for i in range(30):
        await (writing.burn if i % 5 == 4 else writing.insert)()
    async with backend.pool(1) as pool:

        async def handle(event: Event) -> None:
            async with pool.acquire() as connection:
                handled.append(await backend.value(connection, f"SELECT {event.id}"))

        source = events.replace(page_size=7).source(pool)
        async with asyncio.timeout(deadline(20.0)):
            await run(Spec(source, MemoryCursorStore(), Consumer("to head", handle), to_head=True))
            assert handled == await writing.committed()
            spec = Spec(source, MemoryCursorStore({"live": str(handled[-1])}), Consumer("live", handle))
            running = [asyncio.create_task(run(spec)) for _ in range(2)]
            for _ in range(10):
                await writing.burn()
                await handled_to(handled, await writing.insert(), times=2)
        for task in running:
            task.cancel()
        await asyncio.wait(running)


@pytest.mark.parametrize("activity", ["idle", "active", "at a gap", "paging"])
async def test_closing_the_pool_under_streams_ends_at_once_and_is_an_error_to_them(
    activity: str,
    backend: Backend,
    events: EventsTable,
    writing: Writing,
    holding: Writing,
    pages: Pages,
) -> None:
    for _ in range(50):
        await writing.insert()
    table = events.replace(page_size=1) if activity == "paging" else events

    async def insert_for_ever() -> None:
        while True:
            await writing.insert()

    async with (
        backend.pool(5) as pool,
        reading(table.stream(pool)) as stream,
        reading(table.stream(pool, lag=0.01)) as other,
    ):
        if activity != "paging":
            await stream.reached(50)
            await other.reached(50)
        inserting = asyncio.create_task(insert_for_ever()) if activity == "active" else None
        if inserting is not None:
            await stream.reached(60)
        if activity == "at a gap":
            await pages.gap_between(holding, writing)
        async with asyncio.timeout(deadline(3.0)):
            await backend.close_pool(pool)
        if inserting is not None:
            inserting.cancel()
            await asyncio.wait([inserting])
        for one in (stream, other):
            error = await one.failure()
            assert isinstance(error, ReflexError)
            assert "pool is clos" in str(error)
