"""Events of a table reach consumers in other processes, even if processes are killed."""

import asyncio
import sys

import asyncpg
import grpc
import pytest
import pytest_asyncio

from reflex_aio import Consumer, CursorAhead, Event, Spec, run_forever
from reflex_aio.backoff import Backoff
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.rpc import RemoteSource, StreamServer, server_options
from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect, Database
from tests.fix_processes import Spawn
from tests.rpc.serving import ids, serving, take
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio

users = EventsTable("user_events", metadata=True)


@pytest_asyncio.fixture
async def connection(connect: Connect) -> asyncpg.Connection:
    """A connection to a database that has the table."""
    connection = await connect()
    await users.create(connection)
    return connection


async def serve_users(dsn: str, port: int) -> None:
    """Serve the table, in a process of its own, until a line is read."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool:
        server = grpc.aio.server(options=server_options())
        streams = StreamServer({"users": users.source(pool)})
        streams.add_to(server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await streams.stop()
        await server.stop(1.0)


async def consume_users(target: str, count: int) -> None:
    """Consume ``count`` events, in a process of its own, and print their ids."""
    enough = asyncio.Event()
    consumed = 0

    async def handle(event: Event) -> None:
        nonlocal consumed
        print(event.id, flush=True)
        consumed += 1
        if consumed == count:
            enough.set()

    async with grpc.aio.insecure_channel(target) as channel:
        spec = Spec(RemoteSource(channel, "users"), MemoryCursorStore(), Consumer("child", handle))
        running = asyncio.create_task(run_forever(spec))
        await enough.wait()
        running.cancel()
        await asyncio.wait([running])


async def insert(connection: asyncpg.Connection, count: int, *, rolled_back: bool = False) -> list[int]:
    """Insert ``count`` events in one transaction, and return their ids."""
    transaction = connection.transaction()
    await transaction.start()
    inserted = [int(await users.insert(connection, i, 1, metadata=b"m")) for i in range(count)]
    await (transaction.rollback() if rolled_back else transaction.commit())
    return [] if rolled_back else inserted


async def test_processes_share_only_the_connection(
    database: Database, connection: asyncpg.Connection, spawn: Spawn
) -> None:
    server = await spawn(serve_users, database.dsn, 0)
    target = f"127.0.0.1:{await server.line()}"
    before = await insert(connection, 10)
    consumer = await spawn(consume_users, target, 20)
    assert [int(await consumer.line()) for _ in before] == before
    await insert(connection, 5, rolled_back=True)
    after = await insert(connection, 10)
    assert [int(await consumer.line()) for _ in after] == after
    assert await consumer.wait() == 0
    await server.write_line("stop")
    assert await server.wait() == 0


async def test_no_event_is_missed_when_the_server_is_killed_and_restarted(
    database: Database, connection: asyncpg.Connection, spawn: Spawn
) -> None:
    consumed: list[Event] = []
    progress = asyncio.Condition()

    async def handle(event: Event) -> None:
        async with progress:
            consumed.append(event)
            progress.notify_all()

    async def consumed_all(expected: list[int]) -> None:
        async with asyncio.timeout(deadline(30)), progress:
            await progress.wait_for(lambda: len(consumed) >= len(expected))
        assert ids(consumed) == expected

    server = await spawn(serve_users, database.dsn, 0)
    port = int(await server.line())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        spec = Spec(RemoteSource(channel, "users"), MemoryCursorStore(), Consumer("c", handle))
        running = asyncio.create_task(run_forever(spec, backoff=Backoff(initial=0.01, maximum=0.1)))
        expected = []
        for _ in range(3):
            expected += await insert(connection, 20)
            await consumed_all(expected)
            await server.kill()
            expected += await insert(connection, 20)
            server = await spawn(serve_users, database.dsn, port)
            await server.line()
        await consumed_all(expected)
        running.cancel()
        await asyncio.wait([running])
    assert {event.metadata for event in consumed} == {b"m"}


async def test_an_event_in_flight_holds_back_those_after_it(
    pool: asyncpg.Pool, connection: asyncpg.Connection
) -> None:
    async with (
        serving(StreamServer(users.source(pool))) as channel,
        RemoteSource(channel).stream() as stream,
    ):
        async with pool.acquire() as slow:
            transaction = slow.transaction()
            await transaction.start()
            first = await users.insert(slow, 1, 1)
            second = await users.insert(connection, 2, 1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await anext(stream)
            await transaction.commit()
        assert [event.id for event in await take(stream, 2)] == [first, second]


async def test_a_cursor_ahead_of_the_table_is_an_error(
    pool: asyncpg.Pool, connection: asyncpg.Connection
) -> None:
    await users.insert(connection, 1, 1)
    async with serving(StreamServer(users.source(pool))) as channel:
        with pytest.raises(CursorAhead) as remote:
            async with RemoteSource(channel).stream("1000") as stream:
                await anext(stream)
        with pytest.raises(CursorAhead) as raised:
            async with users.stream(pool, "1000") as local:
                await anext(local)
        assert vars(remote.value) == vars(raised.value)
