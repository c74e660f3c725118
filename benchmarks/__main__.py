"""``python -m benchmarks``: measure, print a table, and write benchmarks/results/latest.json."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.bench_insert import bench_insert
from benchmarks.bench_latency import bench_latency
from benchmarks.bench_stream import bench_stream
from benchmarks.measure import Result, print_table, write_json
from reflex_aio.ext.embedded import EmbeddedPostgres

RESULTS = Path(__file__).parent / "results"
MORE = 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures against the raw driver, on an embedded PostgreSQL over its unix socket. Each figure is"
        " the median of ratios of two measurements made one after the other.",
        epilog="Exit status: 0 if every goal was met, 1 if one was missed.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rows, one repetition: shows that all of it runs"
    )
    parser.add_argument("--only", choices=sorted(BENCHES), action="append", help="measure these alone")
    parser.add_argument("--rows", type=int, default=1_000_000, help="events to stream (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="pairs to measure (%(default)s)")
    parser.add_argument(
        "--output", type=Path, help="where to write the JSON (benchmarks/results/latest.json)"
    )
    given = parser.parse_args()
    if given.rows < 1000 or given.repeat < 1:
        parser.error("--rows is at least 1000, --repeat at least 1")
    if given.quick:
        given.rows, given.repeat = 20_000, 1
    # The figures of a quick run mean nothing, and must not take the place of real ones.
    given.output = given.output or RESULTS / ("quick.json" if given.quick else "latest.json")
    return given


BENCHES: dict[str, Callable[[str, argparse.Namespace], Awaitable[list[Result]]]] = {
    "stream": lambda dsn, given: bench_stream(dsn, rows=given.rows, repeat=given.repeat),
    # Short measurements, and so more of them: the noise here is what neighbours do to the disk.
    "insert": lambda dsn, given: bench_insert(dsn, transactions=400, repeat=given.repeat * MORE),
    "latency": lambda dsn, given: bench_latency(dsn, events=50, repeat=given.repeat * MORE),
}


async def main(given: argparse.Namespace) -> int:
    results: list[Result] = []
    # Commits are flushed to disk, as where it matters; checkpoints would only add noise.
    settings: dict[str, str | int | bool] = {
        "shared_buffers": "512MB",
        "max_wal_size": "4GB",
        "autovacuum": False,
    }
    async with EmbeddedPostgres(settings=settings) as server:
        for name in given.only or BENCHES:
            results += await BENCHES[name](server.dsn, given)
    print_table(results)
    write_json(results, given.output, {"rows": given.rows, "repeat": given.repeat, "quick": given.quick})
    print(f"\nwritten to {given.output}")
    return 0 if given.quick or all(result.met for result in results) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
