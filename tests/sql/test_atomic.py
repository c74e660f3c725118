"""Atomic consumers: what the handler writes and the cursor commit together, or neither does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import (
    Backoff,
    ConnectionLost,
    CursorConflict,
    DatabaseError,
    Event,
    LeaseLost,
    LeaseStore,
    Spec,
    run,
    run_forever,
)
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.sql import (
    AtomicBatchConsumer,
    AtomicConsumer,
    CursorsTable,
    EventsTable,
    LeasesTable,
)
from tests.core.cancelling import cancelled_at
from tests.fix_databases import Database
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

cursors = CursorsTable("cursors")
users = EventsTable("user_events", poll_period=0.2)

Handler = Callable[[Event, Any], Awaitable[None]]


@pytest_asyncio.fixture
async def effects(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Pool]:
    """Yield a pool on a database with a cursors table and a table of effects."""
    async with pool.acquire() as connection:
        await cursors.create(connection)
        await connection.execute("CREATE TABLE effects (event_id int PRIMARY KEY, count int NOT NULL)")
    yield pool


async def affect(event: Event, connection: Any) -> None:
    # A second effect must show as a count rather than an error.
    await connection.execute(
        "INSERT INTO effects VALUES ($1, 1) ON CONFLICT (event_id) DO UPDATE SET count = effects.count + 1",
        event.id_int,
    )


async def affect_all(events: Sequence[Event], connection: Any) -> None:
    for event in events:
        await affect(event, connection)


async def found(pool: asyncpg.Pool) -> tuple[list[int], str]:
    """Return the events that have had their effect, once each, and the cursor."""
    rows = await pool.fetch("SELECT event_id, count FROM effects ORDER BY 1")
    assert {row["count"] for row in rows} <= {1}
    async with pool.acquire() as connection:
        return [row["event_id"] for row in rows], await cursors.get(connection, "a")


async def some_events(count: int) -> MemoryEvents:
    events = MemoryEvents()
    for number in range(1, count + 1):
        await events.insert(number, number % 3)
    return events


def spec_of(
    source: Any, pool: asyncpg.Pool, handler: Handler = affect, *, to_head: bool = True, **options: Any
) -> Spec:
    return Spec(source, cursors.store(pool), AtomicConsumer("a", handler, **options), to_head=to_head)


async def test_effects_and_cursor_are_stored(effects: asyncpg.Pool) -> None:
    await run(spec_of(await some_events(5), effects))
    assert await found(effects) == ([1, 2, 3, 4, 5], "5")


async def test_an_error_of_the_handler_rolls_back_its_effects_and_the_cursor(
    effects: asyncpg.Pool,
) -> None:
    async def fail_on_3(event: Event, connection: Any) -> None:
        await affect(event, connection)
        if event.id == "3":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(spec_of(await some_events(5), effects, fail_on_3))
    assert await found(effects) == ([1, 2], "2")


async def test_an_error_of_the_database_in_the_handler_is_raised_as_it_is(effects: asyncpg.Pool) -> None:
    async def divide(event: Event, connection: Any) -> None:
        await connection.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await run(spec_of(await some_events(1), effects, divide))
    assert await found(effects) == ([], "")


async def test_a_recovered_event_moves_the_cursor_without_its_effects(effects: asyncpg.Pool) -> None:
    recovered: list[tuple[str, type[Exception]]] = []

    async def divide(event: Event, connection: Any) -> None:
        await affect(event, connection)
        await connection.fetchval("SELECT 1 / ($1::int - 2)", event.id_int)

    async def recover(event: Event, error: Exception) -> None:
        recovered.append((event.id, type(error)))

    await run(spec_of(await some_events(3), effects, divide, recover=recover))
    assert recovered == [("2", asyncpg.DivisionByZeroError)]
    assert await found(effects) == ([1, 3], "3")


async def test_events_that_are_passed_over_move_the_cursor(effects: asyncpg.Pool) -> None:
    await run(spec_of(await some_events(5), effects, types=[0]))
    assert await found(effects) == ([3], "5")


async def test_a_batch_is_one_transaction(effects: asyncpg.Pool) -> None:
    sizes: list[tuple[int, str]] = []

    async def handle(events: Sequence[Event], connection: Any) -> None:
        sizes.append((len(events), await connection.fetchval("SELECT pg_current_xact_id()::text")))
        for event in events:
            await affect(event, connection)
            if event.id == "8" and len(sizes) == 3:
                raise ZeroDivisionError

    consumer = AtomicBatchConsumer("a", handle, size=3)
    spec = Spec(await some_events(8), cursors.store(effects), consumer, to_head=True)
    with pytest.raises(ZeroDivisionError):
        await run(spec)
    assert await found(effects) == ([1, 2, 3, 4, 5, 6], "6")
    await run(spec)
    assert await found(effects) == ([1, 2, 3, 4, 5, 6, 7, 8], "8")
    assert [size for size, _ in sizes] == [3, 3, 2, 2]
    assert len({transaction for _, transaction in sizes}) == 4


async def swallow(event: Event, connection: Any) -> None:
    await affect(event, connection)
    try:
        await connection.execute("SELECT 1 / 0")
    except asyncpg.DivisionByZeroError:
        pass


async def roll_back(event: Event, connection: Any) -> None:
    await affect(event, connection)
    await connection.execute("ROLLBACK")


async def begin_anew(event: Event, connection: Any) -> None:
    await connection.execute("ROLLBACK")
    await connection.execute("BEGIN")


@pytest.mark.parametrize("handler", [swallow, roll_back, begin_anew])
async def test_a_handler_that_ends_or_breaks_its_transaction_is_an_error(
    effects: asyncpg.Pool, handler: Handler
) -> None:
    with pytest.raises(
        DatabaseError, match="a: the handler ended the transaction of its connection, or continued"
    ):
        await run(spec_of(await some_events(1), effects, handler))
    assert await found(effects) == ([], "")


async def test_a_handler_may_contain_an_error_in_a_nested_transaction(effects: asyncpg.Pool) -> None:
    async def contain(event: Event, connection: Any) -> None:
        await affect(event, connection)
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with connection.transaction():
                await connection.execute("SELECT 1 / 0")

    await run(spec_of(await some_events(2), effects, contain))
    assert await found(effects) == ([1, 2], "2")


async def test_of_two_runs_the_later_one_waits_and_does_nothing(effects: asyncpg.Pool) -> None:
    events, called, go_on = await some_events(1), 0, asyncio.Event()

    async def handle(event: Event, connection: Any) -> None:
        nonlocal called
        called += 1
        await go_on.wait()
        await affect(event, connection)

    first = asyncio.create_task(run(spec_of(events, effects, handle)))
    await eventually(lambda: called == 1, "the first run in its handler")
    second = asyncio.create_task(run(spec_of(events, effects, handle)))

    async def blocked() -> bool:
        return bool(await effects.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

    await eventually(blocked, "the second run at the first one's lock")
    go_on.set()
    await first
    with pytest.raises(CursorConflict) as raised:
        await second
    assert (raised.value.expected, raised.value.stored, called) == ("", "1", 1)
    assert await found(effects) == ([1], "1")


async def test_of_two_runs_the_later_one_continues_where_the_first_one_failed(effects: asyncpg.Pool) -> None:
    events, called, go_on = await some_events(1), 0, asyncio.Event()

    async def handle(event: Event, connection: Any) -> None:
        nonlocal called
        called += 1
        await affect(event, connection)
        if called == 1:
            await go_on.wait()
            raise ZeroDivisionError

    first = asyncio.create_task(run(spec_of(events, effects, handle)))
    await eventually(lambda: called == 1, "the first run in its handler")
    second = asyncio.create_task(run(spec_of(events, effects, handle)))
    go_on.set()
    with pytest.raises(ZeroDivisionError):
        await first
    await second
    assert await found(effects) == ([1], "1")


async def test_a_rewind_during_a_run_ends_it(effects: asyncpg.Pool) -> None:
    """If it continued, it would skip the events in between."""
    events = await some_events(4)
    running = asyncio.create_task(run(spec_of(events, effects, to_head=False)))

    async def consumed() -> bool:
        return (await found(effects))[1] == "4"

    await eventually(consumed, "all events")
    async with effects.acquire() as connection:
        await cursors.rewind(connection, "a", "2")
    await events.insert(5, 1)
    with pytest.raises(CursorConflict):
        await running
    assert await found(effects) == ([1, 2, 3, 4], "2")


async def test_two_supervised_runs_have_each_effect_once(effects: asyncpg.Pool) -> None:
    async with effects.acquire() as connection:
        await users.create(connection)
        for number in range(200):
            await users.insert(connection, number, 1)
    source, backoff = users.source(effects), Backoff(initial=0.001, maximum=0.01)

    async def consumed() -> bool:
        return (await found(effects))[1] == "200"

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(run_forever(spec_of(source, effects, to_head=False), backoff=backoff))
            for _ in range(2)
        ]
        await eventually(consumed, "all events", within=30.0)
        for task in tasks:
            task.cancel()
    assert (await found(effects))[0] == list(range(1, 201))


async def test_a_run_that_is_cancelled_anywhere_leaves_all_or_nothing(effects: asyncpg.Pool) -> None:
    events = await some_events(60)

    async def ended() -> bool:
        # The server may still be about to commit a cancelled transaction: the next run would be too early.
        return not await effects.fetchval(
            "SELECT count(*) FROM pg_locks WHERE relation = 'cursors'::regclass AND pid <> pg_backend_pid()"
        )

    for step in range(1, 200):
        cancelled = await cancelled_at(step, run(spec_of(events, effects)))
        await eventually(ended, "the end of the transaction that was cancelled")
        ids, cursor = await found(effects)
        assert ids == list(range(1, int(cursor or "0") + 1))
        if not cancelled:
            break
    assert (await found(effects))[1] == "60"


@pytest.mark.parametrize("after", ["handler", "commit"])
async def test_a_connection_that_is_lost_around_the_commit_has_the_effect_once(
    effects: asyncpg.Pool, database: Database, after: str
) -> None:
    """The run does not know whether it was committed; the next run reads the cursor."""
    killer = await asyncpg.connect(database.dsn)
    kills = 0
    trigger = """
        CREATE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER end_it AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION end_it()
    """
    if after == "commit":
        # The backend is terminated during its COMMIT.
        await killer.execute(trigger)

    async def handle(event: Event, connection: Any) -> None:
        nonlocal kills
        await affect(event, connection)
        if after == "handler" and not kills:
            kills += 1
            await killer.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())

    events = await some_events(3)
    try:
        with pytest.raises(ConnectionLost):
            await run(spec_of(events, effects, handle))
        assert await found(effects) == ([], "")
        if after == "commit":
            await killer.execute("DROP TRIGGER end_it ON effects")
    finally:
        await killer.close()
    await run(spec_of(events, effects, handle))
    assert await found(effects) == ([1, 2, 3], "3")


async def leases_of(pool: asyncpg.Pool) -> LeaseStore:
    table = LeasesTable("leases")
    async with pool.acquire() as connection:
        await table.create(connection)
    return table.store(pool)


async def test_a_run_under_a_lease_stores_effects_and_cursor(effects: asyncpg.Pool) -> None:
    lease = await (await leases_of(effects)).acquire("a", "me", ttl=60.0)
    assert lease is not None
    await run(spec_of(await some_events(3), effects).fenced(lease))
    assert await found(effects) == ([1, 2, 3], "3")


async def test_a_lease_that_is_lost_in_the_handler_rolls_back_its_effects(effects: asyncpg.Pool) -> None:
    leases = await leases_of(effects)
    lease = await leases.acquire("a", "me", ttl=60.0)
    assert lease is not None

    async def lose_on_2(event: Event, connection: Any) -> None:
        await affect(event, connection)
        if event.id == "2":
            await leases.release(lease)
            assert await leases.acquire("a", "you", ttl=60.0)

    with pytest.raises(LeaseLost):
        await run(spec_of(await some_events(3), effects, lose_on_2).fenced(lease))
    assert await found(effects) == ([1], "1")


async def test_a_lease_is_renewed_while_a_handler_is_busy(effects: asyncpg.Pool) -> None:
    leases = await leases_of(effects)
    lease = await leases.acquire("a", "me", ttl=60.0)
    assert lease is not None

    async def renew(event: Event, connection: Any) -> None:
        await affect(event, connection)
        async with asyncio.timeout(deadline(10.0)):
            await leases.renew(lease, ttl=60.0)

    await run(spec_of(await some_events(2), effects, renew).fenced(lease))
    assert await found(effects) == ([1, 2], "2")


async def test_wrong_arguments_are_refused(pool: asyncpg.Pool) -> None:
    nothing: Any = None
    for idle_timeout in (0.0, 86_401.0):
        with pytest.raises(ValueError, match=r"idle_timeout .* is out of range: .* up to 86400, or None"):
            cursors.store(pool, idle_timeout=idle_timeout)
    with pytest.raises(TypeError, match="handler None is a NoneType"):
        AtomicConsumer("a", nothing)
    with pytest.raises(ValueError, match="size and age are both None"):
        AtomicBatchConsumer("a", affect_all)


@pytest.mark.parametrize(
    "consumer", [AtomicConsumer("a", affect), AtomicBatchConsumer("a", affect_all, size=2)], ids=repr
)
async def test_a_store_without_transactions_is_refused_when_the_spec_is_made(
    pool: asyncpg.Pool, consumer: Any
) -> None:
    for store in (MemoryCursorStore(), cursors.store(pool, flush_every=1.0)):
        with pytest.raises(
            TypeError, match=r"has no transactions: accepted is a store such as cursors.store\(pool\)"
        ):
            Spec(MemoryEvents(), store, consumer)
