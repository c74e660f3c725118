"""Marks: the position of a run, which a write-behind store reads."""

import asyncio
from typing import Any

import asyncpg
import pytest

from reflex_aio import Consumer, Event, Spec, run
from reflex_aio.errors import CursorConflict, InvalidCursor, LeaseLost
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.sql import EventsTable, LeasesTable
from tests.fix_statements import Statements
from tests.sql.cursor_rows import cursors, made, rival, stored, write_behind
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

users = EventsTable("user_events")
leases = LeasesTable("leases")

filters = pytest.mark.parametrize("filter", [None, lambda event: event.type == 1], ids=["plain", "filtered"])


async def test_a_marked_cursor_is_stored_at_the_interval(pool: asyncpg.Pool) -> None:
    await made(pool)
    async with write_behind(pool, flush_every=0.02) as store:
        with store.mark("a") as mark:
            assert mark is not None
            for cursor in ("1", "2"):
                mark.cursor = cursor

                async def is_stored(cursor: str = cursor) -> bool:
                    return await stored(pool) == cursor

                await eventually(is_stored)


@pytest.mark.suite_server
async def test_an_unchanged_mark_costs_no_statement(pool: asyncpg.Pool, statements: Statements) -> None:
    await made(pool)
    async with write_behind(pool, flush_every=0.001) as store:
        with store.mark("a") as mark:
            assert mark is not None
            mark.cursor = "1"
            await store.flush()
            statements.taken()
            for _ in range(5):
                await store.flush()
            assert [s for s in statements.taken() if "cursors" in s.text] == []


async def test_a_marked_cursor_counts_as_set(pool: asyncpg.Pool) -> None:
    await made(pool)
    async with write_behind(pool) as store:
        with store.mark("a") as mark:
            assert mark is not None
            mark.cursor = "1"
            assert await store.get("a") == "1"
            mark.cursor = "2"
            await store.flush()
            assert await stored(pool) == "2"
            mark.cursor = "3"
            with pytest.raises(CursorConflict):
                await store.set("a", "4", expected="2")
            assert await stored(pool) == "3"
            mark.cursor = "5"
        assert await store.get("a") == "5"
    assert await stored(pool) == "5"


async def test_a_rewind_discards_the_marked_cursor(pool: asyncpg.Pool) -> None:
    await made(pool)
    async with write_behind(pool) as store:
        with store.mark("a") as mark:
            assert mark is not None
            mark.cursor = "7"
            await store.rewind("a", "3")
    assert await stored(pool) == "3"


async def test_a_refused_mark_is_no_longer_read_and_the_next_set_raises_the_reason(
    pool: asyncpg.Pool,
) -> None:
    await made(pool)
    async with write_behind(pool, flush_every=0.01) as store:
        with store.mark("a") as mark, store.mark("b") as other:
            assert mark is not None
            assert other is not None
            await rival(pool, "9")
            mark.cursor = other.cursor = "5"
            await eventually(lambda: mark.refused, "the mark refused")
            mark.cursor = "10"
            with pytest.raises(CursorConflict):
                await store.set("a", "11")
            assert not other.refused
    assert (await stored(pool), await stored(pool, "b")) == ("9", "5")


@pytest.mark.parametrize(
    ("cursor", "error"), [("1", CursorConflict), ("x", InvalidCursor)], ids=["behind", "no-number"]
)
async def test_a_mark_with_an_invalid_cursor_is_refused(
    pool: asyncpg.Pool, cursor: str, error: type[Exception]
) -> None:
    await made(pool)
    async with write_behind(pool) as store:
        await store.set("a", "2")
        with store.mark("a") as mark:
            assert mark is not None
            mark.cursor = cursor
            with pytest.raises(error):
                await store.flush()
            assert mark.refused
    assert await stored(pool) == "2"


async def test_store_that_is_not_entered_has_each_cursor_set(pool: asyncpg.Pool) -> None:
    await made(pool)
    with write_behind(pool).mark("a") as mark:
        assert mark is None


async def test_store_without_marks_has_each_cursor_set() -> None:
    with MemoryCursorStore().mark("a") as mark:
        assert mark is None


async def test_mark_under_a_lease_that_is_lost_is_refused(pool: asyncpg.Pool) -> None:
    await made(pool)
    async with pool.acquire() as connection:
        await leases.create(connection)
    lender = leases.store(pool)
    lease = await lender.acquire("a", "me", ttl=60.0)
    assert lease is not None
    store = write_behind(pool)
    async with store:
        with store.mark("a", fence=lease) as mark:
            assert mark is not None
            mark.cursor = "1"
            await store.flush()
            await lender.release(lease)
            mark.cursor = "2"
            with pytest.raises(LeaseLost):
                await store.flush()
            assert mark.refused
    assert await stored(pool) == "1"


async def test_marks_and_leases_of_the_wrong_kind_are_refused_at_once(pool: asyncpg.Pool) -> None:
    async with write_behind(pool) as store:
        with pytest.raises(ValueError, match="consumer name ''"), store.mark(""):
            pass
        with pytest.raises(TypeError, match="a lease"), store.mark("a", fence="a lease"):  # type: ignore[arg-type]
            pass


@filters
async def test_run_whose_cursor_is_refused_ends_at_the_next_event(pool: asyncpg.Pool, filter: Any) -> None:
    await made(pool)
    async with pool.acquire() as connection:
        await users.create(connection)
        await users.insert_many(connection, [(str(number), 1) for number in range(1, 10)])
    handled: list[str] = []
    store = write_behind(pool, flush_every=0.01)

    async def is_refused() -> bool:
        return await store.get("c") == "8"

    async def handle(event: Event) -> None:
        handled.append(event.id)
        if event.id == "5":
            await rival(pool, "8", "c")
        elif event.id == "6":
            await eventually(is_refused)

    consumer = Consumer("c", handle, filter=filter)
    with pytest.raises(CursorConflict):
        await asyncio.wait_for(run(Spec(users.source(pool), store, consumer, to_head=True)), deadline(20.0))
    assert handled == ["1", "2", "3", "4", "5", "6"]
    assert await cursors.store(pool).get("c") == "8"


@filters
async def test_run_marks_an_event_once_its_handler_has_returned(pool: asyncpg.Pool, filter: Any) -> None:
    await made(pool)
    async with pool.acquire() as connection:
        await users.create(connection)
        await users.insert_many(connection, [("7", 1), ("7", 2), ("7", 1)])
    store = write_behind(pool)
    seen: list[str] = []

    async def handle(event: Event) -> None:
        seen.append(await store.get("c"))
        if event.id == "3":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(Spec(users.source(pool), store, Consumer("c", handle, filter=filter), to_head=True))
    assert seen == (["", "1", "2"] if filter is None else ["", "2"])
    assert await stored(pool, "c") == "2"
