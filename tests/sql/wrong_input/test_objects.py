"""Errors for objects of the wrong kind, and for closed ones, name the accepted kind and how to get it."""

import asyncio
import sys
from collections.abc import Awaitable, Coroutine
from typing import Any

import asyncpg
import pytest

from reflex_aio import Consumer, DatabaseError, Event, Spec
from tests.fix_databases import Database
from tests.fix_processes import Spawn
from tests.sql.wrong_input.given import cursors, first, table, unchanged
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio


async def consume(event: Event) -> None:
    raise AssertionError(f"consumed {event}")


async def _next(stream: Any) -> object:
    async with asyncio.timeout(deadline(5)):
        return await anext(stream)


async def test_the_error_for_a_pool_instead_of_a_connection_shows_how_to_acquire_one(
    writer: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    message = r"is a pool: pass a connection: async with pool\.acquire\(\) as connection"
    calls: list[Coroutine[Any, Any, object]] = [
        table.insert(pool, 1, 1),
        table.insert_many(pool, [(1, 1)]),
        table.insert_many(pool, []),
        table.create(pool),
        table.validate(pool),
        cursors.get(pool, "a"),
        cursors.set(pool, "a", "2"),
        cursors.create(pool),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=message):
            await call
    await unchanged(writer)


async def test_the_error_for_a_connection_instead_of_a_pool_shows_how_to_create_one(
    writer: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    message = r"is a connection: pass a pool, .*: await asyncpg\.create_pool\(\.\.\.\)"
    async with pool.acquire() as proxy:
        for connection in (writer, proxy):
            with pytest.raises(TypeError, match=message):
                table.stream(connection)
            with pytest.raises(TypeError, match=message):
                table.source(connection)
            with pytest.raises(TypeError, match=message):
                table.source(pool, primary=connection)
            with pytest.raises(TypeError, match=message):
                cursors.store(connection)
            with pytest.raises(TypeError, match=message):
                cursors.store(connection, flush_every=1.0)


@pytest.mark.parametrize("wrong", [None, object(), 7, table, "postgresql://user:hunter2@host/database"])
async def test_the_error_for_any_other_object_names_accepted_ones_and_shows_no_password(wrong: Any) -> None:
    calls: list[Awaitable[object]] = [table.insert(wrong, 1, 1), table.create(wrong), cursors.get(wrong, "a")]
    for call in calls:
        with pytest.raises(
            TypeError,
            match="is not a connection: accepted is an asyncpg, psycopg, aiomysql or asyncmy connection, or one",
        ) as raised:
            await call
        assert "hunter2" not in str(raised.value)
    for make in (table.stream, table.source, cursors.store):
        with pytest.raises(
            TypeError,
            match=r"is not a pool: accepted is an asyncpg, psycopg, aiomysql or asyncmy pool, such as await asyncpg\.c",
        ) as raised:
            make(wrong)
        assert "hunter2" not in str(raised.value)


async def test_a_consumer_has_a_name() -> None:
    wrong: Any
    for wrong in ("", " ", "\t", "a\0"):
        with pytest.raises(
            ValueError, match="is blank, or contains a NUL or a lone surrogate: accepted is any other str"
        ):
            Consumer(wrong, consume)
    for wrong in (None, 7, b"c"):
        with pytest.raises(TypeError, match="accepted is a str"):
            Consumer(wrong, consume)


async def test_a_spec_is_made_of_a_source_a_store_and_a_consumer(pool: asyncpg.Pool) -> None:
    source, store, consumer = table.source(pool), cursors.store(pool), Consumer("c", consume)
    given: Any
    for given in (store, table, pool, None, table.stream(pool)):
        with pytest.raises(
            TypeError, match=r"^source .* is a .*: accepted is a Source, such as events\.source"
        ):
            Spec(given, store, consumer)
    for given in (source, cursors, pool, None):
        with pytest.raises(
            TypeError, match=r"^store .* is a .*: accepted is a CursorStore, such as cursors\.sto"
        ):
            Spec(source, given, consumer)
    for given in (consume, "c", None):
        with pytest.raises(TypeError, match=r"^consumer .* is a .*: accepted is a Consumer"):
            Spec(source, store, given)


# Closed objects.


async def test_a_pool_that_is_closed_during_a_stream_is_named(
    database: Database, writer: asyncpg.Connection
) -> None:
    pool = await asyncpg.create_pool(database.dsn, min_size=1)
    waiting = await table.stream(pool, from_head=True).__aenter__()
    store = cursors.store(pool)
    await pool.close()
    calls: list[Coroutine[Any, Any, object]] = [
        first(table.source(pool)),
        table.source(pool).head(),
        store.get("a"),
        store.set("a", "2"),
        _next(waiting),
    ]
    for call in calls:
        with pytest.raises(DatabaseError, match=r"^(events|cursors): pool is clos(ed|ing)$"):
            await call
    await waiting.aclose()
    await unchanged(writer)


async def test_a_pool_that_was_never_connected_is_named(database: Database) -> None:
    pool = asyncpg.create_pool(database.dsn)
    with pytest.raises(DatabaseError, match=r"^events: pool is not initialized"):
        await first(table.source(pool))


async def test_a_closed_connection_raises_the_drivers_exception(
    database: Database, writer: asyncpg.Connection, pool: asyncpg.Pool
) -> None:
    closed = await asyncpg.connect(database.dsn)
    await closed.close()
    async with pool.acquire() as released:
        pass
    for connection, message in (
        (closed, "connection is closed"),
        (released, "has been released back to the pool"),
    ):
        calls: list[Coroutine[Any, Any, object]] = [
            table.insert(connection, 1, 1),
            table.insert_many(connection, [(1, 1)]),
            table.create(connection),
            table.validate(connection),
            cursors.get(connection, "a"),
        ]
        for call in calls:
            with pytest.raises(asyncpg.InterfaceError, match=message):
                await call
    await unchanged(writer)


async def use_after_its_loop(dsn: str) -> None:
    """Use a pool, a stream and a connection of a loop that has ended, and print the exceptions."""

    async def make() -> tuple[Any, ...]:
        pool = await asyncpg.create_pool(dsn, min_size=1)
        return pool, await table.stream(pool).__aenter__(), await asyncpg.connect(dsn)

    async def use(pool: Any, stream: Any, connection: Any) -> None:
        calls: list[Coroutine[Any, Any, object]] = [
            first(table.source(pool)),
            table.source(pool).head(),
            cursors.store(pool).get("a"),
            _next(stream),
            table.insert(connection, 1, 1),
        ]
        for call in calls:
            try:
                print("returned", await call)
            except RuntimeError as exc:
                print(
                    "closed" if "loop is closed" in str(exc) else "different" * ("different loop" in str(exc))
                )
            sys.stdout.flush()
        await stream.aclose()
        print("aclosed", flush=True)

    def run() -> None:
        made = asyncio.run(make())
        asyncio.run(use(*made))

    await asyncio.to_thread(run)


async def test_objects_of_an_ended_event_loop_raise_rather_than_wait(
    database: Database, writer: asyncpg.Connection, spawn: Spawn
) -> None:
    child = await spawn(use_after_its_loop, database.dsn)
    assert [await child.line() for _ in range(6)] == [*["closed"] * 4, "different", "aclosed"]
    await child.kill()
    await unchanged(writer)
