"""Pinned connections: one of the user's pool, kept while the pool can spare it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import ConnectionLost, DatabaseError
from reflex_aio.sql.drivers import pinned_connection as module
from reflex_aio.sql.drivers.asyncpg import AsyncpgDriver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from tests.core.cancelling import cancelled_by_task
from tests.fix_databases import Connect, Database
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

PID = "SELECT pg_backend_pid()"


@pytest_asyncio.fixture
async def two(database: Database) -> AsyncIterator[asyncpg.Pool]:
    """A pool of two connections."""
    async with asyncpg.create_pool(database.dsn, min_size=2, max_size=2) as pool:
        yield pool


def pinned(pool: asyncpg.Pool, *, timeout: float = 10.0) -> PinnedConnection:
    return PinnedConnection(AsyncpgDriver(), pool, table="events", timeout=timeout)


async def all_idle(pool: asyncpg.Pool) -> None:
    await eventually(lambda: pool.get_idle_size() == pool.get_size(), "every connection is given back")


async def test_statements_run_on_one_connection_while_the_pool_has_others(two: asyncpg.Pool) -> None:
    async with pinned(two) as statements:
        pids = {(await statements.fetch(PID))[0][0] for _ in range(5)}
        assert len(pids) == 1
        assert two.get_idle_size() == 1
        # In transactions of their own.
        times = {(await statements.fetch("SELECT now()"))[0][0] for _ in range(5)}
        assert len(times) == 5
    assert two.get_idle_size() == 2


async def test_who_needs_the_last_connection_gets_it_within_a_moment(two: asyncpg.Pool) -> None:
    async with pinned(two) as statements:
        await statements.fetch(PID)
        async with asyncio.timeout(deadline(1.0)), two.acquire() as one, two.acquire() as other:
            assert await one.fetchval(PID) != await other.fetchval(PID)
        await statements.fetch(PID)


async def test_of_a_pool_in_full_use_each_statement_waits_for_its_turn(two: asyncpg.Pool) -> None:
    async with pinned(two) as statements, two.acquire():
        for _ in range(3):
            await statements.fetch(PID)
            assert two.get_idle_size() == 1


async def test_a_connection_that_is_not_used_for_a_while_is_given_back(
    two: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_KEEP", 0.1)
    async with pinned(two) as statements:
        await statements.fetch(PID)
        await all_idle(two)
        await statements.fetch(PID)
        assert two.get_idle_size() == 1
        await all_idle(two)


async def test_a_connection_that_is_not_to_be_kept_is_given_back_soon(two: asyncpg.Pool) -> None:
    async with pinned(two) as statements:
        await statements.fetch(PID)
        statements.release_soon()
        await all_idle(two)


async def test_a_pool_that_closes_gets_its_connection_back(database: Database) -> None:
    pool = await asyncpg.create_pool(database.dsn, min_size=2)
    async with pinned(pool) as statements:
        await statements.fetch(PID)
        async with asyncio.timeout(deadline(1.0)):
            await pool.close()
        with pytest.raises(DatabaseError, match="events: pool is closed"):
            await statements.fetch(PID)


async def test_after_an_error_the_session_is_reset(two: asyncpg.Pool) -> None:
    async def fail(connection: Any) -> None:
        await connection.execute("BEGIN; SET application_name = 'changed'")
        raise ZeroDivisionError

    async with pinned(two) as statements:
        with pytest.raises(DatabaseError, match="events: division by zero"):
            await statements.fetch("SELECT 1/0")
        with pytest.raises(ZeroDivisionError):
            await statements.use(fail)
    await all_idle(two)
    session = await two.fetchrow(
        "SELECT application_name, state FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    )
    assert session is not None
    assert tuple(session) == ("", "active")


async def test_a_connection_that_was_ended_is_a_lost_connection_and_the_next_statement_has_another(
    two: asyncpg.Pool, connect: Connect
) -> None:
    killer = await connect()
    async with pinned(two) as statements:
        pid = (await statements.fetch(PID))[0][0]
        waiting = asyncio.create_task(statements.fetch("SELECT pg_sleep(60)"))
        await eventually(
            lambda: killer.fetchval("SELECT query LIKE '%sleep%' FROM pg_stat_activity WHERE pid = $1", pid),
            "the statement runs",
        )
        await killer.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(ConnectionLost, match="events: the database can't be reached: "):
            await waiting
        assert (await statements.fetch(PID))[0][0] != pid


async def test_a_statement_without_an_answer_is_a_lost_connection_in_time(two: asyncpg.Pool) -> None:
    async with pinned(two, timeout=0.2) as statements:
        with pytest.raises(ConnectionLost, match=r"events: the database did not answer within 0\.2 s"):
            await statements.fetch("SELECT pg_sleep(1000)")
        assert (
            await two.fetch(
                "SELECT pid FROM pg_stat_activity WHERE query LIKE '%(1000)' AND state = 'active'"
            )
            == []
        )
    await all_idle(two)


async def test_a_pool_without_an_available_connection_differs_from_a_database_without_an_answer(
    two: asyncpg.Pool,
) -> None:
    async with pinned(two, timeout=0.2) as statements:
        async with two.acquire(), two.acquire():
            with pytest.raises(
                ConnectionLost, match=r"events: the pool had no connection available within 0\.2 s"
            ):
                await statements.fetch(PID)
        await statements.fetch(PID)
    await all_idle(two)


async def test_statements_take_turns(two: asyncpg.Pool) -> None:
    async with pinned(two) as statements:
        pids = await asyncio.gather(*(statements.fetch(PID) for _ in range(20)))
        assert len({rows[0][0] for rows in pids}) == 1


async def test_what_was_closed_can_be_borrowed_again(two: asyncpg.Pool) -> None:
    statements = pinned(two)
    for _ in range(2):
        await statements.fetch(PID)
        assert two.get_idle_size() == 1
        await statements.aclose()
        assert two.get_idle_size() == 2
    await statements.aclose()


async def test_closing_waits_for_the_statement_under_way(two: asyncpg.Pool) -> None:
    statements = pinned(two)
    running = asyncio.create_task(statements.fetch("SELECT pg_sleep(0.1)"))
    await eventually(lambda: two.get_idle_size() == 1, "the statement runs")
    await statements.aclose()
    assert running.done()
    assert two.get_idle_size() == 2


async def test_a_use_that_is_cancelled_anywhere_leaves_the_pool_whole(two: asyncpg.Pool) -> None:
    step, in_time = 0, True
    while in_time:
        step += 1

        async def use() -> None:
            async with pinned(two) as statements:
                await statements.fetch(PID)
                await statements.fetch("SELECT pg_sleep(0.001)")

        in_time = await cancelled_by_task(step, use())
        async with asyncio.timeout(deadline(5.0)), two.acquire() as one, two.acquire() as other:
            assert await one.fetchval(PID) != await other.fetchval(PID), f"cancelled at {step}"
    assert step > 3


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced(
    two: asyncpg.Pool, connect: Connect
) -> None:
    watcher = await connect()
    async with pinned(two) as statements:
        before = (await statements.fetch(PID))[0][0]
        await watcher.execute("SELECT pg_terminate_backend($1, 5000)", before)

        async def closed() -> bool:
            return bool(
                statements._connection is None or statements._driver.is_closed(statements._connection)
            )

        await eventually(closed, "the client has learned of it")
        assert (await statements.fetch(PID))[0][0] != before
