"""Comparison with other libraries: the same small messages through each, on the same server."""

import asyncio
import statistics
import time
from collections.abc import Callable

import asyncpg

from benchmarks.measure import Baseline, Measured, Result, compare
from benchmarks.peers.base import Peer
from benchmarks.peers.eventsourcing import Eventsourcing
from benchmarks.peers.pgqueuer import Pgqueuer
from benchmarks.peers.procrastinate import Procrastinate
from benchmarks.peers.reflex import Reflex, ReflexWrittenBehind
from reflex_aio.ext.embedded import EmbeddedPostgres

__all__ = ["bench_peers"]

# Each with our variant of the same guarantee: procrastinate commits each finished job, pgqueuer a batch of them, and
# the subscription of eventsourcing commits nothing.
PAIRS: list[tuple[type[Peer], type[Peer]]] = [
    (ReflexWrittenBehind, Pgqueuer),
    (Reflex, Procrastinate),
    (ReflexWrittenBehind, Eventsourcing),
]
# The pause between two messages whose latency is measured, in seconds.
PAUSE = 0.02
# The time in seconds after which a message counts as lost.
LONGEST = 120.0


async def bench_peers(server: EmbeddedPostgres, *, messages: int, repeat: int) -> list[Result]:
    """Measure the rates of publishing and consuming ``messages`` messages, and the latency of one."""
    results: list[Result] = []
    for ours_type, peer_type in PAIRS:
        ours = await _installed(server, ours_type)
        peer = await _installed(server, peer_type)

        async def beside(
            measure: Callable[[Peer], Measured],
            name: str,
            what: str,
            unit: str,
            *,
            lower: bool = False,
            ours: Peer = ours,
            peer: Peer = peer,
        ) -> Result:
            return await compare(
                f"{name}_{type(peer).__name__.lower()}",
                what=what,
                ours=measure(ours),
                against=Baseline(peer.name, measure(peer)),
                unit=unit,
                better="lower" if lower else "higher",
                repeat=repeat,
            )

        committed = "cursor committed each time" if ours_type is Reflex else "cursors written behind"
        results += [
            await beside(lambda peer: _publishing(peer, messages), "publish", "publish", "messages/s"),
            await beside(
                lambda peer: _consuming(peer, messages), "consume", f"consume, {committed}", "messages/s"
            ),
            await beside(
                lambda peer: _waking(peer, 25), "peer_latency", "publish to handler, p50", "s", lower=True
            ),
        ]
    return results


async def _installed(server: EmbeddedPostgres, kind: type[Peer]) -> Peer:
    """Create a database for a library, without the tables and triggers of the others."""
    database = f"peer_{kind.__name__.lower()}"
    connection = await asyncpg.connect(server.dsn)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
        await connection.execute(f'CREATE DATABASE "{database}"')
    finally:
        await connection.close()
    peer = kind(server.dsn_for(database))
    await peer.install()
    return peer


def _publishing(peer: Peer, messages: int) -> Measured:
    async def measure() -> float:
        async with peer.publisher() as publish:
            began = time.perf_counter()
            for row in range(messages):
                await publish(row)
            took = time.perf_counter() - began
        await _consumed(peer, messages)
        return messages / took

    return measure


def _consuming(peer: Peer, messages: int) -> Measured:
    async def measure() -> float:
        async with peer.publisher() as publish:
            for row in range(messages):
                await publish(row)
        return messages / await _consumed(peer, messages)

    return measure


async def _consumed(peer: Peer, messages: int) -> float:
    """Consume the published messages, and return the time since the start of the consumer, in seconds."""
    handled, everything = _counter(messages)
    began = time.perf_counter()
    async with peer.consumer(handled), asyncio.timeout(LONGEST):
        await everything.wait()
        return time.perf_counter() - began


def _waking(peer: Peer, messages: int) -> Measured:
    async def measure() -> float:
        times: list[float] = []
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()

        def handle() -> None:
            times.append(time.perf_counter())
            loop.call_soon_threadsafe(arrived.set)

        latencies: list[float] = []
        async with peer.publisher() as publish, peer.consumer(handle), asyncio.timeout(LONGEST):
            # The first message shows that the consumer is running.
            for row in range(messages + 1):
                await asyncio.sleep(PAUSE)
                arrived.clear()
                began = time.perf_counter()
                await publish(row)
                await arrived.wait()
                latencies.append(times[-1] - began)
        return statistics.median(latencies[1:])

    return measure


def _counter(messages: int) -> tuple[Callable[[], None], asyncio.Event]:
    count, done, loop = 0, asyncio.Event(), asyncio.get_running_loop()

    def handled() -> None:
        nonlocal count
        count += 1
        if count == messages:
            loop.call_soon_threadsafe(done.set)

    return handled, done
