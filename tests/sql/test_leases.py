"""Leases in tables, and cursors that only the owner of a lease can move."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio import CursorStore, Lease, LeaseLost, LeaseStore, SchemaError
from reflex_aio.errors import TableNotFound
from reflex_aio.memory import MemoryLeaseStore
from reflex_aio.sql import CursorsTable, LeasesTable
from reflex_aio.testing import check_fenced_store, check_lease_store, rules_of
from tests.fix_backends import Backend
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio

LEASES = LeasesTable("leases")
CURSORS = CursorsTable("cursors")

_numbers = count(1)


@pytest_asyncio.fixture
async def connection(backend: Backend) -> Any:
    connection = await backend.connect()
    await LEASES.create(connection)
    await CURSORS.create(connection)
    return connection


def making(
    pool: Any, make_cursors: Callable[[CursorsTable, Any], CursorStore]
) -> Callable[[], AbstractAsyncContextManager[tuple[CursorStore, LeaseStore]]]:
    """Return a factory of stores on tables of their own, for each rule."""

    @asynccontextmanager
    async def make() -> AsyncIterator[tuple[CursorStore, LeaseStore]]:
        number = next(_numbers)
        leases, cursors = LeasesTable(f"leases_{number}"), CursorsTable(f"cursors_{number}")
        async with pool.acquire() as connection:
            await leases.create(connection)
            await cursors.create(connection)
        yield make_cursors(cursors, pool), leases.store(pool)

    return make


def at_once(table: CursorsTable, pool: Any) -> CursorStore:
    return table.store(pool)


def written_behind(table: CursorsTable, pool: Any) -> CursorStore:
    return table.store(pool, flush_every=0.01)


# The tests mostly wait for leases to expire: therefore all rules run concurrently, in one test.


async def test_leases_keep_the_rules(backend: Backend, backend_pool: Any) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[LeaseStore]:
        async with making(backend_pool, at_once)() as (_, leases):
            yield leases

    async with asyncio.TaskGroup() as group:
        for rule in rules_of(check_lease_store):
            group.create_task(check_lease_store(make, rules=[rule]))


@pytest.mark.parametrize("make", [at_once, written_behind])
async def test_fenced_cursors_keep_the_rules(backend: Backend, backend_pool: Any, make: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for rule in rules_of(check_fenced_store):
            group.create_task(check_fenced_store(making(backend_pool, make), rules=[rule]))


# Concurrency.


@pytest.mark.parametrize("make", [at_once, written_behind])
async def test_acquiring_waits_for_a_cursor_that_is_being_moved(
    backend: Backend, backend_pool: Any, connection: Any, make: Any
) -> None:
    leases, cursors = LEASES.store(backend_pool), make(CURSORS, backend_pool)
    lease = await acquired(leases, "billing", "me", ttl=0.001)
    await cursors.set("billing", "1")
    async with backend.driver.transaction(connection):
        # Blocks the move of the cursor after the lease was compared.
        await CURSORS.set(connection, "billing", "2")
        moving = asyncio.create_task(cursors.set("billing", "3", fence=lease))
        await backend.waiting_for_locks(1)
        taking = asyncio.create_task(leases.acquire("billing", "you", ttl=60.0))
        await backend.waiting_for_locks(2)
    await moving
    taken = await taking
    assert taken is not None
    assert taken.epoch == 2
    assert await cursors.get("billing") == "3"
    with pytest.raises(LeaseLost):
        await cursors.set("billing", "4", fence=lease)


@pytest.mark.parametrize("make", [at_once, written_behind])
async def test_a_move_waits_for_an_owner_that_is_acquiring_and_is_refused(
    backend: Backend, backend_pool: Any, connection: Any, make: Any
) -> None:
    leases, cursors = LEASES.store(backend_pool), make(CURSORS, backend_pool)
    lease = await acquired(leases, "billing", "me")
    async with backend.driver.transaction(connection):
        await backend.fetch(connection, "UPDATE leases SET owner = 'you', epoch = epoch + 1")
        moving = asyncio.create_task(cursors.set("billing", "3", fence=lease))
        await backend.waiting_for_locks(1)
    with pytest.raises(LeaseLost):
        await moving
    assert await cursors.get("billing") == ""


async def test_a_lease_is_not_lost_to_an_acquire_that_is_rolled_back(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    leases, cursors = LEASES.store(backend_pool), CURSORS.store(backend_pool)
    lease = await acquired(leases, "billing", "me")
    await backend.fetch(connection, "BEGIN")
    await backend.fetch(connection, "UPDATE leases SET owner = 'you', epoch = epoch + 1")
    moving = asyncio.create_task(cursors.set("billing", "3", fence=lease))
    await backend.waiting_for_locks(1)
    await backend.fetch(connection, "ROLLBACK")
    await moving
    assert await cursors.get("billing") == "3"


async def test_a_lost_lease_in_memory_does_not_hold_back_the_next_one(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    leases = LEASES.store(backend_pool)
    lost = await acquired(leases, "billing", "me")
    async with CURSORS.store(backend_pool, flush_every=3600.0) as cursors:
        await cursors.set("billing", "3", fence=lost)
        await leases.release(lost)
        held = await acquired(leases, "billing", "me")
        with pytest.raises(LeaseLost):
            await cursors.flush()
        assert await cursors.get("billing") == ""
        await cursors.set("billing", "2", fence=held)
        await cursors.flush()
        assert await cursors.all() == {"billing": "2"}


async def test_names_and_owners_are_case_sensitive(backend_pool: Any, connection: Any) -> None:
    leases = LEASES.store(backend_pool)
    await acquired(leases, "billing", "me")
    assert await leases.acquire("billing", "Me", ttl=60.0) is None
    assert await leases.acquire("Billing", "Me", ttl=60.0) is not None


async def test_a_lease_expires_by_the_database_clock_whatever_the_time_zone(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    async with backend.pool(1) as eastern, backend.pool(1) as western:
        for pool, hours in ((eastern, 9), (western, -5)):
            async with pool.acquire() as one:
                await backend.fetch(one, backend.set_time_zone.format(hours))
        await acquired(LEASES.store(eastern), "billing", "me")
        assert await LEASES.store(western).acquire("billing", "you", ttl=60.0) is None
        assert 50 < (await LEASES.store(western).all())["billing"].seconds_left <= 60


# Renewing many at once.


async def test_many_leases_are_renewed_in_one_transaction_that_tells_which_are_lost(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    leases = LEASES.store(backend_pool)
    many = [await acquired(leases, f"c{number}", "me", ttl=60.0) for number in range(300)]
    await leases.release(many[7])
    await backend.fetch(connection, "UPDATE leases SET owner = 'you', epoch = epoch + 1 WHERE id = 'c8'")
    errors = await leases.renew_many(many, ttl=600.0)
    assert {lease.name: type(error) for lease, error in errors.items()} == {"c7": LeaseLost, "c8": LeaseLost}
    states = await leases.all()
    renewed = {name for name, state in states.items() if state.seconds_left > 300}
    assert renewed == {lease.name for lease in many} - {"c7", "c8"}
    assert states["c8"].owner == "you"


async def test_a_lease_that_a_transaction_holds_is_renewed_after_it_and_holds_up_no_other(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    leases = LEASES.store(backend_pool)
    held, free = [await acquired(leases, name, "me", ttl=60.0) for name in ("held", "free")]
    async with backend.driver.transaction(connection):
        await backend.fetch(connection, "SELECT id FROM leases WHERE id = 'held' FOR UPDATE")
        renewing = asyncio.create_task(leases.renew_many([held, free], ttl=600.0))
        await backend.waiting_for_locks(1)
        states = await leases.all()
        assert states["free"].seconds_left > 300 > states["held"].seconds_left
    assert await renewing == {}
    assert (await leases.all())["held"].seconds_left > 300


async def test_a_lease_that_is_locked_for_longer_is_reported_as_unknown(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    leases = LEASES.store(backend_pool)
    held, free = [await acquired(leases, name, "me", ttl=60.0) for name in ("held", "free")]
    async with backend.driver.transaction(connection):
        await backend.fetch(connection, "SELECT id FROM leases WHERE id = 'held' FOR UPDATE")
        errors = await leases.renew_many([held, free], ttl=1.0)
    assert {lease.name: type(error) for lease, error in errors.items()} == {"held": TimeoutError}


async def test_a_store_that_is_entered_renews_while_users_hold_the_rest_of_the_pool(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    async with backend.pool(2) as pool, LEASES.store(pool) as leases:
        lease = await acquired(leases, "billing", "me", ttl=60.0)
        assert await leases.renew_many([lease], ttl=60.0) == {}
        async with backend.driver.acquire(pool), asyncio.timeout(deadline(10)):
            assert await leases.renew_many([lease], ttl=600.0) == {}
            assert (await leases.all())["billing"].seconds_left > 300


async def test_a_store_that_is_entered_leaves_a_pool_its_last_connection(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    async with backend.pool(1) as pool, LEASES.store(pool) as leases:
        lease = await acquired(leases, "billing", "me", ttl=60.0)
        assert await leases.renew_many([lease], ttl=60.0) == {}
        async with asyncio.timeout(deadline(10)), backend.driver.acquire(pool):
            pass


# Tables.


async def test_a_table_of_another_name_works(backend: Backend, backend_pool: Any, connection: Any) -> None:
    table = LEASES.replace(name="Elections")
    await table.create(connection)
    await table.create(connection)
    await table.validate(connection)
    leases = table.store(backend_pool)
    await leases.renew(await acquired(leases, "billing", "me"), ttl=1.0)
    await CURSORS.store(backend_pool).set("billing", "1", fence=await acquired(leases, "billing", "me"))
    assert (await leases.all())["billing"].owner == "me"


async def test_a_table_that_differs_is_reported(backend: Backend, connection: Any) -> None:
    await backend.fetch(connection, "ALTER TABLE leases DROP COLUMN epoch")
    with pytest.raises(SchemaError, match='column "epoch" is missing'):
        await LEASES.validate(connection)
    with pytest.raises(TableNotFound, match="elections"):
        await LEASES.replace(name="elections").validate(connection)


async def test_the_ddl_makes_the_table(backend: Backend, connection: Any) -> None:
    table = LEASES.replace(name="elections")
    await backend.fetch(connection, table.ddl(backend.dialect).rstrip().rstrip(";"))
    await table.validate(connection)


# Wrong input.


async def test_leases_of_other_stores_are_refused(backend_pool: Any, connection: Any) -> None:
    other = await acquired(MemoryLeaseStore(clock=asyncio.get_running_loop().time), "billing", "me")
    cursors, leases = CURSORS.store(backend_pool), LEASES.store(backend_pool)
    for call in (
        cursors.set("billing", "1", fence=other),
        leases.renew(other, ttl=1.0),
        leases.release(other),
    ):
        with pytest.raises(TypeError, match="accepted is one of a LeasesTable"):
            await call
    assert await cursors.get("billing") == ""


async def test_a_lease_of_another_table_is_not_renewed(backend_pool: Any, connection: Any) -> None:
    lease = await acquired(LEASES.store(backend_pool), "billing", "me")
    with pytest.raises(TypeError, match="is not a lease of LeasesTable"):
        await LEASES.replace(name="elections").store(backend_pool).renew(lease, ttl=1.0)


async def test_a_leases_table_in_another_database_is_not_found(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    lease = await acquired(LEASES.store(backend_pool), "billing", "me")
    await backend.fetch(connection, "ALTER TABLE leases RENAME TO moved_away")
    with pytest.raises(TableNotFound, match="leases"):
        await CURSORS.store(backend_pool).set("billing", "1", fence=lease)
    assert await CURSORS.store(backend_pool).get("billing") == ""


async def test_an_object_that_is_not_a_pool_is_refused(connection: Any) -> None:
    with pytest.raises(TypeError, match="pool"):
        LEASES.store(connection)


async def acquired(leases: LeaseStore, name: str, owner: str, *, ttl: float = 60.0) -> Lease:
    lease = await leases.acquire(name, owner, ttl=ttl)
    assert lease is not None
    return lease
