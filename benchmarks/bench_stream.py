"""Streams: async for over a table, run, and a remote stream, compared with pages read by the driver."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import grpc

from benchmarks.measure import Baseline, Measured, Result, compare
from benchmarks.processes import child
from reflex_aio import Consumer, Event, Source, Spec, pb, run
from reflex_aio.rpc import RemoteSource, StreamServer, channel_options, server_options
from reflex_aio.rpc.protocol import event_to_message
from reflex_aio.sql import CursorsTable, EventsTable

__all__ = ["bench_stream", "serve"]

PAGE = 1000
# One in this many events is sent as a message of its own.
SINGLE = 20
READY = "/benchmarks.Ready/Stream"
EVENTS = EventsTable("bench_events", metadata=True, trace=True, page_size=PAGE)
CURSORS = CursorsTable("bench_cursors")
QUERY = """
SELECT id, type, foreign_id, timestamp, metadata, trace FROM bench_events WHERE id > $1 ORDER BY id LIMIT $2
"""


async def bench_stream(dsn: str, *, rows: int, repeat: int) -> list[Result]:
    """Measure streams of ``rows`` events with all columns."""
    async with asyncpg.create_pool(dsn, min_size=2, max_size=10) as pool:
        await _fill(pool, rows)
        paging = Baseline("asyncpg paging", _paging(pool))

        async def against_paging(name: str, what: str, ours: Measured, goal: float | None = None) -> Result:
            return await compare(
                name, what=what, ours=ours, against=paging, unit="events/s", goal=goal, repeat=repeat
            )

        results = [
            await against_paging("stream_local", "async for, local", _iterating(EVENTS.source(pool)), 1.5),
            await against_paging(
                "stream_local_timestamps",
                "the same, reading every timestamp",
                _reading_timestamps(EVENTS.source(pool)),
                0.9,
            ),
            await compare(
                "stream_local_cpu",
                what="the client's CPU for an event",
                ours=_cpu(_iterating(EVENTS.source(pool)), rows),
                against=Baseline(paging.name, _cpu(paging.measure, rows)),
                unit="s",
                better="lower",
                goal=0.65,
                repeat=repeat,
            ),
            await against_paging("run_local", "run, cursors written behind", _running(pool), 1.3),
        ]
        async with _served(dsn) as address, grpc.aio.insecure_channel(address, channel_options()) as channel:
            pages, single = RemoteSource(channel), RemoteSource(channel, pages=False)
            results += [
                await against_paging("stream_grpc", "async for, gRPC, pages", _iterating(pages), 0.9),
                await compare(
                    "stream_grpc_single",
                    what="async for, gRPC, event by event",
                    ours=_iterating(single, str(rows - rows // SINGLE)),
                    against=Baseline("ready-made bytes", _receiving(channel, rows // SINGLE)),
                    unit="events/s",
                    goal=0.75,
                    repeat=repeat,
                ),
            ]
        return results


async def _fill(pool: Any, rows: int) -> None:
    async with pool.acquire() as connection:
        await EVENTS.create(connection)
        await CURSORS.create(connection)
        await connection.execute(
            "INSERT INTO bench_events (foreign_id, type, metadata, trace)"
            " SELECT i::text, i % 5 + 1, 'some metadata', 'a trace of the span' FROM generate_series(1, $1::int) AS i",
            rows,
        )
        await connection.execute("VACUUM ANALYZE bench_events")


def _paging(pool: Any) -> Measured:
    async def measure() -> float:
        began, count, last = time.perf_counter(), 0, 0
        async with pool.acquire() as connection:
            while page := await connection.fetch(QUERY, last, PAGE):
                for _row in page:
                    count += 1
                last = page[-1]["id"]
        return count / (time.perf_counter() - began)

    return measure


def _iterating(source: Source, after: str = "") -> Measured:
    async def measure() -> float:
        began, count = time.perf_counter(), 0
        async with source.stream(after, to_head=True) as stream:
            async for _event in stream:
                count += 1
        return count / (time.perf_counter() - began)

    return measure


def _reading_timestamps(source: Source) -> Measured:
    async def measure() -> float:
        began, newest = time.perf_counter(), datetime.min.replace(tzinfo=UTC)
        count = 0
        async with source.stream(to_head=True) as stream:
            async for event in stream:
                newest = event.timestamp
                count += 1
        assert newest.year > 1
        return count / (time.perf_counter() - began)

    return measure


def _cpu(work: Measured, events: int) -> Measured:
    """Measure the CPU of this process for each event of ``work``."""

    async def measure() -> float:
        began = time.process_time()
        await work()
        return (time.process_time() - began) / events

    return measure


def _receiving(channel: grpc.aio.Channel, count: int) -> Measured:
    """Receive prepared bytes without decoding them: the cost of a message in grpc.aio itself."""
    call: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(READY)

    async def measure() -> float:
        began, received = time.perf_counter(), 0
        stream = call(str(count).encode())
        while await stream.read() is not grpc.aio.EOF:
            received += 1
        return received / (time.perf_counter() - began)

    return measure


def _running(pool: Any) -> Measured:
    count = 0

    async def count_it(event: Event) -> None:
        nonlocal count
        count += 1

    async def measure() -> float:
        nonlocal count
        async with pool.acquire() as connection:
            await connection.execute("TRUNCATE bench_cursors")
        store = CURSORS.store(pool, flush_every=1.0)
        began, count = time.perf_counter(), 0
        await run(Spec(EVENTS.source(pool), store, Consumer("bench", count_it), to_head=True))
        return count / (time.perf_counter() - began)

    return measure


@asynccontextmanager
async def _served(dsn: str) -> AsyncIterator[str]:
    async with child("benchmarks.bench_stream:serve", dsn) as process:
        yield await process.read()


async def serve(dsn: str) -> None:
    """Serve the events over gRPC, in a process of its own, until interrupted. Print the address."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool:
        server = grpc.aio.server(options=server_options())
        streams = StreamServer(EVENTS.source(pool))
        streams.add_to(server)
        _, service, method = READY.split("/")
        ready: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(_send_ready)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: ready}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"127.0.0.1:{port}", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            await streams.stop()
            await server.stop(None)


async def _send_ready(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    event = Event("123456", 1, "123456", 1_700_000_000_000_000, b"some metadata", b"a trace of the span")
    message = event_to_message(event, pb.Event).SerializeToString()
    for _ in range(int(request)):
        await context.write(message)
