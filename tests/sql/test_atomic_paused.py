"""A replica that is paused in the handler of an atomic consumer, on every database."""

import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio.sql.cursors.store import CursorsDialect
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.schema.names import CursorsSchema, Name
from tests.fix_backends import Backend
from tests.fix_processes import Spawn
from tests.sql.atomic_paused import NAME, consume, cursors, events
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

# In seconds.
IDLE_TIMEOUT = 1.0


@pytest_asyncio.fixture
async def connection(backend: Backend, backend_pool: Any) -> AsyncIterator[Any]:
    async with backend.driver.acquire(backend_pool) as connection:
        yield connection


@pytest.mark.one_library
async def test_a_paused_replica_blocks_the_others_no_longer_than_its_idle_timeout(
    backend: Backend, connection: Any, spawn: Spawn
) -> None:
    for table in (events, cursors):
        await table.create(connection)
    await backend.fetch(connection, "CREATE TABLE effects (event_id int NOT NULL, owner varchar(9) NOT NULL)")
    await events.insert(connection, 1, 1)

    async def consumed(cursor: str) -> bool:
        return await cursors.get(connection, NAME) == cursor

    paused = await spawn(consume, backend.url, "paused", IDLE_TIMEOUT, 0.2)
    assert await paused.line() == "handling 1"
    paused.send(signal.SIGSTOP)
    other = await spawn(consume, backend.url, "other", IDLE_TIMEOUT, 0.0)
    await eventually(lambda: consumed("1"), "the other one goes on", within=20.0)
    await other.kill()
    # It has written its effect, and only the commit is missing. It then has nothing to do until the next event.
    paused.send(signal.SIGCONT)
    await events.insert(connection, 2, 1)
    assert await paused.line() == "handling 2"
    await eventually(lambda: consumed("2"), "the one that was paused goes on")
    rows = await backend.fetch(connection, "SELECT event_id, owner FROM effects ORDER BY event_id")
    assert [tuple(row) for row in rows] == [(1, "other"), (2, "paused")]
    await spawn.kill_all()


@pytest.mark.parametrize(("session", "in_force"), [(5, 5), (9, 7)])
async def test_the_shorter_timeout_is_in_force_for_the_transaction_only(
    backend: Backend, connection: Any, session: int, in_force: int
) -> None:
    await backend.fetch(connection, backend.set_idle_timeout.format(session))
    transactions = dialect_part(CursorsDialect, backend.dialect, CursorsSchema(Name("cursors")))
    async with transactions.transaction(backend.driver, connection, idle_timeout=7.0):
        assert await backend.value(connection, backend.idle_timeout) == in_force
    assert await backend.value(connection, backend.idle_timeout) == session


async def test_the_timeout_is_in_force_if_the_session_has_none(backend: Backend, connection: Any) -> None:
    before = await backend.value(connection, backend.idle_timeout)
    transactions = dialect_part(CursorsDialect, backend.dialect, CursorsSchema(Name("cursors")))
    async with transactions.transaction(backend.driver, connection, idle_timeout=7.0):
        assert await backend.value(connection, backend.idle_timeout) == 7
    assert await backend.value(connection, backend.idle_timeout) == before
