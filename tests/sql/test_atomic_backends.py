"""Atomic consumers on every database and driver: effects and cursor commit together, or neither does."""

import asyncio
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio import Backoff, ConnectionLost, CursorConflict, DatabaseError, Event, Spec, run, run_forever
from reflex_aio.memory import MemoryEvents
from reflex_aio.sql import AtomicConsumer, CursorsTable
from tests.fix_backends import Backend
from tests.fix_proxy import Proxy
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

cursors = CursorsTable("cursors")


@pytest_asyncio.fixture
async def connection(backend: Backend) -> Any:
    connection = await backend.connect()
    await cursors.create(connection)
    await backend.fetch(connection, "CREATE TABLE effects (event_id int NOT NULL)")
    return connection


class Effects:
    """A handler that writes a row for each event, and then calls :meth:`go_on`, which tests override."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.called = 0

    async def __call__(self, event: Event, connection: Any) -> None:
        self.called += 1
        await self._backend.fetch(connection, f"INSERT INTO effects VALUES ({event.id_int})")
        await self.go_on(event, connection)

    async def go_on(self, event: Event, connection: Any) -> None:
        """Return at once."""


async def spec_of(pool: Any, handler: Effects, count: int, *, to_head: bool = True, **options: Any) -> Spec:
    events = MemoryEvents()
    for number in range(count):
        await events.insert(number, 1)
    return Spec(events, cursors.store(pool), AtomicConsumer("a", handler, **options), to_head=to_head)


async def found(backend: Backend, connection: Any) -> tuple[list[int], str]:
    rows = await backend.fetch(connection, "SELECT event_id FROM effects ORDER BY 1")
    return [row[0] for row in rows], await cursors.get(connection, "a")


async def test_effects_and_cursor_are_stored(backend: Backend, backend_pool: Any, connection: Any) -> None:
    await run(await spec_of(backend_pool, Effects(backend), 3))
    assert await found(backend, connection) == ([1, 2, 3], "3")


async def test_an_error_rolls_back_the_effects_and_the_cursor(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    class Failing(Effects):
        async def go_on(self, event: Event, connection: Any) -> None:
            if event.id == "2":
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(await spec_of(backend_pool, Failing(backend), 3))
    assert await found(backend, connection) == ([1], "1")

    async def recover(event: Event, error: Exception) -> None: ...

    await run(await spec_of(backend_pool, Failing(backend), 3, recover=recover))
    assert await found(backend, connection) == ([1, 3], "3")


@pytest.mark.parametrize("statement", ["ROLLBACK", "COMMIT"])
async def test_a_handler_that_ends_the_transaction_is_an_error(
    backend: Backend, backend_pool: Any, connection: Any, statement: str
) -> None:
    class Ending(Effects):
        async def go_on(self, event: Event, connection: Any) -> None:
            await backend.fetch(connection, statement)

    with pytest.raises(DatabaseError, match="the handler ended the transaction"):
        await run(await spec_of(backend_pool, Ending(backend), 1))


async def test_of_two_runs_the_later_one_does_nothing(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    released = asyncio.Event()

    class Held(Effects):
        async def go_on(self, event: Event, connection: Any) -> None:
            await released.wait()

    handler = Held(backend)
    first = asyncio.create_task(run(await spec_of(backend_pool, handler, 1)))
    await eventually(lambda: handler.called == 1, "the first run in its handler")
    opened = asyncio.Event()
    second_spec = await spec_of(backend_pool, handler, 1)
    get = second_spec.store.get

    async def observed_get(name: str) -> str:
        cursor = await get(name)
        opened.set()
        return cursor

    second_spec.store.get = observed_get  # type: ignore[method-assign]
    second = asyncio.create_task(run(second_spec))
    # The second run has read that there is no cursor.
    await opened.wait()
    released.set()
    await first
    with pytest.raises(CursorConflict):
        await second
    assert handler.called == 1
    assert await found(backend, connection) == ([1], "1")


async def test_a_commit_whose_reply_is_lost_has_its_effect_once(backend: Backend, connection: Any) -> None:
    async with Proxy(backend.dsn) as proxy:

        class Unanswered(Effects):
            async def go_on(self, event: Event, connection: Any) -> None:
                if event.id in ("2", "4"):
                    proxy.drop_answer_to(b"COMMIT")

        handler = Unanswered(backend)
        async with backend.pool(2, **backend.by_way_of(proxy)) as pool:
            with pytest.raises(ConnectionLost):
                await run(await spec_of(pool, handler, 5))
            # The run cannot know it, but the effect is committed.
            assert await found(backend, connection) == ([1, 2], "2")

            forever = await spec_of(pool, handler, 5, to_head=False)
            running = asyncio.create_task(run_forever(forever, backoff=Backoff(initial=0.01, maximum=0.01)))

            async def consumed() -> bool:
                return await cursors.get(connection, "a") == "5"

            await eventually(consumed, "all events")
            running.cancel()
            await asyncio.wait([running])
    assert proxy.answers_dropped == 2
    assert handler.called == 5
    assert await found(backend, connection) == ([1, 2, 3, 4, 5], "5")


async def test_a_connection_that_is_lost_in_the_handler_is_raised_and_not_passed_to_recover(
    backend: Backend, backend_pool: Any, connection: Any
) -> None:
    class Losing(Effects):
        async def go_on(self, event: Event, connection: Any) -> None:
            if self.called == 2:
                number = await backend.value(connection, backend.number)
                await backend.fetch(killer, backend.end.format(number))
                await backend.fetch(connection, "SELECT 1")

    async def recover(event: Event, error: Exception) -> None:
        raise AssertionError(error)

    killer = await backend.connect()
    handler = Losing(backend)
    with pytest.raises(ConnectionLost):
        await run(await spec_of(backend_pool, handler, 3, recover=recover))
    assert await found(backend, connection) == ([1], "1")
    await run(await spec_of(backend_pool, handler, 3, recover=recover))
    assert await found(backend, connection) == ([1, 2, 3], "3")
