"""The cursor stores on a table: the rules of both kinds, and of the one that stores each cursor at once."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflex_aio.consumer import Consumer
from reflex_aio.cursor import CursorStore
from reflex_aio.errors import ConnectionLost, CursorConflict, DatabaseError, InvalidCursor, TableNotFound
from reflex_aio.event import Event
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.memory import MemoryEvents
from reflex_aio.running.run import run
from reflex_aio.spec import Spec
from reflex_aio.sql.cursors.store import TableCursorStore
from tests.fix_databases import Connect, Database
from tests.sql.cursor_rows import cursors, held, made, stored, write_behind

pytestmark = pytest.mark.asyncio

Kind = Callable[[asyncpg.Pool], TableCursorStore]
both = pytest.mark.parametrize("kind", [cursors.store, write_behind], ids=["at-once", "write-behind"])


# Both kinds.


@both
async def test_a_store_is_a_cursor_store(pool: asyncpg.Pool, kind: Kind) -> None:
    assert isinstance(kind(pool), CursorStore)


@pytest.mark.every_postgres
@both
async def test_a_store_returns_the_cursor_that_was_set(pool: asyncpg.Pool, kind: Kind) -> None:
    await made(pool)
    async with kind(pool) as store:
        assert await store.get("a") == ""
        await store.set("a", "1")
        await store.set("a", "02")
        assert await store.get("a") == "2"
        await store.flush()
        assert await store.all() == {"a": "2"}


@pytest.mark.every_postgres
@both
async def test_a_cursor_that_moves_backwards_is_refused(pool: asyncpg.Pool, kind: Kind) -> None:
    await made(pool)
    async with kind(pool) as store:
        await store.set("a", "10")
        with pytest.raises(CursorConflict) as raised:
            await store.set("a", "9")
        assert (raised.value.stored, raised.value.given) == ("10", "9")
        assert await store.get("a") == "10"


@both
async def test_invalid_cursors_and_names_are_refused(pool: asyncpg.Pool, kind: Kind) -> None:
    await made(pool)
    async with kind(pool) as store:
        for call in (store.set("a", "x"), store.set("a", "1", expected="x"), store.rewind("a", "x")):
            with pytest.raises(InvalidCursor):
                await call
        for call in (store.set("", "1"), store.rewind("", "1")):
            with pytest.raises(ValueError, match="consumer name"):
                await call
        assert await store.all() == {}


@both
async def test_50_sets_of_a_name_at_once_keep_their_order(pool: asyncpg.Pool, kind: Kind) -> None:
    await made(pool)
    async with kind(pool) as store, asyncio.TaskGroup() as group:
        # Out of order, one of them would be a conflict.
        for cursor in range(1, 51):
            group.create_task(store.set("a", str(cursor)))
    assert await stored(pool) == "50"


@both
async def test_an_expected_cursor_moves_at_once(pool: asyncpg.Pool, kind: Kind) -> None:
    await made(pool)
    async with kind(pool) as store:
        await store.set("a", "1", expected="")
        await store.set("a", "5")
        await store.set("a", "7", expected="5")
        assert await stored(pool) == "7"
        with pytest.raises(CursorConflict) as raised:
            await store.set("a", "8", expected="5")
        assert (raised.value.stored, raised.value.expected) == ("7", "5")
        assert await store.get("a") == await stored(pool) == "7"


@both
async def test_a_rewind_is_stored_at_once(pool: asyncpg.Pool, kind: Kind) -> None:
    await made(pool)
    async with kind(pool) as store:
        for cursor in ("3", "", "30"):
            await store.set("a", "40")
            await store.rewind("a", cursor)
            assert await store.get("a") == await stored(pool) == cursor
        await store.flush()
    assert await stored(pool) == "30"


@both
async def test_a_missing_table_is_named(pool: asyncpg.Pool, kind: Kind) -> None:
    async with kind(pool) as store:
        for call in (store.get("a"), store.all(), store.rewind("a", "1"), store.set("a", "1", expected="")):
            with pytest.raises(TableNotFound, match="cursors: the table does not exist"):
                await call


@both
async def test_a_closed_pool_is_named(pool: asyncpg.Pool, kind: Kind) -> None:
    store = kind(pool)
    await pool.close()
    for call in (store.get("a"), store.all(), store.rewind("a", "1"), store.set("a", "1")):
        with pytest.raises(DatabaseError, match="cursors: pool is clos"):
            await call


@both
async def test_a_server_that_is_down_is_a_lost_connection(own_server: EmbeddedPostgres, kind: Kind) -> None:
    async with asyncpg.create_pool(own_server.dsn, min_size=1) as pool:
        await made(pool)
        store = kind(pool)
        await store.set("a", "1")
        await own_server.stop()
        for call in (store.get("a"), store.all(), store.rewind("a", "1"), store.set("a", "2")):
            with pytest.raises(ConnectionLost):
                await call
        await own_server.start()
        await store.set("a", "2")
        assert await stored(pool) == "2"


@both
async def test_a_set_that_is_cancelled_leaves_nothing_behind(
    pool: asyncpg.Pool, connect: Connect, kind: Kind
) -> None:
    async with held(pool, connect) as hold:
        store = kind(pool)
        task = asyncio.create_task(store.set("a", "2"))
        await hold.waiting()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await hold.end()
    assert pool.get_size() == pool.get_idle_size()
    await store.set("a", "3")
    assert await stored(pool) == "3"


@both
async def test_two_runs_share_a_store(pool: asyncpg.Pool, kind: Kind) -> None:
    await made(pool)
    store, events = kind(pool), MemoryEvents()
    for i in range(10):
        await events.insert(str(i), 1)

    async def handle(event: Event) -> None:
        await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name in ("a", "b"):
            group.create_task(run(Spec(events, store, Consumer(name, handle), to_head=True)))
    assert await stored(pool, "a") == await stored(pool, "b") == "10"


# The store that stores each cursor at once.


@pytest.mark.every_postgres
async def test_a_cursor_is_committed_when_set_returns(pool: asyncpg.Pool) -> None:
    await made(pool)
    store = cursors.store(pool)
    for cursor in ("1", "2"):
        await store.set("a", cursor)
        assert await stored(pool) == cursor


async def test_a_conflict_costs_no_connection(pool: asyncpg.Pool, database: Database) -> None:
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=1) as single:
        await made(single)
        store = cursors.store(single)
        await store.set("a", "5")
        before = await single.fetchval("SELECT pg_backend_pid()")
        for expected in (None, "3"):
            with pytest.raises(CursorConflict):
                await store.set("a", "4", expected=expected)
        assert await single.fetchval("SELECT pg_backend_pid()") == before


# Sequences of calls, compared with a model.

_operation = st.tuples(
    st.sampled_from(["set", "set", "set", "expected", "rewind", "get", "flush", "enter", "leave"]),
    st.integers(0, 12),
    st.integers(0, 12),
)
_number = iter(range(10**9))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(_operation, max_size=15))
@both
async def test_any_sequence_of_calls_behaves_like_one_variable(
    pool: asyncpg.Pool, kind: Kind, operations: list[tuple[str, int, int]]
) -> None:
    async with pool.acquire() as connection:
        await cursors.create(connection)
    name, model = f"consumer {next(_number)}", ""
    store = kind(pool)
    async with AsyncExitStack() as stack:
        for call, number, other in operations:
            cursor = str(number)
            if call == "set":
                conflict = int(cursor) < int(model or 0)
                model = await check(set_and_flush(store, name, cursor), conflict, model, cursor)
            elif call == "expected":
                expected = str(other) if other else ""
                conflict = expected != model or int(cursor) < int(model or 0)
                model = await check(store.set(name, cursor, expected=expected), conflict, model, cursor)
            elif call == "rewind":
                model = cursor if number else ""
                await store.rewind(name, model)
            elif call == "flush":
                await store.flush()
                assert await stored(pool, name) == model
            elif call == "enter":
                await stack.enter_async_context(store)
            elif call == "leave":
                await stack.aclose()
                assert await stored(pool, name) == model
            assert await store.get(name) == model
    assert await stored(pool, name) == model


async def set_and_flush(store: TableCursorStore, name: str, cursor: str) -> None:
    behind = int(cursor) < int(await store.get(name) or 0)
    await store.set(name, cursor)
    if behind:
        # If there is none in memory, a cursor behind the stored one is not noticed before it is stored.
        await store.flush()


async def check(call: Awaitable[None], conflict: bool, model: str, cursor: str) -> str:
    if not conflict:
        await call
        return cursor
    with pytest.raises(CursorConflict) as raised:
        await call
    assert raised.value.stored == model
    return model
