"""Transactions of ours, and waking by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio.sql import EventsTable, transaction
from reflex_aio.sql.events.insert import call_after_commit
from tests.fix_backends import Backend, MysqlBackend
from tests.fix_databases import Connect
from tests.reading import reading
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

# Long enough not to help those that are woken.
table = EventsTable("events", poll_period=30.0)

# In a way that wakes no stream.
INSERT = "INSERT INTO events (foreign_id, type) VALUES ('1', 1)"


class RecordingNotifier:
    """A notifier that records its notifications."""

    def __init__(self) -> None:
        self.tables: list[str] = []

    def notify(self, table: str) -> None:
        # Without the schema, which is PostgreSQL's public, or the database.
        self.tables.append(table.rpartition(".")[2])

    def subscribe(self, table: str, wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


@pytest.fixture
def recorder() -> RecordingNotifier:
    return RecordingNotifier()


@pytest_asyncio.fixture
async def connection(backend: Backend) -> Any:
    """A connection to a database with the events table."""
    connection = await backend.connect()
    await table.create(connection)
    return connection


async def foreign_ids(backend: Backend) -> list[str]:
    """The foreign ids of the events that are committed."""
    rows = await backend.fetch(await backend.connect(), "SELECT foreign_id FROM events ORDER BY id")
    return [row[0] for row in rows]


class Undone(Exception):
    """Raised to have a transaction rolled back."""


@asynccontextmanager
async def undone(connection: Any) -> AsyncIterator[None]:
    """A transaction of ours that is rolled back."""

    async def undo() -> AsyncIterator[None]:
        async with transaction(connection):
            yield
            raise Undone

    steps = undo()
    await anext(steps)
    yield
    with pytest.raises(Undone):
        await anext(steps)


# The transaction.


async def test_what_is_done_in_it_is_committed_and_streams_are_woken_once(
    connection: Any, recorder: RecordingNotifier, backend: Backend
) -> None:
    events = table.replace(notifier=recorder)
    async with transaction(connection):
        await events.insert(connection, 1, 1)
        await events.insert(connection, 2, 1)
        await events.insert_many(connection, [(3, 1), (4, 1)])
        assert recorder.tables == []
    await eventually(lambda: recorder.tables == ["events"], lambda: f"notified once, not {recorder.tables}")
    assert await foreign_ids(backend) == ["1", "2", "3", "4"]


async def test_each_table_that_was_inserted_into_is_woken(
    connection: Any, recorder: RecordingNotifier
) -> None:
    others = EventsTable("others", notifier=recorder)
    await others.create(connection)
    async with transaction(connection):
        await table.replace(notifier=recorder).insert(connection, 1, 1)
        await others.insert(connection, 1, 1)
    await eventually(lambda: sorted(recorder.tables) == ["events", "others"], "both notified")


async def test_all_notifiers_of_one_table_are_notified(connection: Any) -> None:
    notifiers = RecordingNotifier(), RecordingNotifier()
    async with transaction(connection):
        for notifier in notifiers:
            await table.replace(notifier=notifier).insert(connection, 1, 1)
    await eventually(lambda: all(recorder.tables == ["events"] for recorder in notifiers), "both notified")


async def test_an_error_rolls_it_back_and_is_raised(connection: Any, backend: Backend) -> None:
    async with undone(connection):
        await table.insert(connection, 1, 1)
    assert await foreign_ids(backend) == []
    async with transaction(connection):
        await table.insert(connection, 2, 1)
    assert await foreign_ids(backend) == ["2"]


async def test_a_cancellation_rolls_it_back(connection: Any, backend: Backend) -> None:
    inserted = asyncio.Event()

    async def work() -> None:
        async with transaction(connection):
            await table.insert(connection, 1, 1)
            inserted.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inserted.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert await foreign_ids(backend) == []


async def test_within_another_it_is_a_savepoint(connection: Any, backend: Backend) -> None:
    async with transaction(connection):
        await table.insert(connection, 1, 1)
        async with undone(connection):
            await table.insert(connection, 2, 1)
        async with transaction(connection):
            await table.insert(connection, 3, 1)
    assert await foreign_ids(backend) == ["1", "3"]


async def test_a_transaction_that_was_begun_otherwise_is_refused_and_goes_on(
    connection: Any, backend: Backend
) -> None:
    await backend.fetch(connection, "BEGIN")
    await table.insert(connection, 1, 1)
    with pytest.raises(
        ValueError, match="is in a transaction that was begun elsewhere: commit it or roll it back"
    ):
        async with transaction(connection):
            raise AssertionError
    await table.insert(connection, 2, 1)
    assert await foreign_ids(backend) == []
    await backend.fetch(connection, "COMMIT")
    async with transaction(connection):
        await table.insert(connection, 3, 1)
    assert await foreign_ids(backend) == ["1", "2", "3"]


async def test_a_pool_is_refused_with_the_way_to_a_connection(backend_pool: Any) -> None:
    with pytest.raises(TypeError, match=r"is a pool: pass a connection"):
        async with transaction(backend_pool):
            raise AssertionError


async def test_after_a_rollback_there_is_no_notification_where_it_is_detected(
    mysql: MysqlBackend, recorder: RecordingNotifier
) -> None:
    connection = await mysql.connect()
    events = table.replace(notifier=recorder)
    await events.create(connection)
    async with undone(connection):
        await events.insert(connection, 1, 1)
    async with transaction(connection), undone(connection):
        await events.insert(connection, 2, 1)
    assert recorder.tables == []
    # At once, outside a transaction; not at all, in one that isn't ours.
    await events.insert(connection, 3, 1)
    assert recorder.tables == ["events"]
    await mysql.fetch(connection, "BEGIN")
    await events.insert(connection, 4, 1)
    await mysql.fetch(connection, "COMMIT")
    assert recorder.tables == ["events"]


async def test_without_autocommit_it_is_a_transaction_all_the_same(
    mysql: MysqlBackend, recorder: RecordingNotifier
) -> None:
    connection = await mysql.connect(autocommit=False)
    events = table.replace(notifier=recorder)
    await events.create(connection)
    for foreign_id in "1", "2":
        async with transaction(connection):
            await events.insert(connection, foreign_id, 1)
        assert recorder.tables == ["events"] * int(foreign_id)
        # Begins a transaction, as every statement does.
        await mysql.fetch(connection, "SELECT * FROM events")
        await connection.rollback()
    assert await foreign_ids(mysql) == ["1", "2"]


# Calls after it, where the client library cannot detect its end.


async def test_calls_are_made_after_the_commit_once_for_each_key(connection: Any) -> None:
    called: list[str] = []
    async with transaction(connection):
        for _ in range(2):
            assert call_after_commit(connection, "a", lambda: called.append("a"))
        async with transaction(connection):
            assert call_after_commit(connection, "b", lambda: called.append("b"))
        assert called == []
    assert called == ["a", "b"]


async def test_nothing_is_called_after_a_rollback(connection: Any) -> None:
    called: list[str] = []
    async with undone(connection):
        assert call_after_commit(connection, "a", lambda: called.append("a"))
    async with transaction(connection):
        async with undone(connection):
            assert call_after_commit(connection, "b", lambda: called.append("b"))
        assert call_after_commit(connection, "c", lambda: called.append("c"))
    assert called == ["c"]


async def test_nothing_is_called_after_a_commit_that_fails(connect: Connect) -> None:
    connection, called = await connect(), list[str]()
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")

    async def fail() -> None:
        async with transaction(connection):
            await connection.execute("INSERT INTO t VALUES (1), (1)")
            assert call_after_commit(connection, "a", lambda: called.append("a"))

    with pytest.raises(asyncpg.UniqueViolationError):
        await fail()
    assert called == []


async def test_there_is_nothing_to_wait_for_outside_of_it(connection: Any, backend: Backend) -> None:
    async with transaction(connection):
        pass
    assert not call_after_commit(connection, "a", lambda: None)
    await backend.fetch(connection, "BEGIN")
    assert not call_after_commit(connection, "a", lambda: None)


# Waking by hand.


# Polls at the start only: a stream that reads an event in time was woken.
unhelped = table.replace(poll_floor=30.0)


async def test_streams_of_this_process_are_woken_after_it(connection: Any, backend_pool: Any) -> None:
    async with reading(unhelped.stream(backend_pool, from_head=True)) as stream:
        for _ in range(3):
            async with transaction(connection):
                inserted = await unhelped.insert(connection, 1, 1)
            await stream.reached(int(inserted))


async def test_streams_of_this_process_are_woken_by_an_insert_outside_a_transaction(
    backend: Backend, backend_pool: Any
) -> None:
    autocommit: dict[str, Any] = {"autocommit": True} if backend.has_autocommit else {}
    connection = await backend.connect(**autocommit)
    await table.create(connection)
    async with reading(unhelped.stream(backend_pool, from_head=True)) as stream:
        for _ in range(3):
            await stream.reached(int(await unhelped.insert(connection, 1, 1)))


async def test_wake_wakes_the_streams_of_the_table(
    backend: Backend, connection: Any, backend_pool: Any
) -> None:
    async with reading(unhelped.stream(backend_pool, from_head=True)) as stream:
        for event_id in (1, 2):
            await backend.fetch(connection, INSERT)
            await unhelped.wake(connection)
            await stream.reached(event_id)


async def test_without_a_wake_up_streams_find_events_by_polling(
    backend: Backend, connection: Any, backend_pool: Any
) -> None:
    polled = table.replace(wakeups=None)
    async with reading(polled.stream(backend_pool, from_head=True)) as stream:
        for event_id in (1, 2, 3):
            await backend.fetch(connection, INSERT)
            # Within the floor, as something happened just now; the period is longer than is waited here.
            await stream.reached(event_id)


async def test_wake_notifies_the_tables_own_notifier(connection: Any, recorder: RecordingNotifier) -> None:
    await table.replace(notifier=recorder).wake(connection)
    await table.replace(name="other.events", notifier=recorder).wake(connection)
    assert recorder.tables == ["events", "events"]


async def test_wake_does_nothing_for_a_table_that_is_polled_alone(connection: Any) -> None:
    await table.replace(wakeups=None).wake(connection)


async def test_wake_refuses_a_pool(backend_pool: Any) -> None:
    with pytest.raises(TypeError, match="is a pool: pass a connection"):
        await table.wake(backend_pool)
