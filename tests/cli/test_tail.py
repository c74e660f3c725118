"""tail: events of a table or a service, as they are committed."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import grpc
import pytest

from reflex_aio.memory import MemoryEvents
from reflex_aio.rpc import StreamServer, server_options
from reflex_aio.sql import EventColumns, EventsTable
from tests.cli.commands import reflex_aio
from tests.cli.conftest import Service
from tests.fix_databases import Connect, Database
from tests.fix_processes import Spawn
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio


async def ids(service: Service, *arguments: str) -> list[str]:
    shown = await service.reflex_aio("tail", *arguments, "--json")
    return [json.loads(line)["id"] for line in shown.done().lines]


# Start and end.


async def test_events_come_from_the_beginning_or_after_a_cursor_to_the_head(service: Service) -> None:
    assert await ids(service, "--to-head") == []
    await service.insert(5)
    assert await ids(service, "--to-head") == ["1", "2", "3", "4", "5"]
    assert await ids(service, "--to-head", "--after", "3") == ["4", "5"]
    assert await ids(service, "--after", "0", "--limit", "2") == ["1", "2"]
    assert await ids(service, "--after", "", "-n", "1") == ["1"]


async def test_types_and_foreign_ids_are_filtered_before_the_limit(service: Service) -> None:
    for number in (1, 2, 3, 2, 1):
        await service.insert(1, number)
    assert await ids(service, "--to-head", "--types", "2") == ["2", "4"]
    assert await ids(service, "--to-head", "--types", "1, 3", "-n", "2") == ["1", "3"]
    assert await ids(service, "--to-head", "--foreign-id", "4") == ["4"]
    assert await ids(service, "--to-head", "--foreign-id", "4", "--types", "1") == []


async def test_it_follows_from_the_head_and_writes_each_event_at_once(service: Service, spawn: Spawn) -> None:
    await service.insert(3)
    child = await spawn.program("-m", "reflex_aio", "tail", *service.options, "--after", "2", "--json")
    assert json.loads(await child.line())["id"] == "3"
    for event_id in ("4", "5"):
        await service.insert(1)
        assert json.loads(await child.line())["id"] == event_id
    os.kill(child.pid, signal.SIGINT)
    assert await child.wait() == 130


async def test_without_a_cursor_it_starts_with_new_events(service: Service, spawn: Spawn) -> None:
    await service.insert(3)
    child = await spawn.program("-m", "reflex_aio", "tail", *service.options, "--json")
    line = asyncio.create_task(child.line())
    # Its start cannot be observed from outside.
    while not line.done():
        await service.insert(1)
        await asyncio.wait([line], timeout=0.1)
    assert int(json.loads(await line)["id"]) > 3
    assert await child.terminate() == 143


async def test_it_ends_when_its_output_is_closed(service: Service) -> None:
    await service.insert(5000)
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "reflex_aio", "tail", *service.options, "--to-head",
        stdout=writing, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(writing)
    try:
        # As head does after its last line.
        await asyncio.to_thread(os.read, reading, 100)
    finally:
        os.close(reading)
    async with asyncio.timeout(deadline(20)):
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (141, b"")


# Output.


async def test_an_event_is_shown_as_it_is(database: Database, connect: Connect) -> None:
    connection = await connect()
    table = EventsTable("all_events", metadata=True, trace=True, columns=EventColumns(metadata="data"))
    await table.create(connection)
    await table.insert(connection, "user-7", 3, metadata=b"caf\xc3\xa9", trace=b"\x00\xff")
    await table.insert(connection, "user-8", 3, metadata=b"\xff\x00")
    await table.insert(connection, "user-9", 3)
    when = await connection.fetchval("SELECT timestamp FROM all_events WHERE id = 1")
    options = ["--events", "all_events", "--events-columns", "metadata=data", "--dsn", database.dsn]
    shown = await reflex_aio("tail", "--to-head", *options, "--json")
    first, second, third = (json.loads(line) for line in shown.done().lines)
    assert first == {
        "id": "1",
        "type": 3,
        "foreign_id": "user-7",
        "timestamp": when.isoformat().replace("+00:00", "Z"),
        "metadata": base64.b64encode(b"caf\xc3\xa9").decode(),
        "trace": base64.b64encode(b"\x00\xff").decode(),
    }
    assert base64.b64decode(second["metadata"]) == b"\xff\x00"
    assert third["metadata"] is None
    lines = (await reflex_aio("tail", "--to-head", *options)).done().lines
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert [line.split()[3:] for line in lines] == [
        ["3", "user-7", "café"],
        ["3", "user-8", "0xff00"],
        ["3", "user-9"],
    ]
    assert lines[0].split()[1:3] == when.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3].split()


# Over gRPC.


@asynccontextmanager
async def serving(*names: str) -> AsyncIterator[str]:
    """A service with streams of 3 events each, and its address."""
    sources = {}
    for name in names:
        events = MemoryEvents()
        for number in range(3):
            await events.insert(number + 1, 1, metadata=name.encode())
        sources[name] = events
    server = grpc.aio.server(options=server_options())
    port = server.add_insecure_port("127.0.0.1:0")
    streams = StreamServer(sources)
    streams.add_to(server)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await streams.stop()
        await server.stop(grace=1)


async def test_a_service_is_read_instead_of_a_table_without_a_database() -> None:
    async with serving("users", "payments") as address:
        shown = await reflex_aio(
            "tail", "--grpc", address, "--stream", "payments", "--after", "1", "--to-head"
        )
        assert [line.split()[-1] for line in shown.done().lines] == ["payments", "payments"]


async def test_an_unknown_stream_of_the_service_is_not_found() -> None:
    async with serving("users", "payments") as address:
        outcome = await reflex_aio("tail", "--grpc", address, "--stream", "mails", "--to-head")
        assert "there is no stream named 'mails'" in outcome.failed(3)


async def test_a_service_that_is_down_is_unreachable(unused_tcp_port: int) -> None:
    outcome = await reflex_aio("tail", "--grpc", f"127.0.0.1:{unused_tcp_port}", "--to-head")
    assert f"127.0.0.1:{unused_tcp_port}" in outcome.failed(5)


# Errors.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--from-head", "--after", "1"], "--from-head can't be combined with --after or --to-head"),
        (["--from-head", "--to-head"], "--from-head can't be combined with --after or --to-head"),
        (["--types", "1,x"], "--types '1,x' is not accepted: accepted is numbers such as 1,2,3"),
        (["--after", "x"], "'x' is not a cursor"),
        (["--events", ""], "--events: table name '' is not accepted"),
    ],
)  # fmt: skip
async def test_wrong_arguments_are_refused(service: Service, arguments: list[str], reason: str) -> None:
    assert (await service.reflex_aio("tail", *arguments)).failed(2).startswith(reason)


async def test_missing_and_foreign_tables_are_errors(service: Service) -> None:
    assert (
        (await service.reflex_aio("tail", "--events", "nothing"))
        .failed(3)
        .startswith("nothing: the table does")
    )
    await service.connection.execute("CREATE TABLE others (number int)")
    assert (await service.reflex_aio("tail", "--events", "others")).failed(1).startswith("others: ")
    await service.connection.execute(
        "CREATE TABLE unfed (id int, type int, timestamp timestamptz, foreign_id text)"
    )
    assert "no sequence feeds its id" in (await service.reflex_aio("tail", "--events", "unfed")).failed(1)


async def test_a_cursor_ahead_of_the_table_is_an_error(service: Service) -> None:
    await service.insert(3)
    outcome = await service.reflex_aio("tail", "--after", "99")
    assert outcome.failed(1).startswith("user_events: cursor 99 is ahead of the table, whose last id is 3")


async def test_a_lost_connection_ends_it(service: Service, spawn: Spawn) -> None:
    await service.insert(1)
    child = await spawn.program("-m", "reflex_aio", "tail", *service.options, "--after", "0")
    await child.line()
    admin = await asyncpg.connect(service.dsn)
    ending = asyncio.create_task(child.wait())
    while not ending.done():
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid NOT IN (pg_backend_pid(), $1)".replace(
                "$1", str(await service.connection.fetchval("SELECT pg_backend_pid()"))
            )
        )
        await asyncio.wait([ending], timeout=0.1)
    await admin.close()
    assert await ending == 5
