"""On PostgreSQL, scans whose connection or server is lost, and the connection that listens: nothing is missed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import Backoff, ConnectionLost, Consumer, Event, EventStream, Spec, run_forever
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.hooks import Hooks
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.sql.events.table import EventsTable
from tests.fix_databases import Connect, Database
from tests.reading import SCAN, ran, reading
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

events = EventsTable("events", poll_period=0.05)

QUICKLY = Backoff(0.01, 0.1)

# In a way that wakes no stream.
INSERT = "INSERT INTO events (foreign_id, type) VALUES ('1', 1) RETURNING id"


@pytest_asyncio.fixture
async def writer(connect: Connect) -> asyncpg.Connection:
    """A connection that writes, to a database with the events table."""
    connection = await connect()
    await events.create(connection)
    return connection


@pytest_asyncio.fixture
async def readers(database: Database, writer: asyncpg.Connection) -> AsyncIterator[asyncpg.Pool]:
    """A pool for streams, whose connections are identified by their name."""
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
    async with asyncio.timeout(deadline(20.0)):
        while ids[-1:] != [last]:
            try:
                ids += [int(event.id) for event in await stream.read_page()]
            except ConnectionLost:
                await asyncio.sleep(0.01)
    return ids


@asynccontextmanager
async def consuming(pool: asyncpg.Pool, table: EventsTable = events) -> AsyncIterator[list[int]]:
    """Run a consumer for ever; yield the ids that it handles."""
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


async def test_a_connection_ended_under_a_scan_is_a_lost_connection_and_the_stream_goes_on(
    readers: asyncpg.Pool, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder, locker = await connect(), await connect()
    async with events.stream(readers) as stream:
        expected = [await insert(writer)]
        assert await read_to(stream, 1) == expected
        read = asyncio.create_task(stream.read_page())
        await holder.execute("BEGIN")
        await insert(holder)
        await insert(writer)
        await ran(writer, SCAN)
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

        assert SCAN in await eventually(blocked, "a statement of the stream waits")
        await kill(writer)
        with pytest.raises(ConnectionLost):
            await read
        await holder.execute("COMMIT")
        await waiting
        await locker.execute("COMMIT")
        last = await insert(writer)
        ids = await read_to(stream, last)
        assert ids == list(range(2, last + 1))


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


class RecordedHooks(Hooks):
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
        return bool(await writer.fetchval(listeners, "%NOTIFY%") == 1)

    async with reading(seldom.stream(readers, from_head=True)) as stream:
        for _ in range(3):
            # As another process would notify.
            await eventually(listens, "the notifier listens, and has tested it")
            last = await writer.fetchval(INSERT)
            await writer.execute("SELECT pg_notify('reflex_aio', 'public.events')")
            await stream.reached(last)
            assert await kill(writer, "readers reflex_aio") == 1
            # No stream receives this one, but reconnecting wakes them.
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
