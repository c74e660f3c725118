"""``bench``: what a database does, in a table of its own."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from reflex_aio.cli.database import Database, database
from reflex_aio.cli.exits import CommandError
from reflex_aio.cli.options import AsJson, DatabaseOptions, Yes
from reflex_aio.cli.output import ask, note, print_json, print_table
from reflex_aio.cli.progress import progress
from reflex_aio.cli.running import command
from reflex_aio.sql import EventsTable
from reflex_aio.tasks import shielded

__all__ = ["bench"]

_BATCH = 1000

# How long a stream may take for an event that was just committed, and how long to wait between two, in seconds.
_DELIVERY = 30.0
_PAUSE = 0.005


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured."""

    inserts_per_second: float
    """Single events, a transaction for each, by all writers together."""
    batched_inserts_per_second: float
    """Events in batches, a transaction for each batch."""
    streamed_per_second: float
    """Events read from the beginning, by one stream."""
    delivery_ms_median: float
    """From the commit of an event to a stream that waits at the head."""
    delivery_ms_p99: float
    writers: int
    events: int
    """How many were inserted in all."""


@command
async def bench(
    at: DatabaseOptions,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long each of the four measures takes.")
    ] = 2.0,
    writers: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="How many writers insert at once.")
    ] = 4,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Measure how many events a database takes and hands out, and how soon.

    Asks first, as it makes a table of its own, fills it, and drops it in the end, and keeps the database busy
    meanwhile. What it measures includes the way there and back, and this computer.
    """
    table = EventsTable(f"reflex_aio_bench_{secrets.token_hex(4)}")
    async with database(at.dsn, size=writers + 4) as opened:
        ask(f"Make the table {table.name}, fill it for {2 * seconds:g} s, and drop it again?", yes=yes)
        async with _made(table, opened):
            figures = await _measure(table, opened, seconds=seconds, writers=writers)
    if as_json:
        print_json(figures)
    else:
        print_table(("measure", "#figure", ""), _rows(figures))


async def _measure(table: EventsTable, on: Database, *, seconds: float, writers: int) -> Figures:
    async def one() -> int:
        async with on.connection(table.name) as connection, on.transaction(connection):
            await table.insert(connection, 1, 1)
        return 1

    async def batch() -> int:
        async with on.connection(table.name) as connection, on.transaction(connection):
            await table.insert_many(connection, [(i, 1) for i in range(_BATCH)])
        return _BATCH

    with progress("inserting", "inserting batches", "streaming", "delivering") as step:
        step()
        singles, single_rate = await _repeated(one, seconds=seconds, writers=writers)
        step()
        batched, batched_rate = await _repeated(batch, seconds=seconds, writers=writers)
        step()
        streamed_rate = await _streamed(table, on, seconds=seconds)
        step()
        delays = await _deliveries(table, on, seconds=seconds)
    return Figures(
        inserts_per_second=single_rate,
        batched_inserts_per_second=batched_rate,
        streamed_per_second=streamed_rate,
        delivery_ms_median=1000 * delays[len(delays) // 2],
        delivery_ms_p99=1000 * delays[len(delays) * 99 // 100],
        writers=writers,
        events=singles + batched + len(delays),
    )


async def _repeated(work: Callable[[], Awaitable[int]], *, seconds: float, writers: int) -> tuple[int, float]:
    """Do some work again and again, several times at once; return how much was done, in all and in a second."""
    done, begun = 0, time.monotonic()

    async def write() -> None:
        nonlocal done
        while time.monotonic() - begun < seconds:
            done += await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())
    return done, done / (time.monotonic() - begun)


async def _streamed(table: EventsTable, on: Database, *, seconds: float) -> float:
    """Return how many events a second are read, from the beginning on."""
    count, begun = 0, time.monotonic()
    async with table.stream(on.pool, to_head=True) as stream:
        while time.monotonic() - begun < seconds and (page := await stream.read_page()):
            count += len(page)
    return count / (time.monotonic() - begun)


async def _deliveries(table: EventsTable, on: Database, *, seconds: float) -> Sequence[float]:
    """Return how long events took from their commit to a stream, in seconds, in order of size."""
    delays: list[float] = []
    begun = time.monotonic()
    async with table.stream(on.pool, from_head=True) as stream:

        async def arrival() -> float:
            async with asyncio.timeout(_DELIVERY):
                await anext(stream)
            return time.monotonic()

        while not delays or time.monotonic() - begun < seconds:
            async with asyncio.TaskGroup() as group:
                arriving = group.create_task(arrival())
                async with on.connection(table.name) as connection:
                    async with on.transaction(connection):
                        await table.insert(connection, 1, 1)
                    committed = time.monotonic()
            # The stream of this process may hear of it before the writer does.
            delays.append(max(0.0, arriving.result() - committed))
            await asyncio.sleep(_PAUSE)
    return sorted(delays)


@asynccontextmanager
async def _made(table: EventsTable, on: Database) -> AsyncIterator[None]:
    """Make a table for the time being."""

    async def drop() -> None:
        try:
            async with on.connection(table.name) as connection:
                await table.drop(connection)
        except Exception as exc:
            raise CommandError(f"the table {table.name} could not be dropped: {exc}") from exc

    try:
        async with on.connection(table.name) as connection:
            await table.create(connection)
        yield
    finally:
        await shielded(drop())
        note(f"the table {table.name} is dropped")


def _rows(figures: Figures) -> list[tuple[str, str, str]]:
    return [
        ("single inserts", f"{figures.inserts_per_second:,.0f}", f"a second, by {figures.writers} writers"),
        (f"inserts, {_BATCH} at once", f"{figures.batched_inserts_per_second:,.0f}", "a second"),
        ("streamed", f"{figures.streamed_per_second:,.0f}", "a second, by one stream"),
        ("delivery, median", f"{figures.delivery_ms_median:.1f}", "ms from commit to stream"),
        ("delivery, 99 of 100", f"{figures.delivery_ms_p99:.1f}", "ms"),
    ]
