"""Attempts in tables: they keep the rules on every database, and survive the processes that make them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio import AttemptStore, Event, SchemaError, Spec, run
from reflex_aio.errors import TableNotFound
from reflex_aio.memory import MemoryEvents
from reflex_aio.sql import AtomicConsumer, AttemptsTable
from reflex_aio.testing import check_attempt_store, rules_of
from tests.fix_backends import Backend
from tests.fix_processes import Spawn
from tests.sql.failing_process import NAME, RETRIES, attempts, cursors, errors, failing
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

_numbers = count(1)


@pytest_asyncio.fixture
async def connection(backend: Backend) -> Any:
    connection = await backend.connect()
    await attempts.create(connection)
    return connection


async def test_attempts_keep_the_rules(backend_pool: Any) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[AttemptStore]:
        table = AttemptsTable(f"attempts_{next(_numbers)}")
        async with backend_pool.acquire() as connection:
            await table.create(connection)
        yield table.store(backend_pool)

    async with asyncio.TaskGroup() as group:
        for rule in rules_of(check_attempt_store):
            group.create_task(check_attempt_store(make, rules=[rule]))


async def test_next_attempt_is_due_by_the_database_clock_whatever_the_time_zone(
    backend: Backend, connection: Any
) -> None:
    async with backend.pool(1) as eastern, backend.pool(1) as western:
        for pool, hours in ((eastern, 9), (western, -5)):
            async with pool.acquire() as one:
                await backend.fetch(one, backend.set_time_zone.format(hours))
        await attempts.store(eastern).record("billing", "7", delay=60.0)
        assert 30 < (await attempts.store(western).get("billing"))["7"].seconds_left <= 60


async def test_a_table_of_another_name_works(backend_pool: Any, connection: Any) -> None:
    table = attempts.replace(name="Tries")
    for _ in range(2):
        await table.create(connection)
    await table.validate(connection)
    store = table.store(backend_pool)
    for _ in range(2):
        await store.record("billing", "7", delay=1.0)
    assert (await store.get("billing"))["7"].count == 2


async def test_ddl_makes_the_table(backend: Backend, connection: Any) -> None:
    table = attempts.replace(name="migrated")
    for statement in table.ddl(backend.dialect).split(";"):
        if statement.strip():
            await backend.fetch(connection, statement)
    await table.validate(connection)


async def test_a_table_of_another_kind_is_reported(backend: Backend, connection: Any) -> None:
    with pytest.raises(TableNotFound):
        await attempts.replace(name="nowhere").validate(connection)
    await backend.fetch(connection, "CREATE TABLE other (consumer varchar(9), event_id varchar(9) NOT NULL)")
    with pytest.raises(SchemaError, match='"attempts" is missing') as caught:
        await attempts.replace(name="other").validate(connection)
    assert any("there is no unique index" in line for line in caught.value.differences)


async def test_a_store_without_its_table_raises_table_not_found(backend_pool: Any) -> None:
    store = attempts.replace(name="nowhere").store(backend_pool)
    for call in (store.get("a"), store.record("a", "7", delay=1.0), store.clear("a", "7")):
        with pytest.raises(TableNotFound, match="nowhere"):
            await call


@pytest.mark.one_library
async def test_attempts_are_counted_on_when_the_process_is_killed_after_each(
    backend: Backend, backend_pool: Any, connection: Any, spawn: Spawn
) -> None:
    """After the last one the event is recorded, by a process that has itself seen one failure only."""
    await cursors.create(connection)
    await errors.create(connection)
    store, handled = attempts.store(backend_pool), []
    for attempt in range(1, RETRIES + 2):
        child = await spawn(failing, backend.dsn)
        if attempt <= RETRIES:

            async def counted(attempt: int = attempt) -> bool:
                stored = (await store.get(NAME)).get("2")
                return stored is not None and stored.count == attempt

            await eventually(counted, f"{attempt} attempts", within=30.0)
            assert (await store.get(NAME))["2"].seconds_left > 1000
            await child.kill()
            assert await cursors.get(connection, NAME) == "1"
            # The delay of an hour is over.
            await backend.fetch(
                connection, "UPDATE consumer_attempts SET next_try_at = '2001-01-01 00:00:00'"
            )
        else:

            async def consumed() -> bool:
                return await cursors.get(connection, NAME) == "3"

            await eventually(consumed, "all events consumed", within=30.0)
            handled = [await child.line() for _ in range(2)]
            await child.kill()
    assert handled == ["event 2", "event 3"]
    [error] = await errors.find(connection)
    assert (error.event_id, error.message) == ("2", "ValueError: no such account")
    assert await store.get(NAME) == {}


async def test_a_pool_of_one_connection_suffices_atomic_consumers_too(
    backend: Backend, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempt is written after the end of the transaction, which uses that connection."""
    await cursors.create(connection)
    events, failures = MemoryEvents(), [ValueError("x")]
    await events.insert(1, 1)
    await events.insert(2, 1)

    async def handle(event: Event, connection: Any) -> None:
        if failures:
            raise failures.pop()

    async with backend.pool(1) as pool:
        store = attempts.store(pool)
        consumer = AtomicConsumer("a", handle)
        spec = Spec(events, cursors.store(pool), consumer, to_head=True, attempts=store)
        async with asyncio.timeout(deadline(20)):
            with pytest.raises(ValueError, match="x"):
                await run(spec)
            assert (await store.get("a"))["1"].count == 1
            await run(spec)
            assert await store.get("a") == {}
    assert "could not write the attempts" not in caplog.text
    assert await cursors.get(connection, "a") == "2"
