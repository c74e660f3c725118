"""What the renewals of a process cost the database, and that they go on while users hold the pool."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from reflex_aio import Consumer, Event, Lease, Runner, Spec
from reflex_aio.memory import MemoryEvents
from reflex_aio.sql import CursorsTable, LeasesTable
from reflex_aio.sql.leases.store import TableLeaseStore
from tests.fix_backends import Backend, OwnServer
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

CURSORS, LEASES = CursorsTable("cursors"), LeasesTable("leases")
CONSUMERS = 50
# The number of renewals that are counted.
RENEWALS = 4


class Counting(TableLeaseStore):
    """A lease store that counts renewals."""

    renewals = 0

    async def renew_many(self, leases: Collection[Lease], *, ttl: float) -> Mapping[Lease, Exception]:
        errors = await super().renew_many(leases, ttl=ttl)
        # All consumers, and the membership of the process.
        self.renewals += not errors and len(leases) == CONSUMERS + 1
        return errors


async def ignore(event: Event) -> None: ...


async def connection_to(backend: Backend) -> Any:
    connection = await backend.connect()
    for table in (CURSORS, LEASES):
        await table.create(connection)
    return connection


def runner_of(leases: TableLeaseStore, pool: Any, *, ttl: float) -> Runner:
    events, store = MemoryEvents(), CURSORS.store(pool)
    specs = [Spec(events, store, Consumer(f"c{number}", ignore)) for number in range(CONSUMERS)]
    return Runner(specs, leases=leases, lease_ttl=ttl)


async def written(backend: Backend, connection: Any) -> int:
    """The number of transactions that wrote on the server so far, by its own counters."""
    if backend.dialect == "postgres":
        # Each call takes a number itself.
        return int(await backend.value(connection, "SELECT pg_current_xact_id()::text"))
    rows = await backend.fetch(
        connection, "SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_update', 'Com_insert', 'Com_delete')"
    )
    return sum(int(row[1]) for row in rows)


async def test_a_renewal_is_one_transaction_whatever_the_number_of_consumers(own_backend: OwnServer) -> None:
    backend = own_backend.backend
    connection = await connection_to(backend)
    async with backend.pool(5) as pool:
        leases = Counting(LEASES, pool)
        async with runner_of(leases, pool, ttl=1.5):
            await eventually(lambda: leases.renewals > 0, within=20.0)
            before, renewals = await written(backend, connection), leases.renewals
            await eventually(lambda: leases.renewals >= renewals + RENEWALS, within=20.0)
            after, renewals = await written(backend, connection), leases.renewals - renewals
    # One that was under way at either end, and on PostgreSQL the count itself.
    assert after - before <= renewals + 2


async def test_leases_are_renewed_while_users_hold_the_rest_of_the_pool_for_longer_than_the_ttl(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    await connection_to(backend)
    async with backend.pool(2) as pool:
        leases = Counting(LEASES, pool)
        async with runner_of(leases, pool, ttl=2.0) as runner:
            await eventually(lambda: leases.renewals > 0, within=20.0)
            async with backend.driver.acquire(pool):
                # Longer than the ttl, which is less than four intervals of renewals.
                until = leases.renewals + 5
                await eventually(lambda: leases.renewals >= until, within=20.0)
            assert {status.epoch for status in runner.statuses().values()} == {1}
    assert "not renewed" not in caplog.text


async def test_leases_in_a_pool_of_their_own_are_renewed_while_users_hold_the_only_connection_of_theirs(
    backend: Backend,
) -> None:
    await connection_to(backend)
    async with backend.pool(1) as pool, backend.pool(1) as lease_pool:
        leases = Counting(LEASES, lease_pool)
        async with runner_of(leases, pool, ttl=2.0) as runner:
            await eventually(lambda: leases.renewals > 0, within=20.0)
            async with backend.driver.acquire(pool):
                until = leases.renewals + 5
                await eventually(lambda: leases.renewals >= until, within=20.0)
            assert {status.epoch for status in runner.statuses().values()} == {1}
