"""A soak test: processes of every kind under faults, on PostgreSQL and on MariaDB. Exit status 0 only if all is right.

``python -m tests.soak --minutes 30``; ``--seed`` repeats the choice of faults.
"""

import argparse
import asyncio
import contextlib
import logging
import random
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from reflex_aio import Event
from reflex_aio.sql import open_pool
from reflex_aio.sql.drivers import driver_of_pool
from tests.fix_mariadb import make_mariadb
from tests.fix_processes import Spawn
from tests.fix_proxy import Proxy
from tests.fix_servers import EMBEDDED, make_server
from tests.soak import processes
from tests.soak.faults import SETTLED, Faults, Worker
from tests.soak.verdict import Delivery, Growth, delivery

# In seconds.
_STALL = 90.0
_CATCH_UP = 300.0
_SAMPLE = 2.0

_SESSIONS = {
    "postgres": "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'",
    "mariadb": "SELECT count(*) FROM information_schema.processlist",
}

Fetch = Callable[[str], Awaitable[Sequence[Sequence[Any]]]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=30.0, metavar="N", help="duration on each database (30)"
    )
    parser.add_argument("--database", choices=[*_SESSIONS], action="append", help="one of them alone")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), metavar="N")
    options = parser.parse_args()
    print(f"--seed={options.seed}", flush=True)
    right = [
        asyncio.run(soak(database, options.minutes * 60, options.seed))
        for database in options.database or _SESSIONS
    ]
    return 0 if all(right) else 1


@asynccontextmanager
async def server_of(database: str) -> AsyncIterator[tuple[str, list[Callable[[], Awaitable[None]]]]]:
    """Start a server, and yield the DSN of an empty database and the ways to restart the server."""
    if database == "postgres":
        async with make_server(EMBEDDED) as postgres:
            ways = partial(postgres.stop, "fast"), partial(postgres.stop, "immediate")
            yield postgres.dsn, [partial(_restart, stop, postgres.start) for stop in ways]
        return
    async with make_mariadb() as mariadb:
        async with open_pool(mariadb.dsn, size=1) as pool, driver_of_pool(pool).acquire(pool) as connection:
            await driver_of_pool(pool).fetch(connection, "CREATE DATABASE soak CHARACTER SET utf8mb4")
        kinds = mariadb.stop, mariadb.kill
        yield mariadb.dsn_for("soak"), [partial(_restart, stop, mariadb.start) for stop in kinds]


async def _restart(stop: Callable[[], Awaitable[None]], start: Callable[[], Awaitable[None]]) -> None:
    await stop()
    await start()


async def fetch_from(dsn: str, statement: str) -> Sequence[Sequence[Any]]:
    async with open_pool(dsn, size=1) as pool:
        driver = driver_of_pool(pool)
        async with driver.acquire(pool) as connection:
            return await driver.fetch(connection, statement)


async def soak(database: str, seconds: float, seed: int) -> bool:
    """Run all processes under faults for a time, print what came of it, and return whether it was right."""
    chance = random.Random(f"{seed} {database}")
    logs = Path(tempfile.mkdtemp(prefix=f"reflex-soak-{database}-"))
    logging.basicConfig(filename=logs / "main.log", level=logging.INFO, force=True)
    print(f"{database}: {seconds / 60:g} minutes; the logs of the processes are in {logs}", flush=True)
    spawn = Spawn("asyncio")
    async with server_of(database) as (dsn, restarts), Proxy(dsn) as writing, Proxy(dsn) as reading:
        async with open_pool(dsn, size=1) as pool, driver_of_pool(pool).acquire(pool) as connection:
            await processes.create(connection)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        async with Proxy(f"tcp://nobody@127.0.0.1:{port}/") as remote:
            workers = workers_of(
                spawn, logs, writing.dsn, reading.dsn, port, f"{remote.host}:{remote.port}", seed
            )
            faults = Faults(chance, workers, [reading, reading, writing, remote], restarts)
            growth = measures(workers)
            sampling = asyncio.create_task(
                sample(workers, growth, partial(fetch_from, dsn), _SESSIONS[database])
            )
            try:
                for worker in workers:
                    await worker.restart()
                await faults.inject(seconds)
                for worker in workers:
                    if worker.name.startswith("writer"):
                        await worker.child.kill()
                sampling.cancel()
                await caught_up(dsn)
            finally:
                sampling.cancel()
                await spawn.kill_all()
        deliveries = await judge(dsn, faults)
    return report(database, deliveries, list(growth.values()), faults)


def workers_of(
    spawn: Spawn, logs: Path, writing: str, reading: str, port: int, target: str, seed: int
) -> list[Worker]:
    starts = iter(range(1_000_000))

    def worker(
        name: str, function: Callable[..., Any], dsn: str, *arguments: Any, stops: bool = True
    ) -> Worker:
        log = logs / f"{name}.log"

        def now(argument: Any) -> Any:
            return argument() if callable(argument) else argument

        async def start() -> Any:
            return await spawn(function, dsn, str(log), *map(now, arguments))

        return Worker(name, log, start, stops=stops)

    return [
        *(
            worker(
                f"writer-{n}", processes.write, writing, lambda n=n: f"{seed} {n} {next(starts)}", stops=False
            )
            for n in (1, 2)
        ),
        worker("local", processes.local, reading),
        worker("atomic", processes.atomic, reading),
        worker("server", processes.serve, reading, port),
        worker("remote", processes.remote, reading, target),
        *(
            worker(f"replica-{n}", processes.replica, reading, lambda n=n: f"{n}-{next(starts)}")
            for n in (1, 2, 3)
        ),
    ]


