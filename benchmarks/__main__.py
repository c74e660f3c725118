"""The command ``python -m benchmarks``: runs benchmarks, prints a table, and writes JSON and SVG files."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.bench_growth import bench_growth
from benchmarks.bench_idle import bench_idle
from benchmarks.bench_insert import bench_insert
from benchmarks.bench_large_events import bench_large_events
from benchmarks.bench_latency import bench_latency
from benchmarks.bench_memory import bench_memory
from benchmarks.bench_mysql import bench_mysql
from benchmarks.bench_peers import bench_peers
from benchmarks.bench_prune import bench_prune
from benchmarks.bench_sharing import bench_sharing
from benchmarks.bench_stream import bench_stream
from benchmarks.measure import Result, Series
from benchmarks.plot import write_svg
from benchmarks.report import print_series, print_table, write_json
from reflex_aio.ext.embedded import EmbeddedPostgres, EmbeddedServerError

RESULTS = Path(__file__).parent / "results"
MORE = 3

Measurements = tuple[list[Result], list[Series]]
Bench = Callable[[EmbeddedPostgres, argparse.Namespace], Awaitable[Measurements]]


async def _stream(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    return await bench_stream(server.dsn, rows=given.rows, repeat=given.repeat), []


async def _insert(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    # More and shorter measurements: most of the noise is from other users of the disk.
    return await bench_insert(server.dsn, transactions=64 if given.quick else 400, repeat=_more(given)), []


async def _latency(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    return await bench_latency(server.dsn, events=5 if given.quick else 50, repeat=_more(given)), []


async def _sharing(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    many = 110 if given.quick else 1000
    inserts = 20 if given.quick else 400
    return await bench_sharing(server, inserts=inserts, repeat=given.repeat, many=many), []


async def _idle(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    consumers, seconds = ((1, 10), 3.0) if given.quick else ((1, 100, 300), 30.0)
    return await bench_idle(server, consumers=consumers, seconds=seconds), []


async def _growth(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    largest = 10 * given.rows
    return await bench_growth(
        server,
        rows=[size for size in (10**3, 10**4, 10**5, 10**6, 10**7) if largest // 1000 <= size <= largest],
        streams=(1, 10) if given.quick else (1, 10, 100, 1000),
        writers=(1, 8) if given.quick else (1, 2, 4, 8, 16, 32, 64),
        events=10 if given.quick else 100,
        repeat=given.repeat,
    )


async def _memory(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    streams = 50 if given.quick else 1000
    return await bench_memory(server.dsn, events=given.events_in_memory, streams=streams)


async def _large(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    return await bench_large_events(server.dsn, events=100 if given.quick else 3000), []


async def _prune(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    transactions, rows = (100, 50_000) if given.quick else (2000, 1_000_000)
    return await bench_prune(server.dsn, transactions=transactions, rows=rows, repeat=given.repeat), []


async def _peers(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    return await bench_peers(server, messages=20 if given.quick else 3000, repeat=given.repeat), []


async def _mysql(server: EmbeddedPostgres, given: argparse.Namespace) -> Measurements:
    # On a MariaDB server, while the PostgreSQL server is idle.
    results = await bench_mysql(
        rows=given.rows,
        transactions=50 if given.quick else 400,
        inserts=10 if given.quick else 400,
        repeat=given.repeat,
        more=_more(given),
    )
    return results, []


def _more(given: argparse.Namespace) -> int:
    return 1 if given.quick else given.repeat * MORE


BENCHES: dict[str, Bench] = {
    "stream": _stream,
    "insert": _insert,
    "latency": _latency,
    "sharing": _sharing,
    "idle": _idle,
    "growth": _growth,
    "memory": _memory,
    "large": _large,
    "prune": _prune,
    "peers": _peers,
    "mysql": _mysql,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures against the raw driver, on an embedded PostgreSQL and MariaDB over their unix sockets."
        " Each figure is the median of ratios of two measurements made one after the other.",
        epilog="Exit status: 0 if every goal was met, 1 if one was missed, 2 if a server could not be started.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rows and one repetition: checks that everything runs"
    )
    parser.add_argument(
        "--only", choices=sorted(BENCHES), action="append", help="run only these; may be repeated"
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        help="events to stream; growth measures up to ten times as many (%(default)s)",
    )
    parser.add_argument("--repeat", type=int, default=5, help="pairs of measurements (%(default)s)")
    parser.add_argument(
        "--events-in-memory",
        type=int,
        default=100_000,
        help="events read by a thousand streams while memory is measured (%(default)s)",
    )
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop, which must be installed")
    parser.add_argument(
        "--output",
        type=Path,
        help="the JSON file, with the SVG file beside it (benchmarks/results/latest.json)",
    )
    given = parser.parse_args()
    for option, value, least in (
        ("--rows", given.rows, 1000),
        ("--events-in-memory", given.events_in_memory, 1000),
        ("--repeat", given.repeat, 1),
    ):
        if value < least:
            parser.error(f"{option} is at least {least}, not {value}")
    if given.quick:
        given.rows, given.repeat, given.events_in_memory = 10_000, 1, 1000
    # The results of a quick or partial run must not replace those of a full run.
    whole = not (given.quick or given.only or given.uvloop)
    given.output = given.output or RESULTS / ("latest.json" if whole else "other.json")
    return given


async def main(given: argparse.Namespace) -> int:
    results: list[Result] = []
    series: list[Series] = []
    # Commits are flushed to disk, as in production. Checkpoints are rare, as they would only add noise.
    settings: dict[str, str | int | bool] = {
        "shared_buffers": "512MB",
        "max_wal_size": "4GB",
        "max_connections": 200,
        "autovacuum": False,
    }
    async with EmbeddedPostgres(settings=settings) as server:
        for name in given.only or BENCHES:
            measured = await BENCHES[name](server, given)
            results += measured[0]
            series += measured[1]
    print_table(results)
    print_series(series)
    options = ("rows", "repeat", "events_in_memory", "quick", "uvloop")
    write_json(results, series, given.output, {option: getattr(given, option) for option in options})
    write_svg(results, series, given.output.with_suffix(".svg"))
    print(f"\nwritten to {given.output} and {given.output.with_suffix('.svg').name}")
    return 0 if given.quick or all(result.met for result in results) else 1


def _run(given: argparse.Namespace) -> int:
    if not given.uvloop:
        return asyncio.run(main(given))
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main(given))


if __name__ == "__main__":
    try:
        sys.exit(_run(arguments()))
    except EmbeddedServerError as exc:
        print(f"the benchmarks can't be run: {exc}", file=sys.stderr)
        sys.exit(2)
