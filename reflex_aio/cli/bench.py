"""``bench``: the throughput and latency of a database, measured in a temporary table."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from reflex_aio.cli.command import CommandError, command
from reflex_aio.cli.options import AsJson, Database, DatabaseOptions, Yes, open_database
from reflex_aio.cli.output import confirm, print_json, print_note, print_table, show_steps
from reflex_aio.sql import EventsTable
from reflex_aio.tasks import shielded

__all__ = ["bench"]

_BATCH_SIZE = 1000

# The time limit for the delivery of a committed event, and the pause between two deliveries, in seconds.
_DELIVERY_TIMEOUT = 30.0
_PAUSE = 0.005


@dataclass(frozen=True, slots=True)
class Figures:
    """The results of the measurement."""

    inserts_per_second: float
    """Single events, one per transaction, by all writers together."""
    batched_inserts_per_second: float
    """Events in batches, one batch per transaction, by all writers together."""
    streamed_per_second: float
    """Events read from the beginning, by one stream."""
    delivery_ms_median: float
    """The time from the commit of an event to its delivery by a stream at the head."""
    delivery_ms_p99: float
    writers: int
    events: int
    """The total number of inserted events."""


@command
async def bench(
    at: DatabaseOptions,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="The duration of each of the four measurements.")
    ] = 2.0,
    writers: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="The number of concurrent writers.")
    ] = 4,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Measure the throughput of inserts and streams, and the latency of delivery.

    Creates a temporary table, fills it, and drops it in the end. As this is a considerable load for the database, it
    asks for confirmation. The results include the network and this computer.
    """
    table = EventsTable(f"reflex_aio_bench_{secrets.token_hex(4)}")
    async with open_database(at.dsn, size=writers + 4) as database:
        confirm(f"Create the table {table.name}, fill it for {2 * seconds:g} s, and drop it?", yes=yes)
        async with _temporary(table, database):
            figures = await _measure(table, database, seconds=seconds, writers=writers)
    if as_json:
        print_json(figures)
    else:
        print_table(("measurement", "#result", ""), _to_rows(figures))


async def _measure(table: EventsTable, database: Database, *, seconds: float, writers: int) -> Figures:
    async def insert_one() -> int:
        async with database.connection(table.name) as connection, database.transaction(connection):
            await table.insert(connection, 1, 1)
        return 1

    async def insert_batch() -> int:
        async with database.connection(table.name) as connection, database.transaction(connection):
            await table.insert_many(connection, [(i, 1) for i in range(_BATCH_SIZE)])
        return _BATCH_SIZE

    with show_steps("inserting", "inserting batches", "streaming", "delivering") as start_step:
        start_step()
        singles, single_rate = await _repeat(insert_one, seconds=seconds, writers=writers)
        start_step()
        batched, batched_rate = await _repeat(insert_batch, seconds=seconds, writers=writers)
        start_step()
        streamed_rate = await _measure_stream(table, database, seconds=seconds)
        start_step()
        delays = await _measure_deliveries(table, database, seconds=seconds)
    return Figures(
        inserts_per_second=single_rate,
        batched_inserts_per_second=batched_rate,
        streamed_per_second=streamed_rate,
        delivery_ms_median=1000 * delays[len(delays) // 2],
        delivery_ms_p99=1000 * delays[len(delays) * 99 // 100],
        writers=writers,
        events=singles + batched + len(delays),
    )


async def _repeat(work: Callable[[], Awaitable[int]], *, seconds: float, writers: int) -> tuple[int, float]:
    """Repeat ``work`` in concurrent tasks. Return the number of events inserted, in total and per second."""
    done, started = 0, time.monotonic()

    async def write() -> None:
        nonlocal done
        while time.monotonic() - started < seconds:
            done += await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())
    return done, done / (time.monotonic() - started)


async def _measure_stream(table: EventsTable, database: Database, *, seconds: float) -> float:
    """Return the number of events per second that are read from the beginning."""
    count, started = 0, time.monotonic()
    async with table.stream(database.pool, to_head=True) as stream:
        while time.monotonic() - started < seconds and (page := await stream.read_page()):
            count += len(page)
    return count / (time.monotonic() - started)


async def _measure_deliveries(table: EventsTable, database: Database, *, seconds: float) -> Sequence[float]:
    """Return the times from commit to delivery, in seconds, sorted."""
    delays: list[float] = []
    started = time.monotonic()
    async with table.stream(database.pool, from_head=True) as stream:

        async def arrival() -> float:
            async with asyncio.timeout(_DELIVERY_TIMEOUT):
                await anext(stream)
            return time.monotonic()

        while not delays or time.monotonic() - started < seconds:
            async with asyncio.TaskGroup() as group:
                arriving = group.create_task(arrival())
                async with database.connection(table.name) as connection:
                    async with database.transaction(connection):
                        await table.insert(connection, 1, 1)
                    committed = time.monotonic()
            # The stream may deliver the event before the writer receives the response to its COMMIT.
            delays.append(max(0.0, arriving.result() - committed))
            await asyncio.sleep(_PAUSE)
    return sorted(delays)


@asynccontextmanager
async def _temporary(table: EventsTable, database: Database) -> AsyncIterator[None]:
    """Create a table, and drop it on exit."""

    async def drop() -> None:
        try:
            async with database.connection(table.name) as connection:
                await table.drop(connection)
        except Exception as exc:
            raise CommandError(f"could not drop the table {table.name}: {exc}") from exc

    try:
        async with database.connection(table.name) as connection:
            await table.create(connection)
        yield
    finally:
        await shielded(drop())
        print_note(f"dropped the table {table.name}")


def _to_rows(figures: Figures) -> list[tuple[str, str, str]]:
    return [
        ("single inserts", f"{figures.inserts_per_second:,.0f}", f"per second, by {figures.writers} writers"),
        (f"inserts, {_BATCH_SIZE} at once", f"{figures.batched_inserts_per_second:,.0f}", "per second"),
        ("streamed", f"{figures.streamed_per_second:,.0f}", "per second, by one stream"),
        ("delivery, median", f"{figures.delivery_ms_median:.1f}", "ms from commit to stream"),
        ("delivery, 99th percentile", f"{figures.delivery_ms_p99:.1f}", "ms"),
    ]