def measures(workers: Sequence[Worker]) -> dict[str, Growth]:
    kinds = [worker.name.partition("-")[0] for worker in workers]
    found = {"sessions": Growth("sessions of the database", 1.0, 20.0)}
    for kind in dict.fromkeys(kinds):
        found[f"{kind} memory"] = Growth(f"{kind}: memory, MB", 1.25, 20.0)
        found[f"{kind} descriptors"] = Growth(f"{kind}: descriptors", 1.0, 15.0)
        found[f"{kind} tasks"] = Growth(f"{kind}: tasks", 1.0, 15.0)
    return found


async def sample(workers: Sequence[Worker], growth: dict[str, Growth], fetch: Fetch, sessions: str) -> None:
    """Measure all processes and the server until cancelled."""
    while True:
        await asyncio.sleep(_SAMPLE)
        # The server may be away.
        with contextlib.suppress(Exception):
            growth["sessions"].values.append((await fetch(sessions))[0][0])
        for worker in workers:
            if time.time() < worker.began + SETTLED:
                continue
            kind = worker.name.partition("-")[0]
            with contextlib.suppress(psutil.Error, OSError):
                process = psutil.Process(worker.child.pid)
                growth[f"{kind} memory"].values.append(process.memory_info().rss / 1e6)
                growth[f"{kind} descriptors"].values.append(process.num_fds())
                growth[f"{kind} tasks"].values.append(int(Path(f"{worker.log}.tasks").read_text() or "0"))


async def caught_up(dsn: str) -> None:
    """Return when each consumer has come to the last event, or its time is over: missed events are reported later."""
    [[last]] = await fetch_from(dsn, "SELECT max(id) FROM events")
    names = ["local", "atomic", "remote", *(shard.name for shard in processes.SHARDS)]
    until = time.monotonic() + _CATCH_UP
    while time.monotonic() < until:
        stored = {
            row[0]: int(row[1]) for row in await fetch_from(dsn, "SELECT id, last_event_id FROM cursors")
        }
        if all(stored.get(name, 0) >= last for name in names):
            return
        await asyncio.sleep(0.5)
    print(f"not caught up after {_CATCH_UP:g} s: the cursors are {stored}, the last event is {last}")


async def judge(dsn: str, faults: Faults) -> list[Delivery]:
    rows = await fetch_from(dsn, "SELECT id, foreign_id FROM events WHERE type <> 0 ORDER BY id")
    committed = [Event(str(row[0]), 1, str(row[1]), 0) for row in rows]
    everything = {int(event.id) for event in committed}
    effects: dict[str, list[tuple[int, float]]] = {}
    for consumer, event_id, at in await fetch_from(
        dsn, "SELECT consumer, event_id, at FROM effects ORDER BY seq"
    ):
        effects.setdefault(consumer, []).append((event_id, at))
    found = [
        delivery(name, everything, effects.get(name, []), faults.times, exactly_once=name == "atomic")
        for name in ("local", "atomic", "remote")
    ]
    for shard in processes.SHARDS:
        ours = {int(event.id) for event in committed if shard(event)}
        found.append(
            delivery(shard.name, ours, effects.get(shard.name, []), faults.times, exactly_once=False)
        )
    return found


def report(database: str, deliveries: list[Delivery], growth: list[Growth], faults: Faults) -> bool:
    print(f"\n{database}: {sum(faults.counts.values())} faults:", end=" ")
    print(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(faults.counts.items())))
    print(
        f"{'consumer':<18}{'events':>9}{'missed':>8}{'doubled':>9}{'disordered':>12}{'foreign':>9}"
        f"{'stall, s':>10}  after"
    )
    for each in deliveries:
        print(
            f"{each.consumer:<18}{each.expected:>9}{each.missed:>8}{each.doubled:>9}{each.disordered:>12}"
            f"{each.foreign:>9}{each.stall:>10.1f}  {each.stalled_by}"
        )
    print(f"{'growth':<30}{'early':>9}{'late':>9}")
    for measure in growth:
        print(f"{measure.name:<30}{measure.early:>9.0f}{measure.late:>9.0f}")
    wrong = [
        *faults.wrong,
        *(f"{each.consumer}: not every event once, in order" for each in deliveries if not each.right),
        *(
            f"{each.consumer}: stood still for {each.stall:.0f} s"
            for each in deliveries
            if each.stall > _STALL
        ),
        *(f"{each.name}: grew from {each.early:.0f} to {each.late:.0f}" for each in growth if not each.right),
    ]
    if not all(each.expected for each in deliveries):
        wrong.append("no events: that shows nothing")
    for problem in wrong:
        print(f"WRONG  {problem}")
    print(f"{database}: {'all is right' if not wrong else 'FAILED'}\n", flush=True)
    return not wrong


if __name__ == "__main__":
    sys.exit(main())
