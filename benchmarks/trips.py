"""Count the Python calls that one event costs in this package: ``python -m benchmarks.trips``.

- A call is the start of a Python frame whose code is in ``reflex_aio/``, outside ``pb/``. Lambdas and generator
  expressions count. C functions, methods that dataclasses generate, the client library and asyncio don't.
- A coroutine or generator counts once, when it starts. Profilers report each resumption as a further call. Resumptions
  don't count: every wait causes one for each coroutine on the stack.
- Comprehensions don't count: since Python 3.12 they have no frame.
- Calls of background tasks (NOTIFY, scans for gaps) count if they fall between the beginning and the end of a trip.

The figures are medians. Before each trip there is a pause, after which background tasks are idle.
"""

import argparse
import asyncio
import json
import platform
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dis import opmap
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import asyncpg

import reflex_aio
from reflex_aio import Consumer, Event, Source, Spec, run
from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql import CursorsTable, EventsTable, LeasesTable

WARM_UP = 1000
# The pause before each trip, in seconds: longer than the 0.1 s between scans, shorter than the 1 s between polls.
PAUSE = 0.15
# The pause between a rollback and the next insert, in seconds: the wake-up of the rollback is handled within it.
ROLLBACK_PAUSE = 0.02
# The writer holds one of two connections. So streams can't keep the other one, and acquire it for each statement.
POOL_SIZE = 2
LEASE_TTL = 3600.0
PACKAGE = Path(reflex_aio.__file__).parent


class Call(NamedTuple):
    """A call in a trip.

    :param stack: the task and the package's functions below it on the stack; empty unless traced
    """

    file: str
    name: str
    stack: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"


class Counter:
    """Collects the calls of trips, one trip at a time.

    :param traced: record the stack of each call
    """

    def __init__(self, *, traced: bool) -> None:
        self.trips: list[list[Call]] = []
        self._traced = traced
        self._calls: list[Call] = []

    def begin(self) -> None:
        """Start a trip."""
        self._calls = []
        sys.setprofile(self._profile)

    def end(self) -> None:
        """End the trip, if one was started."""
        if sys.getprofile() is not None:
            sys.setprofile(None)
            self.trips.append(self._calls)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or (call := _call(frame)) is None:
            return
        # RESUME's two lowest bits are 0 at the start of a function only: docs.python.org/3/library/dis.html
        opcode, argument = frame.f_code.co_code[frame.f_lasti : frame.f_lasti + 2]
        if opcode == opmap["RESUME"] and not argument & 3:
            self._calls.append(call._replace(stack=_stack(frame)) if self._traced else call)


@cache
def _path(filename: str) -> str:
    """Return the path of a file in the package, or ``""`` if its calls don't count."""
    path = Path(filename)
    counts = path.is_relative_to(PACKAGE) and not path.is_relative_to(PACKAGE / "pb")
    return str(path.relative_to(PACKAGE)) if counts else ""


def _call(frame: FrameType) -> Call | None:
    """Return the call of a frame, or ``None`` if it doesn't count."""
    code = frame.f_code
    file = _path(code.co_filename)
    return Call(file, code.co_qualname) if file and not code.co_name.endswith("comp>") else None


def _stack(frame: FrameType) -> tuple[str, ...]:
    below: list[str] = []
    while (caller := frame.f_back) is not None:
        frame = caller
        if call := _call(frame):
            below.append(str(call))
    task = asyncio.current_task()
    return (f"[{'callback' if task is None else task.get_name()}]", *reversed(below))


Once = Callable[[], Awaitable[None]]
Trip = Callable[[Any, Counter, int], Awaitable[None]]


def _source(events: EventsTable, pool: Any) -> Source:
    return events.source(pool)


async def _table(name: str, pool: Any) -> EventsTable:
    events = EventsTable(f"trips_{name}")
    async with pool.acquire() as connection:
        await events.create(connection)
    return events


async def _repeat(trip: Once, times: int, *, warm_up: Once | None = None) -> None:
    for _ in range(WARM_UP):
        await (warm_up or trip)()
    for _ in range(times):
        await asyncio.sleep(PAUSE)
        await trip()


@asynccontextmanager
async def _reading(
    events: EventsTable, pool: Any, received: Callable[[], None]
) -> AsyncIterator[asyncio.Semaphore]:
    """Read at the head in another task, and yield a semaphore that each event releases."""
    arrived = asyncio.Semaphore(0)

    async def read() -> None:
        async for _ in stream:
            received()
            arrived.release()

    async with _source(events, pool).stream(from_head=True) as stream:
        reading = asyncio.create_task(read(), name="async for")
        try:
            yield arrived
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def _insert(pool: Any, counter: Counter, times: int) -> None:
    events = await _table("insert", pool)
    async with pool.acquire() as connection:

        async def trip() -> None:
            async with connection.transaction():
                counter.begin()
                await events.insert(connection, 1, 1)
                counter.end()

        await _repeat(trip, times)


