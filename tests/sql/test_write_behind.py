"""The cursor store that keeps the latest cursors in memory, and stores them at an interval."""

import asyncio
import logging
from collections.abc import Coroutine, Generator
from functools import partial
from typing import Any

import asyncpg
import pytest

from reflex_aio.errors import ConnectionLost, CursorConflict, DatabaseError, TableNotFound
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql.cursors.store import TableCursorStore
from tests.fix_databases import Connect
from tests.fix_proxy import Proxy
from tests.fix_statements import Statements
from tests.sql.cursor_rows import NEVER, cursors, held, made, rival, set_within, stored, write_behind
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

# The time at which cursors are stored.


@pytest.mark.suite_server
async def test_a_set_writes_to_memory_only(pool: asyncpg.Pool, statements: Statements) -> None:
    await made(pool)
    async with write_behind(pool) as store:
        statements.taken()
        tasks = asyncio.all_tasks()
        for cursor in range(1, 1001):
            await store.set("a", str(cursor))
        assert asyncio.all_tasks() == tasks
        assert await store.get("a") == "1000"
        assert statements.taken() == []


@pytest.mark.suite_server
async def test_a_cursor_in_memory_is_moved_by_no_transaction(pool: asyncpg.Pool) -> None:
    await made(pool)
    store = write_behind(pool)
    with pytest.raises(NotImplementedError, match="has no transactions"):
        store.transaction("a", "1", expected="")


@pytest.mark.suite_server
async def test_the_latest_cursors_of_all_consumers_are_stored_by_one_statement(
    pool: asyncpg.Pool, statements: Statements
) -> None:
    await made(pool)
    names = [f"consumer {i}" for i in range(20)]
    async with write_behind(pool) as store:
        for cursor in range(1, 101):
            for name in names:
                await store.set(name, str(cursor))
        statements.taken()
        await store.flush()
        assert len([s for s in statements.taken() if "cursors" in s.text]) == 1
        assert await store.all() == dict.fromkeys(names, "100")


@pytest.mark.every_postgres
async def test_cursors_are_stored_at_the_interval(pool: asyncpg.Pool) -> None:
    await made(pool)
    async with write_behind(pool, flush_every=0.02) as store:
        for cursor in ("1", "2"):
            await store.set("a", cursor)

            async def is_stored(cursor: str = cursor) -> bool:
                return await stored(pool) == cursor

            await eventually(is_stored)


async def test_cursors_in_memory_are_not_among_the_stored_ones(pool: asyncpg.Pool) -> None:
    await made(pool)
    async with write_behind(pool) as store:
        await store.set("a", "1")
        await store.flush()
        await store.set("a", "2")
        assert await store.all() == {"a": "1"}


async def test_a_store_that_is_not_entered_stores_each_cursor_at_once(pool: asyncpg.Pool) -> None:
    await made(pool)
    store = write_behind(pool)
    await store.set("a", "1")
    assert await stored(pool) == "1"
    await store.flush()


async def test_each_exit_flushes_and_the_last_one_stops_the_task(pool: asyncpg.Pool) -> None:
    await made(pool)
    store = write_behind(pool)
    before = asyncio.all_tasks()
    async with store:
        async with store:
            await store.set("a", "1")
        assert await stored(pool) == "1"
        await store.set("a", "2")
        assert await stored(pool) == "1"
    assert await stored(pool) == "2"
    assert asyncio.all_tasks() == before


