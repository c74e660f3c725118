"""The processes of a soak test: writers, and consumers of every kind that record what they handle in ``effects``."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

import grpc

from reflex_aio import Backoff, Consumer, Event, ReflexError, Runner, Spec
from reflex_aio.patterns import by_foreign_id, shards
from reflex_aio.rpc import RemoteSource, StreamServer, channel_options, server_options
from reflex_aio.sql import AtomicConsumer, CursorsTable, EventsTable, LeasesTable, open_pool
from reflex_aio.sql.drivers import driver_of_connection, driver_of_pool

__all__ = [
    "SHARDS",
    "atomic",
    "create",
    "cursors",
    "events",
    "local",
    "remote",
    "replica",
    "serve",
    "write",
]

events = EventsTable("events", poll_period=0.5)
cursors, leases = CursorsTable("cursors"), LeasesTable("leases")
SHARDS = shards("replicas", 4, key=by_foreign_id)

logger = logging.getLogger(__name__)

_TTL = 3.0
_BACKOFF = Backoff(initial=0.05, maximum=1.0)


async def create(connection: Any) -> None:
    """Make all the tables."""
    for table in (events, cursors, leases):
        await table.create(connection)
    driver = driver_of_connection(connection)
    number = "bigint PRIMARY KEY AUTO_INCREMENT" if driver.dialect == "mysql" else "bigserial PRIMARY KEY"
    await driver.fetch(
        connection,
        f"CREATE TABLE effects (seq {number}, consumer varchar(99) NOT NULL, event_id bigint NOT NULL,"
        " at double precision NOT NULL)",
    )


@asynccontextmanager
async def _pool(dsn: str, log: str) -> AsyncIterator[Any]:
    """Log into a file, report the number of tasks once a second, and open a pool as soon as the server lets it."""
    logging.basicConfig(filename=log, level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    reporting = asyncio.create_task(_report(Path(f"{log}.tasks")))
    try:
        while True:
            try:
                opened = open_pool(dsn, size=6)
                pool = await opened.__aenter__()
                break
            except (ReflexError, OSError) as exc:
                logger.info("no pool yet: %s", exc)
                await asyncio.sleep(0.2)
        try:
            yield pool
        finally:
            await opened.__aexit__(None, None, None)
    finally:
        reporting.cancel()


async def _report(tasks: Path) -> None:
    while True:
        tasks.write_text(str(len(asyncio.all_tasks())))
        await asyncio.sleep(1.0)


def _effect(consumer: str, event: Event) -> str:
    return (
        f"INSERT INTO effects (consumer, event_id, at) VALUES ('{consumer}', {event.id}, {time.time():.6f})"
    )


def _recorder(pool: Any, consumer: str) -> Callable[[Event], Any]:
    driver = driver_of_pool(pool)

    async def handle(event: Event) -> None:
        async with driver.acquire(pool) as connection:
            await driver.fetch(connection, _effect(consumer, event))

    return handle


async def write(dsn: str, log: str, seed: str) -> None:
    """Insert events until killed, in transactions of which some are rolled back, and some take their time."""
    chance = random.Random(seed)
    async with _pool(dsn, log) as pool:
        driver = driver_of_pool(pool)

        async def transaction() -> None:
            async with driver.acquire(pool) as connection:
                await driver.fetch(connection, "BEGIN")
                rows = [(chance.randrange(50), 1) for _ in range(chance.randint(1, 3))]
                await events.insert_many(connection, rows)
                if chance.random() < 0.1:
                    await asyncio.sleep(chance.random())
                await driver.fetch(connection, "ROLLBACK" if chance.random() < 0.2 else "COMMIT")

        while True:
            try:
                async with asyncio.timeout(10):
                    await transaction()
            # Exceptions of each client library, too: the table shows what was committed.
            except Exception as exc:
                logger.info("a transaction failed: %r", exc)
                await asyncio.sleep(0.2)
            await asyncio.sleep(chance.random() * 0.1)


async def _run(specs: list[Spec], **options: Any) -> None:
    await Runner(specs, backoff=_BACKOFF, **options).run(signals=[SIGTERM])


async def local(dsn: str, log: str) -> None:
    """Consume the table, with effects outside of transactions."""
    async with _pool(dsn, log) as pool:
        await _run(
            [Spec(events.source(pool), cursors.store(pool), Consumer("local", _recorder(pool, "local")))]
        )


async def atomic(dsn: str, log: str) -> None:
    """Consume the table, each effect in the transaction that moves the cursor."""

    async def handle(event: Event, connection: Any) -> None:
        await driver_of_connection(connection).fetch(connection, _effect("atomic", event))

    async with _pool(dsn, log) as pool:
        await _run([Spec(events.source(pool), cursors.store(pool), AtomicConsumer("atomic", handle))])


async def replica(dsn: str, log: str, owner: str) -> None:
    """Consume the shards whose leases this replica gets."""
    async with _pool(dsn, log) as pool:
        specs = [
            Spec(
                events.source(pool),
                cursors.store(pool),
                Consumer(shard.name, _recorder(pool, shard.name), filter=shard),
            )
            for shard in SHARDS
        ]
        await _run(specs, leases=leases.store(pool), lease_ttl=_TTL, owner=owner)


async def serve(dsn: str, log: str, port: int) -> None:
    """Serve the table over gRPC until SIGTERM."""
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(SIGTERM, ending.set)
    async with _pool(dsn, log) as pool:
        server = grpc.aio.server(options=server_options())
        streams = StreamServer({"events": events.source(pool)})
        streams.add_to(server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await ending.wait()
        await streams.stop(grace=1.0)
        await server.stop(1.0)


async def remote(dsn: str, log: str, target: str) -> None:
    """Consume what is served at ``target``, with the cursor in the database."""
    async with (
        _pool(dsn, log) as pool,
        grpc.aio.insecure_channel(target, channel_options()) as channel,
    ):
        consumer = Consumer("remote", _recorder(pool, "remote"))
        await _run([Spec(RemoteSource(channel, "events"), cursors.store(pool), consumer)])
