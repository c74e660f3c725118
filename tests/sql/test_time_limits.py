"""Every operation on a pool has a time limit: no dead connection and no lock of others stops one for good."""

import asyncio
import gc
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import reflex_aio.sql
from reflex_aio import ConnectionLost, Consumer, Event, Lease, ReflexError, Runner, Spec, run
from reflex_aio.health import ConsumerState
from reflex_aio.memory import MemoryEvents
from reflex_aio.patterns import ConcurrentConsumer
from reflex_aio.sql import (
    AtomicConsumer,
    AttemptsTable,
    CursorsTable,
    ErrorsTable,
    EventColumns,
    EventsTable,
    LeasesTable,
    Retention,
)
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.leases.store import TableLease
from tests.fix_backends import Backend
from tests.fix_proxy import Proxy
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

LIMIT = 0.5

events = EventsTable("events", query_timeout=LIMIT, poll_period=0.1)
cursors = CursorsTable("cursors")
errors = ErrorsTable("errors", events=False)
leases = LeasesTable("leases")
attempts = AttemptsTable("attempts")

EVENT = Event("1", 1, "7", 0)
Operation = Callable[[Any], Awaitable[Any]]


async def move_in_a_transaction(pool: Any) -> None:
    async with cursors.store(pool).transaction("c", "2", expected="1"):
        pass


async def read_a_page(pool: Any) -> None:
    async with events.stream(pool, to_head=True) as stream:
        await stream.read_page()


async def flush(pool: Any) -> None:
    async with cursors.store(pool, flush_every=10, flush_timeout=LIMIT) as store:
        await store.set("c", "2")


async def with_lease(pool: Any, use: Callable[[Lease], Awaitable[None]]) -> None:
    # As the tests have acquired it.
    await use(TableLease("c", "owner", 1, schema=leases.schema))


async def renew_all(pool: Any) -> None:
    async with leases.store(pool) as store:
        lease = TableLease("c", "owner", 1, schema=leases.schema)
        failures = await store.renew_many([lease], ttl=10)
        if lease in failures:
            raise failures[lease]


async def ignore(event: Event) -> None: ...


async def ignore_in_a_transaction(event: Event, connection: Any) -> None: ...


OPERATIONS: Mapping[str, tuple[str, Operation]] = {
    "cursors get": ("cursors", lambda pool: cursors.store(pool).get("c")),
    "cursors set": ("cursors", lambda pool: cursors.store(pool).set("c", "2")),
    "cursors set fenced": (
        "cursors",
        lambda pool: with_lease(pool, lambda lease: cursors.store(pool).set("c", "2", fence=lease)),
    ),
    "cursors all": ("cursors", lambda pool: cursors.store(pool).all()),
    "cursors rewind": ("cursors", lambda pool: cursors.store(pool).rewind("c", "")),
    "cursors transaction": ("cursors", move_in_a_transaction),
    "cursors flush": ("cursors", flush),
    "errors record": (
        "errors",
        lambda pool: errors.recorder(pool).record(consumer="c", event=EVENT, error=ValueError("x")),
    ),
    "leases acquire": ("leases", lambda pool: leases.store(pool).acquire("c", "other", ttl=10)),
    "leases renew": (
        "leases",
        lambda pool: with_lease(pool, lambda lease: leases.store(pool).renew(lease, ttl=10)),
    ),
    "leases renew many": ("leases", renew_all),
    "leases release": (
        "leases",
        lambda pool: with_lease(pool, lambda lease: leases.store(pool).release(lease)),
    ),
    "leases all": ("leases", lambda pool: leases.store(pool).all()),
    "attempts get": ("attempts", lambda pool: attempts.store(pool).get("c")),
    "attempts record": ("attempts", lambda pool: attempts.store(pool).record("c", "1", delay=1)),
    "attempts clear": ("attempts", lambda pool: attempts.store(pool).clear("c", "1")),
    "events head": ("events", lambda pool: events.source(pool).head()),
    "events page": ("events", read_a_page),
    "events prune": ("events", lambda pool: events.prune(pool, Retention(before="1", force=True))),
    "partitions room": ("events", lambda pool: events.partitions(10).room(pool)),
    "partitions extend": ("events", lambda pool: events.partitions(10).extend(pool)),
    "partitions prune": (
        "events",
        lambda pool: events.partitions(10).prune(pool, Retention(before="1", force=True)),
    ),
    "errors replay": (
        "errors",
        lambda pool: errors.replay(pool, "1", source=MemoryEvents(), handler=ignore),
    ),
}


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "statement_timeout", LIMIT)