async def _commit(pool: Any, counter: Counter, times: int, *, gap: bool) -> None:
    events = await _table("gap" if gap else "commit", pool)
    async with pool.acquire() as connection, _reading(events, pool, counter.end) as arrived:

        async def commit() -> None:
            transaction = connection.transaction()
            await transaction.start()
            await events.insert(connection, 1, 1)
            if not gap:
                counter.begin()
            await transaction.commit()
            await arrived.acquire()

        async def roll_back_and_commit() -> None:
            counter.begin()
            transaction = connection.transaction()
            await transaction.start()
            await events.insert(connection, 1, 1)
            await transaction.rollback()
            await asyncio.sleep(ROLLBACK_PAUSE)
            await commit()

        await _repeat(roll_back_and_commit if gap else commit, times, warm_up=commit)


async def _page(pool: Any, counter: Counter, times: int) -> None:
    events = await _table("page", pool)
    async with _reading(events, pool, lambda: None) as arrived:
        async with pool.acquire() as connection:
            before, _ = await events.insert_many(connection, [(1, 1), (2, 1)])
        await arrived.acquire()

        async def trip() -> None:
            async with _source(events, pool).stream(before) as stream:
                counter.begin()
                async for _ in stream:
                    counter.end()
                    break

        await _repeat(trip, times)


async def _cursor(pool: Any, counter: Counter, times: int, *, fenced: bool) -> None:
    name = "fenced" if fenced else "cursor"
    events, cursors, leases = await _table(name, pool), CursorsTable("cursors"), LeasesTable("leases")
    async with pool.acquire() as connection:
        await cursors.create(connection)
        await leases.create(connection)
        await events.insert_many(connection, [(i, 1) for i in range(WARM_UP + times + 1)])

    async def handle(event: Event) -> None:
        counter.end()
        counter.begin()

    spec = Spec(_source(events, pool), cursors.store(pool), Consumer(name, handle), to_head=True)
    if fenced:
        lease = await leases.store(pool).acquire(name, "benchmark", ttl=LEASE_TTL)
        assert lease is not None
        spec = spec.fenced(lease)
    await run(spec)
    counter.end()
    # The calls from the last handler to the end of the run are not a trip.
    counter.trips.pop()


TRIPS: dict[str, tuple[str, Trip]] = {
    "insert": ("insert, until the transaction's end will wake streams", _insert),
    "commit": ("commit, until async for yields the event at the head", partial(_commit, gap=False)),
    "page": ("the first page of a stream behind the head, and the scan that is due then", _page),
    "cursor": (
        "run, from a handler's return to the next call, each cursor committed",
        partial(_cursor, fenced=False),
    ),
    "gap": ("rollback and commit, until async for yields the event at the head", partial(_commit, gap=True)),
    "fenced": ("the same as cursor, under a lease", partial(_cursor, fenced=True)),
}


async def _measure(names: Sequence[str], times: int, *, traced: bool) -> dict[str, list[list[Call]]]:
    measured = {}
    async with EmbeddedPostgres(settings={"autovacuum": False}) as server:
        for name in names:
            counter = Counter(traced=traced)
            async with asyncpg.create_pool(server.dsn, min_size=1, max_size=POOL_SIZE) as pool:
                await TRIPS[name][1](pool, counter, times)
            measured[name] = counter.trips[-times:]
    return measured


def _figures(trips: Sequence[Sequence[Call]]) -> dict[str, int]:
    calls = [len(trip) for trip in trips]
    files = statistics.median_low(len({call.file for call in trip}) for trip in trips)
    return {"calls": statistics.median_low(calls), "files": files, "least": min(calls), "most": max(calls)}


def _print_trace(trips: Sequence[Sequence[Call]]) -> None:
    """Print a median trip. Functions in parentheses were called earlier, and are resumed or still running."""
    figures = _figures(trips)
    shown: tuple[str, ...] = ()
    for call in next(trip for trip in trips if len(trip) == figures["calls"]):
        same = len([*takewhile(lambda pair: pair[0] == pair[1], zip(shown, call.stack, strict=False))])
        for depth, name in enumerate(call.stack[same:], same):
            print(f"{'  ' * depth}({name})" if depth else name)
        print(f"{'  ' * len(call.stack)}{call}")
        shown = (*call.stack, str(call))


def main() -> None:
    """Print a table of all trips, or the trace of one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trips", description=__doc__.partition(":")[0])
    parser.add_argument(
        "--events", type=int, default=200, help="the number of measurements of each trip (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--trace", choices=TRIPS, help="print the calls of one trip, in order")
    given = parser.parse_args()
    if given.events < 1:
        parser.error(f"--events is at least 1, not {given.events}")
    names = [given.trace] if given.trace else list(TRIPS)
    measured = asyncio.run(_measure(names, given.events, traced=bool(given.trace)))
    figures = {name: _figures(trips) for name, trips in measured.items()}
    if given.trace:
        _print_trace(measured[given.trace])
    elif given.json:
        head = {"python": platform.python_version(), "events": given.events}
        print(json.dumps({**head, "trips": figures}, indent=2))
    else:
        print("trip    calls  files    min-max")
        for name, of in figures.items():
            extent = f"{of['least']}-{of['most']}"
            print(f"{name:8}{of['calls']:5}{of['files']:7}{extent:>11}  {TRIPS[name][0]}")


if __name__ == "__main__":
    main()