async def test_a_store_can_be_entered_while_another_task_leaves_it(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    async with held(pool, connect) as hold:
        store = write_behind(pool)
        await store.__aenter__()
        await store.set("a", "2")
        leaving = asyncio.create_task(store.__aexit__(None, None, None))
        await hold.waiting()
        async with store:
            await store.set("a", "3")
            await hold.end()
            await leaving
            await store.set("a", "4")
    assert await stored(pool) == "4"


async def test_a_store_can_be_entered_at_any_moment_of_another_tasks_exit(pool: asyncpg.Pool) -> None:
    await made(pool)
    for turns in range(12):
        store = write_behind(pool, flush_every=0.01)
        await store.__aenter__()
        leaving = asyncio.create_task(store.__aexit__(None, None, None))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with store:
            cursor = str(turns + 1)
            await store.set("a", cursor)

            async def is_stored(cursor: str = cursor) -> bool:
                return await stored(pool) == cursor

            await eventually(is_stored)
        await leaving


async def test_an_exit_waits_for_its_own_flush_although_another_task_has_left(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    async with held(pool, connect) as hold:
        store = write_behind(pool)
        first = asyncio.create_task(set_within(store, {"a": "2"}))
        await hold.waiting()
        second = asyncio.create_task(set_within(store, {"b": "2"}))
        await asyncio.wait([second], timeout=0.1)
        await hold.end()
        await asyncio.gather(first, second)
        assert await store.all() == {"a": "2", "b": "2"}


async def test_a_cursor_set_during_a_flush_is_stored_by_the_next_one(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    async with held(pool, connect) as hold, write_behind(pool) as store:
        await store.set("a", "10")
        flushing = asyncio.create_task(store.flush())
        await hold.waiting()
        await store.set("a", "11")
        await hold.end()
        await flushing
        assert await store.get("a") == "11"
        assert await stored(pool) == "10"
        await store.flush()
        assert await stored(pool) == "11"


async def test_flush_stores_every_cursor_set_before_while_other_tasks_continue_to_set(
    pool: asyncpg.Pool,
) -> None:
    await made(pool)
    async with write_behind(pool) as store:
        async with asyncio.timeout(deadline(20)):
            setting = asyncio.create_task(set_on_and_on(store))
            for _ in range(10):
                before = int(await store.get("a") or 0)
                await store.flush()
                assert int(await stored(pool) or 0) >= before
        setting.cancel()
        await asyncio.wait([setting])


async def set_on_and_on(store: TableCursorStore) -> None:
    cursor = 0
    while True:
        cursor += 1
        await store.set("a", str(cursor))
        await asyncio.sleep(0)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
async def test_durations_out_of_range_are_refused(pool: asyncpg.Pool, seconds: float) -> None:
    with pytest.raises(ValueError, match=r"flush_every .* is out of range"):
        cursors.store(pool, flush_every=seconds)
    with pytest.raises(ValueError, match=r"flush_timeout .* is out of range"):
        cursors.store(pool, flush_every=1, flush_timeout=seconds)


# Conflicts.


async def test_a_conflict_is_raised_by_the_next_set_of_its_consumer(pool: asyncpg.Pool) -> None:
    await made(pool)
    await rival(pool, "50")
    async with write_behind(pool, flush_every=0.01) as store:
        await store.set("a", "10")
        await store.set("b", "10")

        # Not by the table, which has the flushed cursors before the store gets the result.
        async def refused() -> bool:
            return await store.get("a") == "50"

        await eventually(refused)
        assert await stored(pool, "b") == "10"
        await store.set("b", "11")
        with pytest.raises(CursorConflict) as raised:
            await store.set("a", "11")
        assert (raised.value.consumer, raised.value.stored, raised.value.given) == ("a", "50", "10")
        assert await store.get("a") == "50"
        await store.set("a", "51")
    assert await stored(pool) == "51"
    assert await stored(pool, "b") == "11"


@pytest.mark.every_postgres
async def test_a_conflict_is_raised_by_flush_once(pool: asyncpg.Pool) -> None:
    await made(pool)
    await rival(pool, "50")
    async with write_behind(pool) as store:
        await store.set("a", "10")
        await store.set("b", "10")
        with pytest.raises(CursorConflict) as raised:
            await store.flush()
        assert (raised.value.stored, raised.value.given) == ("50", "10")
        assert await store.all() == {"a": "50", "b": "10"}
        await store.flush()


async def test_a_conflict_is_raised_by_the_exit(pool: asyncpg.Pool) -> None:
    await made(pool)
    store = write_behind(pool)
    await rival(pool, "50")
    with pytest.raises(CursorConflict):
        await set_within(store, {"a": "10"})
    await set_within(store, {})


async def test_an_error_in_the_body_is_raised_rather_than_the_conflict(
    pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    await made(pool)
    await rival(pool, "50")

    async def work() -> None:
        async with write_behind(pool) as store:
            await store.set("a", "10")
            raise KeyError("own")

    with pytest.raises(KeyError, match="own"), caplog.at_level(logging.ERROR):
        await work()
    assert "cursor '10' is not after the stored '50'" in caplog.text


async def test_conflicts_that_no_call_can_raise_are_logged(
    pool: asyncpg.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    await made(pool)
    await rival(pool, "50", "a")
    await rival(pool, "60", "b")
    with pytest.raises(CursorConflict, match="50"), caplog.at_level(logging.ERROR):
        await set_within(write_behind(pool), {"a": "10", "b": "10"})
    assert "60" in caplog.text


async def test_of_two_processes_with_one_name_the_one_behind_gets_the_conflict(pool: asyncpg.Pool) -> None:
    await made(pool)
    async with write_behind(pool) as ahead, write_behind(pool) as behind:
        await ahead.set("a", "20")
        await behind.set("a", "10")
        await ahead.flush()
        with pytest.raises(CursorConflict):
            await behind.flush()
    assert await stored(pool) == "20"


async def test_a_later_cursor_does_not_hide_a_conflict(pool: asyncpg.Pool, connect: Connect) -> None:
    async with held(pool, connect) as hold, write_behind(pool) as store:
        await store.set("a", "10")
        flushing = asyncio.create_task(store.flush())
        await hold.waiting()
        await store.set("a", "11")
        await hold.end_at("50")
        with pytest.raises(CursorConflict):
            await flushing
        assert await store.get("a") == "50"


# Rewinds and expected cursors during a flush.


async def test_a_rewind_is_not_undone_by_a_concurrent_flush(pool: asyncpg.Pool, connect: Connect) -> None:
    async with held(pool, connect) as hold, write_behind(pool) as store:
        # The flush waits for the row of "a", and has not written that of "b".
        await store.set("a", "10")
        await store.set("b", "10")
        flushing = asyncio.create_task(store.flush())
        await hold.waiting()
        rewinding = asyncio.create_task(store.rewind("b", "3"))
        await asyncio.wait([rewinding], timeout=0.2)
        await hold.end()
        await asyncio.gather(flushing, rewinding)
        assert await store.get("b") == await stored(pool, "b") == "3"


async def test_a_cursor_set_after_a_rewind_counts(pool: asyncpg.Pool) -> None:
    await made(pool)
    async with write_behind(pool) as store:
        await store.set("a", "10")
        await store.rewind("a", "3")
        await store.set("a", "4")
        assert await store.get("a") == "4"
    assert await stored(pool) == "4"


async def test_a_rewind_clears_a_conflict(pool: asyncpg.Pool) -> None:
    await made(pool)
    await rival(pool, "50")
    async with write_behind(pool) as store:
        await store.set("a", "10")
        await store.set("b", "10")
        with pytest.raises(CursorConflict):
            await store.set("a", "12", expected="10")
        await store.rewind("a", "9")
        await store.set("a", "10")
    assert await stored(pool) == "10"


# Failures.


async def test_cursors_set_while_the_server_is_down_are_stored_when_it_is_back(
    own_server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncpg.create_pool(own_server.dsn, min_size=1) as pool:
        await made(pool)
        async with write_behind(pool, flush_every=0.01) as store:
            await store.set("a", "1")
            await store.flush()
            await own_server.stop()
            await store.set("a", "2")
            await store.set("b", "2")
            await eventually(lambda: "not stored, retrying" in caplog.text)
            assert await store.get("a") == "2"
            await own_server.start()

            async def is_stored() -> bool:
                return await store.all() == {"a": "2", "b": "2"}

            await eventually(is_stored, within=15)


async def test_cursors_that_cannot_be_stored_at_the_exit_are_kept(own_server: EmbeddedPostgres) -> None:
    async with asyncpg.create_pool(own_server.dsn, min_size=1) as pool:
        await made(pool)
        store = write_behind(pool, flush_timeout=0.5)
        await own_server.stop()
        with pytest.raises(ConnectionLost, match=r"cursors in cursors: not stored within 0\.5 s"):
            await set_within(store, {"a": "2"})
        await own_server.start()
        assert await store.get("a") == "2"
        await set_within(store, {})
        assert await stored(pool) == "2"


async def test_a_kept_cursor_is_stored_before_a_later_one_that_is_set_at_once(
    own_server: EmbeddedPostgres,
) -> None:
    async with asyncpg.create_pool(own_server.dsn, min_size=1) as pool:
        await made(pool)
        store = write_behind(pool, flush_timeout=0.5)
        await own_server.stop()
        with pytest.raises(ConnectionLost):
            await set_within(store, {"a": "2", "b": "2"})
        await own_server.start()
        with pytest.raises(CursorConflict):
            await store.set("a", "1")
        await store.set("a", "3")
        assert await store.all() == {"a": "3"}
        await store.flush()
        assert await store.all() == {"a": "3", "b": "2"}


@pytest.mark.every_postgres
async def test_a_backend_that_is_terminated_during_a_flush_loses_no_cursor(
    pool: asyncpg.Pool, connect: Connect
) -> None:
    async with held(pool, connect) as hold, write_behind(pool) as store:
        await store.set("a", "10")
        flushing = asyncio.create_task(store.flush())
        await hold.terminate(await hold.waiting())
        await hold.end()
        await flushing
        assert await stored(pool) == "10"


async def test_a_cursor_that_another_transaction_has_locked_is_retried_and_holds_back_no_other(
    pool: asyncpg.Pool, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with held(pool, connect) as hold, write_behind(pool, flush_timeout=1.0) as store:
        await store.set("a", "10")
        await store.set("b", "10")
        with pytest.raises(DatabaseError, match=r"within 1 s: .*lock timeout"):
            await store.flush()
        assert await store.get("a") == "10"
        assert await stored(pool, "b") == "10"
        # No abandoned attempt continues in the database.
        await eventually(lambda: caplog.text.count("retrying") >= 2)
        assert len(await hold.waiters()) <= 1
        await hold.end()

        async def is_stored() -> bool:
            return await stored(pool) == "10"

        await eventually(is_stored)


async def test_a_silent_network_ends_an_attempt_to_store(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncpg.create_pool(proxy.dsn, min_size=1) as pool:
        await made(pool)
        async with write_behind(pool, flush_timeout=0.3) as store:
            await store.set("a", "10")
            proxy.stall()
            with pytest.raises(ConnectionLost, match=r"within 0\.3 s"):
                await store.flush()
            await eventually(lambda: "no answer within 0.3 s" in caplog.text)
            proxy.resume()

            async def is_stored() -> bool:
                return await store.all() == {"a": "10"}

            await eventually(is_stored)


async def test_a_cursor_that_the_database_refuses_holds_back_no_other(pool: asyncpg.Pool) -> None:
    await made(pool)
    await pool.execute("ALTER TABLE cursors ADD CHECK (id <> 'b')")
    store = write_behind(pool, flush_timeout=0.5)
    with pytest.raises(DatabaseError, match="violates check constraint"):
        await set_within(store, {"a": "1", "b": "1", "c": "1"})
    assert await store.all() == {"a": "1", "c": "1"}
    assert await store.get("b") == "1"


async def test_a_missing_table_is_raised_by_flush_without_delay(pool: asyncpg.Pool) -> None:
    async with write_behind(pool) as store:
        await store.set("a", "1")
        with pytest.raises(TableNotFound):
            await store.flush()
        assert await store.get("a") == "1"
        await made(pool)
    assert await stored(pool) == "1"


# Cancellation.


async def test_a_flush_that_is_cancelled_loses_no_cursor(pool: asyncpg.Pool, connect: Connect) -> None:
    async with held(pool, connect) as hold, write_behind(pool) as store:
        await store.set("a", "10")
        flushing = asyncio.create_task(store.flush())
        await hold.waiting()
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        await hold.end()
        await store.flush()
        assert await stored(pool) == "10"


async def test_a_cancelled_exit_finishes_storing(pool: asyncpg.Pool, connect: Connect) -> None:
    async with held(pool, connect) as hold:
        store = write_behind(pool)

        task = asyncio.create_task(set_within(store, {"a": "10"}))
        await hold.waiting()
        for _ in range(3):
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=0.1)
            assert not done
        await hold.end()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await stored(pool) == "10"


async def test_an_exit_is_bounded_and_the_rest_is_stored_when_the_store_is_entered_again(
    proxy: Proxy,
) -> None:
    async with asyncpg.create_pool(proxy.dsn, min_size=1) as pool:
        await made(pool)
        store = write_behind(pool, flush_every=0.2, flush_timeout=0.2)
        proxy.stall()
        with pytest.raises(ConnectionLost, match=r"not stored within 0\.2 s: no answer"):
            await set_within(store, {"a": "10"})
        proxy.resume()
        await eventually(lambda: pool.get_size() == pool.get_idle_size())
        async with store:

            async def is_stored() -> bool:
                return await store.all() == {"a": "10"}

            await eventually(is_stored)


class CancelledAt:
    """Awaits ``work``, and cancels the current task when it waits for the nth time."""

    def __init__(self, nth: int, work: Coroutine[Any, Any, None]) -> None:
        self._left = nth
        self._work = work

    def __await__(self) -> Generator[Any, None, None]:
        step = partial(self._work.send, None)
        while True:
            try:
                awaited = step()
            except StopIteration:
                return
            self._left -= 1
            if not self._left:
                task = asyncio.current_task()
                assert task
                task.cancel()
            try:
                yield awaited
                step = partial(self._work.send, None)
            except BaseException as exc:
                step = partial(self._work.throw, exc)


async def test_cancellation_at_any_await_leaves_no_task_and_loses_no_cursor(pool: asyncpg.Pool) -> None:
    await made(pool)
    before = asyncio.all_tasks()
    last = 0

    async def work() -> None:
        nonlocal last
        async with write_behind(pool) as store:
            for _ in range(2):
                await store.set("a", str(last + 1))
                last += 1
                await store.flush()
            await store.set("a", str(last + 1), expected=str(last))
            last += 1
            await store.set("a", str(last + 1))
            last += 1

    async def cancelled_at(nth: int) -> None:
        await CancelledAt(nth, work())

    for nth in range(1, 100):
        task = asyncio.create_task(cancelled_at(nth))
        await asyncio.wait([task])
        # The pool may still be replacing a connection.
        await eventually(lambda: asyncio.all_tasks() == before, "no task left")
        assert pool.get_size() == pool.get_idle_size()
        assert await stored(pool) in (str(last), str(last + 1))
        last = int(await stored(pool))
        if not task.cancelled():
            break
    await task
    assert nth > 4


@pytest.mark.parametrize("flush_every", [NEVER, 0.01], ids=["before-a-flush", "under-a-flush"])
async def test_a_loop_that_cancels_everything_at_once_loses_no_cursor(
    pool: asyncpg.Pool, connect: Connect, flush_every: float
) -> None:
    # As asyncio.run does with the remaining tasks when it ends.
    async with held(pool, connect) as hold:
        store = write_behind(pool, flush_every=flush_every)
        before = asyncio.all_tasks()

        async def work() -> None:
            async with store:
                await store.set("a", "10")
                await asyncio.sleep(NEVER)

        working = asyncio.create_task(work())
        if flush_every == NEVER:
            await eventually(lambda: len(asyncio.all_tasks() - before) == 2)
        else:
            await hold.waiting()
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await hold.end()
        async with asyncio.timeout(deadline(10)):
            await asyncio.wait([working])
    assert working.cancelled()
    assert await stored(pool) == "10"