@pytest_asyncio.fixture
async def connection(backend: Backend) -> Any:
    """A connection to a database with all tables, a cursor and a lease."""
    connection = await backend.connect()
    for table in (events, cursors, errors, leases, attempts):
        await table.create(connection)
    await events.insert(connection, 1, 1)
    await cursors.set(connection, "c", "1")
    return connection


@asynccontextmanager
async def pools(backend: Backend, **arguments: Any) -> AsyncIterator[Mapping[str, Any]]:
    """A pool for each operation, of one connection, which is connected."""
    async with AsyncExitStack() as stack:
        opened = {
            name: await stack.enter_async_context(backend.pool(1, **arguments))
            for name in OPERATIONS
            if backend.driver.dialect == "postgres" or not name.startswith("partitions")
        }
        # Prepared, so that each has done its first statement.
        for pool in opened.values():
            async with backend.driver.acquire(pool, limit=asyncio.timeout(deadline(30))) as connection:
                await backend.fetch(connection, "SELECT 1")
        yield opened


async def outcomes(opened: Mapping[str, Any]) -> dict[str, BaseException | None]:
    """Do each operation on its pool, all at the same time; return their errors, which may not take long."""

    async def outcome(name: str) -> BaseException | None:
        try:
            # A few limits: an operation may try again, and closing a dead connection takes up to a second.
            async with asyncio.timeout(deadline(30)):
                await OPERATIONS[name][1](opened[name])
        except Exception as exc:
            return exc
        return None

    return dict(zip(opened, await asyncio.gather(*map(outcome, opened)), strict=True))


@pytest_asyncio.fixture
async def through_proxy(backend: Backend) -> AsyncIterator[Proxy]:
    async with Proxy(backend.dsn) as proxy:
        yield proxy


async def test_an_operation_on_a_dead_connection_fails_in_time_and_the_next_one_succeeds(
    backend: Backend, connection: Any, through_proxy: Proxy
) -> None:
    async with backend.pool(1) as pool:
        await leases.store(pool).acquire("c", "owner", ttl=1000)
    async with pools(backend, **backend.by_way_of(through_proxy)) as opened:
        through_proxy.strand()
        failed = await outcomes(opened)
        assert {name: type(error) for name, error in failed.items()} == dict.fromkeys(opened, ConnectionLost)
        for name, error in failed.items():
            table = OPERATIONS[name][0]
            assert str(error).startswith(f"{table}: ") or name == "cursors flush", error
        again = await outcomes({name: pool for name, pool in opened.items() if name != "cursors transaction"})
        assert [(name, error) for name, error in again.items() if isinstance(error, ConnectionLost)] == []


async def test_an_operation_on_a_locked_table_fails_in_time_and_leaves_nothing_waiting_in_the_server(
    backend: Backend, connection: Any
) -> None:
    async with backend.pool(1) as pool:
        await leases.store(pool).acquire("c", "owner", ttl=1000)
    for table in ("cursors", "errors", "leases", "attempts", "events"):
        locking = await backend.connect()
        async with pools(backend) as opened:
            for statement in backend.lock_table:
                await backend.fetch(locking, statement.format(table))
            failed = await outcomes({name: opened[name] for name in opened if OPERATIONS[name][0] == table})
            assert {name for name, error in failed.items() if not isinstance(error, ReflexError)} == set()
            watching = await backend.connect()
            await eventually(partial(nobody_waits, backend, watching), "nothing waits in the server")
            await backend.fetch(locking, backend.unlock_tables)


async def nobody_waits(backend: Backend, watching: Any) -> bool:
    return int(await backend.value(watching, backend.table_waits)) == 0


async def test_a_handler_may_take_longer_than_the_limit_of_statements(
    backend: Backend, connection: Any, backend_pool: Any
) -> None:
    source = MemoryEvents()
    await source.insert(1, 1)
    began = time.monotonic()

    async def handle(event: Event, connection: Any) -> None:
        await eventually(lambda: time.monotonic() > began + 2 * LIMIT)
        await errors.record(connection, consumer="c", event=event, error=ValueError("as an effect"))

    consumer = AtomicConsumer("atomic", handle)
    await run(Spec(source, cursors.store(backend_pool), consumer, to_head=True))
    assert await cursors.store(backend_pool).get("atomic") == "1"
    assert len(await errors.find(connection)) == 1


async def test_a_row_that_another_session_has_locked_stops_a_consumer_for_the_limit_only(
    backend: Backend, connection: Any, backend_pool: Any
) -> None:
    holding = await backend.connect()
    await backend.fetch(holding, "BEGIN")
    await backend.fetch(holding, "SELECT * FROM cursors WHERE id = 'c' FOR UPDATE")
    for operation in ("cursors set", "cursors transaction"):
        with pytest.raises(ReflexError):
            await OPERATIONS[operation][1](backend_pool)
    watching = await backend.connect()
    await eventually(partial(no_lock_waits, backend, watching), "nothing waits in the server")
    await backend.fetch(holding, "ROLLBACK")
    await OPERATIONS["cursors set"][1](backend_pool)


