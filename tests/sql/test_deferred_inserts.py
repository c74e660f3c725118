"""Busy writers, whose transactions nobody watches: what they commit is told all the same, and soon."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from reflex_aio.sql import EventsTable, transaction
from reflex_aio.sql.wakeups.notify_session import NotifierTimeouts
from reflex_aio.sql.wakeups.postgres_notifier import PostgresNotifier
from tests.fix_backends import MysqlBackend
from tests.fix_databases import Connect, Database
from tests.fix_proxy import Proxy
from tests.fix_statements import Statements
from tests.sql.notifiers import Woken, listening, notifier_to
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

# Rests that are long enough to do something within.
BUSY = NotifierTimeouts(coalesce=0.005, coalesce_busy=0.1)


@asynccontextmanager
async def busy(
    database: Database | Proxy, timeouts: NotifierTimeouts = BUSY
) -> AsyncIterator[PostgresNotifier]:
    """A notifier that has much to tell, of another table."""

    async def tell() -> None:
        while True:
            for _ in range(10):
                notifier.notify("public.other")
            await asyncio.sleep(0.001)

    notifier = notifier_to(database.dsn, timeouts=timeouts)
    telling = asyncio.create_task(tell())
    try:
        await resting(notifier, 0.0)
        yield notifier
    finally:
        telling.cancel()
        await asyncio.wait([telling])
        await notifier.aclose()


async def resting(notifier: PostgresNotifier, seconds: float) -> None:
    """Wait until a rest is to go on for so long; while something is sent, it isn't known for how long."""
    now = asyncio.get_running_loop().time
    await eventually(
        lambda: now() + seconds < notifier._state.paused_until < math.inf, f"it rests for {seconds} s"
    )


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[asyncpg.Connection]:
    """The connections whose statements asyncpg is asked to tell of, once for each time that it is."""
    connections: list[asyncpg.Connection] = []
    add = asyncpg.Connection.add_query_logger

    def noted(connection: asyncpg.Connection, logger: Any) -> None:
        connections.append(connection)
        add(connection, logger)

    monkeypatch.setattr(asyncpg.Connection, "add_query_logger", noted)
    return connections


async def table(connection: asyncpg.Connection, notifier: PostgresNotifier) -> EventsTable:
    events = EventsTable("events", notifier=notifier)
    await events.create(connection)
    # The first insert on a connection asks for its address.
    await events.insert(connection, "1", 1)
    return events


async def test_each_commit_is_told_though_most_are_not_watched(
    database: Database, connect: Connect, watched: list[asyncpg.Connection]
) -> None:
    connection = await connect()
    async with listening(database.dsn, "public.events") as (_, woken, _), busy(database) as notifier:
        events = await table(connection, notifier)
        watched.clear()
        for _ in range(30):
            before = woken.count
            for _ in range(10):
                async with connection.transaction():
                    await events.insert(connection, "1", 1)
            # No other is made until this is told.
            await woken.more_than(before)
    assert len(watched) < 150


async def test_a_transaction_that_lasts_is_watched_and_told_of_at_its_end(
    database: Database, connect: Connect, watched: list[asyncpg.Connection]
) -> None:
    connection = await connect()
    async with (
        listening(database.dsn, "public.events") as (_, woken, _),
        busy(database, NotifierTimeouts(coalesce=0.005, coalesce_busy=0.4)) as notifier,
    ):
        events = await table(connection, notifier)
        # Otherwise the transaction would be watched for that insert, before the one that is meant.
        await eventually(lambda: not notifier._state.deferred, "that insert is told")
        async with connection.transaction():
            await resting(notifier, 0.2)
            assert not notifier._state.deferred
            watched.clear()
            await events.insert(connection, "1", 1)
            assert not watched
            await eventually(lambda: connection in watched, "it is watched")
            # What was told while it was open has arrived.
            await asyncio.sleep(0.3)
            before = woken.count
            await asyncio.sleep(1.0)
            assert woken.count == before
        await woken.more_than(before)


@pytest.mark.parametrize("lost", [False, True], ids=["that-arrives", "that-is-lost"])
async def test_what_is_committed_beside_a_notification_is_not_watched_and_told_by_the_next(
    lost: bool, database: Database, connect: Connect, proxy: Proxy, watched: list[asyncpg.Connection]
) -> None:
    connection = await connect()
    async with listening(database.dsn, "public.events") as (_, woken, _), busy(proxy) as notifier:
        events = await table(connection, notifier)
        await woken.more_than(0)
        proxy.stall()
        await eventually(lambda: notifier._state.paused_until == math.inf, "a notification is under way")
        watched.clear()
        before = woken.count
        async with connection.transaction():
            await events.insert(connection, "1", 1)
        assert not watched
        if lost:
            await proxy.drop_connections()
        proxy.resume()
        await woken.more_than(before)


@pytest.mark.suite_server
async def test_what_is_committed_last_is_told_by_a_notifier_that_is_closed(
    database: Database, connect: Connect, statements: Statements
) -> None:
    connection = await connect()
    async with busy(database, NotifierTimeouts(coalesce=0.005, coalesce_busy=10.0)) as notifier:
        events = await table(connection, notifier)
        # The rests are doubled up to ten seconds, so this one lasts for more than what is done here.
        await resting(notifier, 0.5)
        statements.taken()
        async with connection.transaction():
            await events.insert(connection, "1", 1)
        await notifier.aclose()
        told = [one.text for one in statements.taken() if "NOTIFY" in one.text]
    assert [text for text in told if "public.events" in text]


async def test_streams_of_the_same_process_are_woken_at_once(database: Database, connect: Connect) -> None:
    connection, woken = await connect(), Woken()
    async with busy(database, NotifierTimeouts(coalesce=0.005, coalesce_busy=60.0)) as notifier:
        events = await table(connection, notifier)
        notifier.subscribe("public.events", woken)
        await resting(notifier, 2.0)
        for _ in range(3):
            before = woken.count
            async with connection.transaction():
                await events.insert(connection, "1", 1)
                assert woken.count == before
            await woken.more_than(before)


async def test_a_writer_that_is_lost_does_no_harm(database: Database, connect: Connect) -> None:
    connection, other = await connect(), await connect()
    async with listening(database.dsn, "public.events") as (_, woken, _), busy(database) as notifier:
        events = await table(connection, notifier)
        await table(other, notifier)
        await connection.execute("BEGIN")
        await events.insert(connection, "1", 1)
        connection.terminate()
        await asyncio.sleep(3 * BUSY.coalesce_busy)
        before = woken.count
        async with other.transaction():
            await events.insert(other, "1", 1)
        await woken.more_than(before)


async def test_of_a_client_library_that_cannot_tell_when_a_transaction_has_ended_nothing_is_told_before(
    database: Database, mysql: MysqlBackend
) -> None:
    """Events on MySQL, and a notifier on PostgreSQL that tells the other processes of them."""
    connection = await mysql.connect()
    named = f"{mysql.arguments['db']}.events"
    async with listening(database.dsn, named) as (_, woken, _), busy(database) as notifier:
        events = EventsTable("events", notifier=notifier)
        await events.create(connection)
        for _ in range(5):
            async with transaction(connection):
                before = woken.count
                await resting(notifier, 0.05)
                await events.insert(connection, "1", 1)
                # Longer than a rest.
                await asyncio.sleep(0.15)
                assert woken.count == before
            await woken.more_than(before)
