"""Deferred inserts: the commits of busy writers, whose transactions are not observed, are announced soon."""

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

# Pauses that are long enough to do something within.
BUSY = NotifierTimeouts(coalesce=0.005, coalesce_busy=0.1)


@asynccontextmanager
async def busy(
    database: Database | Proxy, timeouts: NotifierTimeouts = BUSY
) -> AsyncIterator[PostgresNotifier]:
    """A notifier that is busy with notifications for another table."""

    async def notify() -> None:
        while True:
            for _ in range(10):
                notifier.notify("public.other")
            await asyncio.sleep(0.001)

    notifier = notifier_to(database.dsn, timeouts=timeouts)
    notifying = asyncio.create_task(notify())
    try:
        await pausing(notifier, 0.0)
        yield notifier
    finally:
        notifying.cancel()
        await asyncio.wait([notifying])
        await notifier.aclose()


async def pausing(notifier: PostgresNotifier, seconds: float) -> None:
    """Wait until a pause will last for this time. While a NOTIFY is under way, its end is unknown."""
    now = asyncio.get_running_loop().time
    await eventually(
        lambda: now() + seconds < notifier._state.paused_until < math.inf, f"it pauses for {seconds} s"
    )


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[asyncpg.Connection]:
    """The connections that get a query logger, once for each time."""
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
    # The first insert on a connection queries its address.
    await events.insert(connection, "1", 1)
    return events


async def test_each_commit_is_announced_though_most_are_not_observed(
    database: Database, connect: Connect, observed: list[asyncpg.Connection]
) -> None:
    connection = await connect()
    async with listening(database.dsn, "public.events") as (_, woken, _), busy(database) as notifier:
        events = await table(connection, notifier)
        observed.clear()
        for _ in range(30):
            before = woken.count
            for _ in range(10):
                async with connection.transaction():
                    await events.insert(connection, "1", 1)
            # There is no other commit until this one is announced.
            await woken.more_than(before)
    assert len(observed) < 150


async def test_a_transaction_that_lasts_is_observed_and_announced_at_its_end(
    database: Database, connect: Connect, observed: list[asyncpg.Connection]
) -> None:
    connection = await connect()
    async with (
        listening(database.dsn, "public.events") as (_, woken, _),
        busy(database, NotifierTimeouts(coalesce=0.005, coalesce_busy=0.4)) as notifier,
    ):
        events = await table(connection, notifier)
        # Otherwise the transaction would be observed because of that insert.
        await eventually(lambda: not notifier._state.deferred, "that insert is announced")
        async with connection.transaction():
            await pausing(notifier, 0.2)
            assert not notifier._state.deferred
            observed.clear()
            await events.insert(connection, "1", 1)
            assert not observed
            await eventually(lambda: connection in observed, "it is observed")
            # The notifications of the open transaction have arrived.
            await asyncio.sleep(0.3)
            before = woken.count
            await asyncio.sleep(1.0)
            assert woken.count == before
        await woken.more_than(before)


@pytest.mark.parametrize("lost", [False, True], ids=["that-arrives", "that-is-lost"])
async def test_a_commit_during_a_notification_is_not_observed_and_announced_by_the_next(
    lost: bool, database: Database, connect: Connect, proxy: Proxy, observed: list[asyncpg.Connection]
) -> None:
    connection = await connect()
    async with listening(database.dsn, "public.events") as (_, woken, _), busy(proxy) as notifier:
        events = await table(connection, notifier)
        await woken.more_than(0)
        proxy.stall()
        await eventually(lambda: notifier._state.paused_until == math.inf, "a notification is under way")
        observed.clear()
        before = woken.count
        async with connection.transaction():
            await events.insert(connection, "1", 1)
        assert not observed
        if lost:
            await proxy.drop_connections()
        proxy.resume()
        await woken.more_than(before)


@pytest.mark.suite_server
async def test_the_last_commit_is_announced_when_the_notifier_is_closed(
    database: Database, connect: Connect, statements: Statements
) -> None:
    connection = await connect()
    async with busy(database, NotifierTimeouts(coalesce=0.005, coalesce_busy=10.0)) as notifier:
        events = await table(connection, notifier)
        # The pauses are doubled up to ten seconds, so this one outlasts the rest of the test.
        await pausing(notifier, 0.5)
        statements.taken()
        async with connection.transaction():
            await events.insert(connection, "1", 1)
        await notifier.aclose()
        notifications = [one.text for one in statements.taken() if "NOTIFY" in one.text]
    assert [text for text in notifications if "public.events" in text]


async def test_streams_of_the_same_process_are_woken_immediately(
    database: Database, connect: Connect
) -> None:
    connection, woken = await connect(), Woken()
    async with busy(database, NotifierTimeouts(coalesce=0.005, coalesce_busy=60.0)) as notifier:
        events = await table(connection, notifier)
        notifier.subscribe("public.events", woken)
        await pausing(notifier, 2.0)
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


async def test_no_notification_precedes_a_commit_that_the_client_library_cannot_detect(
    database: Database, mysql: MysqlBackend
) -> None:
    """Events on MySQL, and a notifier on PostgreSQL for other processes."""
    connection = await mysql.connect()
    named = f"{mysql.arguments['db']}.events"
    async with listening(database.dsn, named) as (_, woken, _), busy(database) as notifier:
        events = EventsTable("events", notifier=notifier)
        await events.create(connection)
        for _ in range(5):
            async with transaction(connection):
                before = woken.count
                await pausing(notifier, 0.05)
                await events.insert(connection, "1", 1)
                # Longer than a pause.
                await asyncio.sleep(0.15)
                assert woken.count == before
            await woken.more_than(before)
