"""The command works the same on every database, with each client library."""

import json
import os
import signal

import pytest

from reflex_aio.sql import CursorsTable, EventsTable, LeasesTable
from tests.cli.commands import reflex_aio
from tests.fix_backends import Backend
from tests.fix_processes import Spawn

pytestmark = pytest.mark.asyncio

events = EventsTable("user_events", metadata=True)


async def insert(backend: Backend, count: int) -> None:
    connection = await backend.connect()
    async with backend.driver.transaction(connection):
        await events.insert_many(connection, [(number + 1, 1, b"more") for number in range(count)])


async def test_events_are_shown_and_followed(backend: Backend, spawn: Spawn) -> None:
    await events.create(await backend.connect())
    await insert(backend, 3)
    options = ["--dsn", backend.dsn, "--events", "user_events"]
    shown = await reflex_aio("tail", "--to-head", "--after", "1", *options)
    assert [line.split()[0] for line in shown.done().lines] == ["2", "3"]
    assert shown.lines[0].split()[3:] == ["1", "2", "more"]
    child = await spawn.program("-m", "reflex_aio", "tail", "--after", "2", "--json", *options)
    assert json.loads(await child.line())["id"] == "3"
    await insert(backend, 1)
    assert json.loads(await child.line())["id"] == "4"
    os.kill(child.pid, signal.SIGINT)
    assert await child.wait() == 130


async def test_a_database_is_measured(backend: Backend) -> None:
    measured = await reflex_aio(
        "bench", "--seconds", "0.2", "--writers", "2", "--yes", "--json", "--dsn", backend.dsn
    )
    assert measured.done().json["events"] > 1000
    assert measured.err.splitlines()[-1].startswith("dropped the table reflex_aio_bench_")


async def test_errors_are_one_line(backend: Backend) -> None:
    connection = await backend.connect()
    await backend.fetch(connection, "CREATE TABLE others (number int)")
    for table, status in (("nothing", 3), ("others", 1)):
        outcome = await reflex_aio("tail", "--events", table, "--dsn", backend.dsn)
        assert outcome.failed(status).startswith(f"{table}: ")


async def test_consumers_are_shown_and_moved(backend: Backend) -> None:
    connection = await backend.connect()
    cursors, leases = CursorsTable("cursors"), LeasesTable("leases")
    for table in (events, cursors, leases):
        await table.create(connection)
    await insert(backend, 9)
    async with backend.driver.transaction(connection):
        await cursors.set(connection, "mail", "5")
    options = ["--events", "user_events", "--dsn", backend.dsn]
    [mail] = (await reflex_aio("consumers", "--json", *options)).done().json["consumers"]
    assert (mail["cursor"], mail["events_behind"], mail["state"]) == ("5", 4, "behind")
    assert 0 <= mail["seconds_behind"] < 3600
    moved = await reflex_aio("rewind", "mail", "--to", "2", "--yes", *options)
    assert moved.done().out == "mail: from 5 to 2, 3 events to be consumed again\n"
    moved = await reflex_aio("skip", "mail", "--count", "2", "--yes", *options)
    assert moved.done().out == "mail: from 2 to 4, 2 events skipped\n"
    assert (await reflex_aio("skip", "nobody", "--yes", *options)).status == 3
    async with backend.pool() as pool:
        await leases.store(pool).acquire("mail", "replica-1", ttl=600)
    assert (
        (await reflex_aio("skip", "mail", "--yes", *options))
        .failed(4)
        .startswith("mail is running: replica-1")
    )
    [mail] = (await reflex_aio("consumers", "--json", *options)).done().json["consumers"]
    assert (mail["cursor"], mail["lease"]["owner"]) == ("4", "replica-1")