async def test_a_statement_that_timed_out_is_cancelled_also_while_others_wait_for_the_pool(
    backend: Backend, connection: Any
) -> None:
    holding, watching = await backend.connect(), await backend.connect()
    await backend.fetch(holding, "BEGIN")
    await backend.fetch(holding, "SELECT * FROM cursors WHERE id = 'c' FOR UPDATE")
    async with backend.pool(1) as pool, asyncio.TaskGroup() as group:
        first = group.create_task(outcomes({"cursors set": pool}))
        await backend.waiting_for_locks(1)

        async def occupy() -> None:
            async with backend.driver.acquire(pool, limit=asyncio.timeout(deadline(30))) as connection:
                await cursors.set(connection, "c", "3")

        second = group.create_task(occupy())
        assert {type(error) for error in (await first).values()} == {ConnectionLost}
        await eventually(partial(waits_once, backend, watching), "only one statement waits", every=0.15)
        assert not second.done()
        await backend.fetch(holding, "ROLLBACK")


async def waits_once(backend: Backend, watching: Any) -> bool:
    return int(await backend.value(watching, backend.lock_waits)) == 1


@pytest.mark.parametrize(
    "consumer",
    [
        Consumer("c", ignore),
        ConcurrentConsumer("c", ignore, limit=2),
        AtomicConsumer("c", ignore_in_a_transaction),
    ],
    ids=lambda consumer: type(consumer).__name__,
)
async def test_a_consumer_whose_cursor_is_locked_warns_and_is_not_ready_until_it_gets_on(
    backend: Backend,
    connection: Any,
    backend_pool: Any,
    consumer: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = MemoryEvents()
    await source.insert(1, 1)
    await source.insert(2, 1)
    holding = await backend.connect()
    await backend.fetch(holding, "BEGIN")
    await backend.fetch(holding, "SELECT * FROM cursors WHERE id = 'c' FOR UPDATE")
    store = cursors.store(backend_pool)
    async with Runner([Spec(source, store, consumer)]) as runner:
        await eventually(lambda: runner.statuses()["c"].restarts >= 1)
        await eventually(lambda: runner.statuses()["c"].state is ConsumerState.BACKING_OFF)
        assert not runner.ready
        await backend.fetch(holding, "ROLLBACK")
        await eventually(lambda: runner.ready)
    assert await store.get("c") == "2"
    logged = [record for record in caplog.records if "restarting" in record.getMessage()]
    assert {record.levelname for record in logged} == {"WARNING"}
    assert f"consumer c: cursors: the database did not answer within {LIMIT:g} s" in caplog.text


async def no_lock_waits(backend: Backend, watching: Any) -> bool:
    return int(await backend.value(watching, backend.lock_waits)) == 0


async def test_the_kernel_closes_connections_of_open_pool_whose_other_end_is_gone(
    backend: Backend, through_proxy: Proxy
) -> None:
    driver = backend.driver
    pool = await driver.open_pool(through_proxy.dsn, size=1)
    try:
        async with driver.acquire(pool) as connection:
            with socket.socket(fileno=os.dup(descriptor(driver.underlying(connection)))) as connected:
                assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15
                assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
    finally:
        await driver.close_pool(pool)


def descriptor(connection: Any) -> int:
    """Return the file descriptor of a connection, for which most libraries have no public name."""
    if hasattr(connection, "fileno"):
        return int(connection.fileno())
    transport = connection._writer.transport if hasattr(connection, "_writer") else connection._transport
    return int(transport.get_extra_info("socket").fileno())


async def test_an_error_of_the_database_leaves_no_future_behind(
    backend: Backend, connection: Any, backend_pool: Any
) -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    missing = CursorsTable("missing")
    for _ in range(3):
        with pytest.raises(ReflexError):
            await missing.store(backend_pool).get("c")
        with pytest.raises(ReflexError):
            await (
                events.replace(columns=EventColumns(type="missing")).source(backend_pool).stream().read_page()
            )
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []


async def test_connections_are_acquired_in_the_two_places_that_limit_their_use() -> None:
    sql = Path(reflex_aio.sql.__file__).parent
    acquiring = {
        str(path.relative_to(sql))
        for path in sql.rglob("*.py")
        if re.search(r"\.checkout\(|pool\.acquire\(", path.read_text())
    }
    # The drivers implement it, and a message names it.
    drivers = {f"drivers/{name}.py" for name in ("__init__", "asyncpg", "mysql")}
    assert acquiring - drivers == {"drivers/base.py", "drivers/pinned_connection.py"}
