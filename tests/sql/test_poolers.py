"""A whole service behind PgBouncer in transaction mode, which assigns server connections per transaction."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import asyncpg
import pytest

from reflex_aio import AttemptStore, Consumer, CursorStore, Event, LeaseStore, Spec, run
from reflex_aio.sql import AttemptsTable, CursorsTable, EventsTable, LeasesTable
from reflex_aio.testing import check_attempt_store, check_fenced_store, check_lease_store
from tests.fix_databases import Database
from tests.waiting import eventually

user_events = EventsTable("user_events")
cursors = CursorsTable("cursors")


@pytest.mark.asyncio
@pytest.mark.suite_server
@pytest.mark.parametrize("pgbouncer", ["transaction"], indirect=True)
async def test_events_go_through_a_pooler_in_transaction_mode(database: Database, pgbouncer: str) -> None:
    consumed: list[int] = []
    committed = []

    async def consume(event: Event) -> None:
        consumed.append(int(event.foreign_id))

    async with asyncpg.create_pool(pgbouncer, statement_cache_size=0) as pool:
        async with pool.acquire() as connection:
            await user_events.create(connection)
            await cursors.create(connection)
        store = cursors.store(pool, flush_every=0.05)
        running = asyncio.create_task(run(Spec(user_events.source(pool), store, Consumer("c", consume))))
        for number in range(1, 101):
            async with pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                await user_events.insert(connection, number, 1)
                if number % 3:
                    committed.append(number)
                    await transaction.commit()
                else:
                    await transaction.rollback()
        await eventually(lambda: running.done() or len(consumed) >= len(committed), "all are consumed")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert consumed == committed
        assert await store.get("c") == "100"


@pytest.mark.asyncio
@pytest.mark.suite_server
@pytest.mark.parametrize("pgbouncer", ["transaction"], indirect=True)
async def test_leases_fenced_cursors_and_attempts_keep_their_rules_behind_a_pooler(pgbouncer: str) -> None:
    numbers = count(1)
    async with asyncpg.create_pool(pgbouncer, statement_cache_size=0) as pool:

        @asynccontextmanager
        async def fenced() -> AsyncIterator[tuple[CursorStore, LeaseStore]]:
            number = next(numbers)
            cursors, leases = CursorsTable(f"cursors_{number}"), LeasesTable(f"leases_{number}")
            async with pool.acquire() as connection:
                await cursors.create(connection)
                await leases.create(connection)
            yield cursors.store(pool), leases.store(pool)

        @asynccontextmanager
        async def leases() -> AsyncIterator[LeaseStore]:
            async with fenced() as (_, store):
                yield store

        @asynccontextmanager
        async def attempts() -> AsyncIterator[AttemptStore]:
            table = AttemptsTable(f"attempts_{next(numbers)}")
            async with pool.acquire() as connection:
                await table.create(connection)
            yield table.store(pool)

        await check_attempt_store(attempts)
        await check_lease_store(leases)
        await check_fenced_store(fenced)
