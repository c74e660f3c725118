"""Every source and every cursor store of ours keeps the rules, each of which is a test of its own."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any

import anyio
import asyncpg
import pytest

from reflex_aio import CursorStore, Event, Source
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import PollSource
from reflex_aio.rpc import RemoteSource, StreamServer
from reflex_aio.sql import CursorsTable, EventsTable
from reflex_aio.testing import (
    ScriptedCursorStore,
    ScriptedSource,
    check_cursor_store,
    check_source,
    read_events,
    rules_of,
)
from reflex_aio.testing.sources import Insert
from tests.rpc.serving import serving
from tests.rpc.test_own_service import Users, serving_users, source_of

Made = AbstractAsyncContextManager[tuple[Source, Insert]]
MadeOverGrpc = Callable[[Made], Made]

_numbers = count(1)


# Sources.


@asynccontextmanager
async def memory_events() -> AsyncIterator[tuple[Source, Insert]]:
    # On trio, by the clock that jumps.
    events = MemoryEvents(clock=anyio.current_time)
    yield events, events.insert


@asynccontextmanager
async def scripted_source() -> AsyncIterator[tuple[Source, Insert]]:
    async with memory_events() as (events, insert):
        yield ScriptedSource(events), insert


@asynccontextmanager
async def table(pool: Any, **options: Any) -> AsyncIterator[tuple[Source, Insert]]:
    """A table of its own for each rule, whose pages are short enough that some rules need several."""
    events = EventsTable(f"events_{next(_numbers)}", metadata=True, page_size=7, **options)
    async with pool.acquire() as connection:
        await events.create(connection)

    async def insert(foreign_id: str, type: int, /, *, metadata: bytes | None = None) -> str:
        async with pool.acquire() as connection:
            return await events.insert(connection, foreign_id, type, metadata=metadata)

    yield events.source(pool), insert


@asynccontextmanager
async def over_grpc(made: Made, **options: Any) -> AsyncIterator[tuple[Source, Insert]]:
    async with made as (source, insert), serving(StreamServer({"events": source})) as channel:
        yield RemoteSource(channel, "events", **options), insert


@pytest.mark.anyio
@pytest.mark.parametrize("rule", rules_of(check_source))
async def test_events_in_memory(rule: str) -> None:
    await check_source(memory_events, rules=[rule])


@pytest.mark.anyio
@pytest.mark.parametrize("told", [True, False], ids=["head-told", "head-found-out"])
async def test_a_polled_source(told: bool) -> None:
    @asynccontextmanager
    async def polled() -> AsyncIterator[tuple[Source, Insert]]:
        async with memory_events() as (events, insert):

            async def poll(after: str) -> Sequence[Event]:
                return (await read_events(events, after))[:7]

            head = events.head if told else None
            yield PollSource(poll, every=0.01, head=head, clock=anyio.current_time), insert

    # It knows neither which cursors there are, nor which of two is ahead.
    await check_source(polled, lacks=["integer ids"])


@pytest.mark.anyio
@pytest.mark.parametrize("rule", rules_of(check_source))
async def test_a_scripted_source_without_a_script(rule: str) -> None:
    await check_source(scripted_source, rules=[rule])


@pytest.mark.asyncio
@pytest.mark.every_postgres
@pytest.mark.parametrize("wakeups", ["commit", None])
async def test_an_events_table(wakeups: Any, pool: asyncpg.Pool) -> None:
    await check_source(lambda: table(pool, wakeups=wakeups, poll_period=0.05))


@pytest.mark.asyncio
async def test_an_events_table_on_every_database(backend_pool: Any) -> None:
    await check_source(lambda: table(backend_pool))


@pytest.mark.asyncio
async def test_an_events_table_on_every_database_over_grpc(backend_pool: Any) -> None:
    await check_source(lambda: over_grpc(table(backend_pool)))


@pytest.mark.asyncio
@pytest.mark.parametrize("pages", [True, False], ids=["pages", "single-events"])
async def test_events_in_memory_over_grpc(pages: bool) -> None:
    await check_source(lambda: over_grpc(memory_events(), pages=pages))


@pytest.mark.asyncio
@pytest.mark.parametrize("pages", [True, False], ids=["pages", "single-events"])
async def test_an_events_table_over_grpc(pages: bool, pool: asyncpg.Pool) -> None:
    await check_source(lambda: over_grpc(table(pool), pages=pages))


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["stub", "method"])
async def test_events_in_memory_by_a_method_of_a_users_own(how: str) -> None:
    @asynccontextmanager
    async def own_method() -> AsyncIterator[tuple[Source, Insert]]:
        async with memory_events() as (source, insert), serving_users(Users(source)) as channel:
            yield source_of(channel, how), insert

    await check_source(own_method, lacks=["head"])


# Cursor stores.


@asynccontextmanager
async def memory_cursors() -> AsyncIterator[CursorStore]:
    yield MemoryCursorStore()


@asynccontextmanager
async def scripted_cursors() -> AsyncIterator[CursorStore]:
    yield ScriptedCursorStore()


@pytest.mark.anyio
@pytest.mark.parametrize("make", [memory_cursors, scripted_cursors])
@pytest.mark.parametrize("rule", rules_of(check_cursor_store))
async def test_cursors_in_memory(
    rule: str, make: Callable[[], AbstractAsyncContextManager[CursorStore]]
) -> None:
    await check_cursor_store(make, rules=[rule])


@pytest.mark.asyncio
@pytest.mark.every_postgres
@pytest.mark.parametrize("cursor_type", ["int", "str"])
@pytest.mark.parametrize("options", [{}, {"flush_every": 3600.0}, {"flush_every": 0.001}], ids=str)
async def test_a_cursors_table(cursor_type: Any, options: dict[str, float], pool: asyncpg.Pool) -> None:
    @asynccontextmanager
    async def store() -> AsyncIterator[CursorStore]:
        cursors = CursorsTable(f"cursors_{next(_numbers)}", cursor_type=cursor_type)
        async with pool.acquire() as connection:
            await cursors.create(connection)
        yield cursors.store(pool, **options)

    await check_cursor_store(store)
