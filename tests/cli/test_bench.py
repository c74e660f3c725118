"""bench: it measures a database, and leaves it unchanged."""

import asyncio
import os
import signal
import sys
from subprocess import PIPE

import pytest

from tests.cli.commands import on_terminal
from tests.cli.conftest import Service
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio


async def tables(service: Service) -> list[str]:
    rows = await service.connection.fetch(
        "SELECT relname FROM pg_class WHERE relname LIKE 'reflex_aio_bench%'"
    )
    return [row[0] for row in rows]


async def test_it_measures_in_a_temporary_table(service: Service) -> None:
    measured = await service.reflex_aio("bench", "--seconds", "0.1", "--writers", "2", "--yes", "--json")
    figures = measured.done().json
    assert figures["writers"] == 2
    assert all(value > 0 for name, value in figures.items() if not name.startswith("delivery"))
    assert 0 <= figures["delivery_ms_median"] <= figures["delivery_ms_p99"]
    assert measured.err.splitlines()[-1].startswith("dropped the table reflex_aio_bench_")
    assert await tables(service) == []


async def test_it_describes_its_actions_and_asks_for_confirmation(service: Service) -> None:
    prompted = await service.reflex_aio("bench", "--seconds", "0.1", given="n\n")
    assert prompted.status == 4
    assert prompted.err.startswith("Create the table reflex_aio_bench_")
    assert "fill it for 0.2 s, and drop it? [y/N]" in prompted.err
    table = await service.reflex_aio("bench", "--seconds", "0.1", given="y\n")
    assert [line.split("  ")[0] for line in table.done().lines[2:]] == [
        "single inserts",
        "inserts, 1000 at once",
        "streamed",
        "delivery, median",
        "delivery, 99th percentile",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_table_is_dropped_when_it_is_interrupted(service: Service, number: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reflex_aio", "bench", *service.options[:2], "--seconds", "60", "--yes",
        stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    made = asyncio.create_task(process.communicate())
    while not made.done() and not await tables(service):
        await asyncio.wait([made], timeout=0.05)
    os.kill(process.pid, number)
    async with asyncio.timeout(deadline(30)):
        out, errors = await made
    assert (process.returncode, out) == (128 + number, b"")
    assert errors.splitlines()[-1].startswith(b"dropped the table reflex_aio_bench_")
    assert await tables(service) == []


async def test_a_terminal_shows_the_current_step(service: Service) -> None:
    screen = await on_terminal("bench", *service.options[:2], "--seconds", "0.3", "--yes")
    assert "inserting" in screen
    assert "4/4 delivering" in screen
