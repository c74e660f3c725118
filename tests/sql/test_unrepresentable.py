"""Rows that no event can represent: the same error in every stream, local or remote, after those before it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio

from reflex_aio import Event, EventStream, ReflexError, SchemaError, Source
from reflex_aio.rpc import RemoteSource, StreamServer
from reflex_aio.sql import EventsTable, Retention
from tests.fix_backends import Backend, MysqlBackend, PostgresBackend
from tests.reading import reading

pytestmark = pytest.mark.asyncio

events = EventsTable("events", metadata=True, page_size=4, poll_period=0.05)

# The columns and values, as SQL.
ANYWHERE = {
    "a type beyond 32 bits": ("type", str(2**31)),
    "no type": ("type", "NULL"),
    "no foreign id": ("foreign_id", "NULL"),
    "no time": ("timestamp", "NULL"),
}
ON_POSTGRES = {
    "infinity": ("timestamp", "'infinity'"),
    "minus infinity": ("timestamp", "'-infinity'"),
    "before the year 1": ("timestamp", "'0001-12-31 BC'"),
    "after the year 9999": ("timestamp", "'10000-01-01'"),
}
ON_MYSQL = {"zero": ("timestamp", "'0000-00-00'"), "no day": ("timestamp", "'2026-01-00'")}


class Broken:
    """An events table with loose columns."""

    def __init__(self, backend: Backend, connection: Any) -> None:
        self._backend, self.connection = backend, connection

    async def run(self, statement: str) -> None:
        await self._backend.fetch(self.connection, statement)

    async def set(self, event_id: int, column: str, value: str) -> None:
        await self.run(f"UPDATE events SET {self._backend.quoted(column)} = {value} WHERE id = {event_id}")


@pytest_asyncio.fixture
async def table(backend: Backend) -> Broken:
    arguments = {"init_command": "SET sql_mode = ''"} if isinstance(backend, MysqlBackend) else {}
    table = Broken(backend, await backend.connect(**arguments))
    await events.create(table.connection)
    if isinstance(backend, MysqlBackend):
        await table.run("ALTER TABLE events MODIFY timestamp datetime(6) NULL, MODIFY type bigint NULL")
        await table.run("ALTER TABLE events MODIFY foreign_id varchar(255) NULL")
    else:
        await table.run(
            "ALTER TABLE events ALTER timestamp DROP NOT NULL, ALTER type DROP NOT NULL, ALTER type TYPE bigint,"
            " ALTER foreign_id DROP NOT NULL"
        )
    return table


def _cases(backend: Backend) -> dict[str, tuple[str, str]]:
    return ANYWHERE | (ON_POSTGRES if isinstance(backend, PostgresBackend) else ON_MYSQL)


@asynccontextmanager
async def _served(source: Source) -> AsyncIterator[Source]:
    server, served = grpc.aio.server(), StreamServer(source)
    served.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield RemoteSource(channel)
    await served.stop()
    await server.stop(None)


async def _until_error(stream: EventStream) -> tuple[list[int], ReflexError]:
    """Read to the first error, and return the ids of the events before it."""
    found: list[Event] = []
    async with stream:
        try:
            while page := await stream.read_page():
                found += page
        except ReflexError as exc:
            return [int(event.id) for event in found], exc
    raise AssertionError("the stream ended without an error")


async def test_a_row_that_is_no_event_is_an_error_with_its_id_after_the_events_before_it(
    backend: Backend, backend_pool: Any, table: Broken
) -> None:
    source = events.source(backend_pool)
    streams: list[dict[str, Any]] = [{"to_head": True}, {}, {"lag": 0.001}]
    async with _served(source) as remote:
        for start, (column, value) in enumerate(_cases(backend).values()):
            first = start * 10
            await events.insert_many(table.connection, [(i, 1) for i in range(1, 11)])
            await table.set(first + 6, column, value)
            expected = re.compile(rf'column "{column}" of event {first + 6} is NULL')
            errors = []
            for stream in (
                *(source.stream(str(first), **options) for options in streams),
                remote.stream(str(first), to_head=True),
            ):
                ids, error = await _until_error(stream)
                assert ids == list(range(first + 1, first + 6)), (column, value, stream)
                assert isinstance(error, SchemaError)
                errors.append(str(error))
            assert len(set(errors)) == 1
            assert expected.search(errors[0])
            # The rest can be read once an operator has moved the cursor.
            async with source.stream(str(first + 6), to_head=True) as rest:
                assert [int(event.id) async for event in rest] == list(range(first + 7, first + 11))


async def test_at_the_head_the_events_before_such_a_row_are_delivered_first(
    backend_pool: Any, table: Broken
) -> None:
    async with reading(events.stream(backend_pool, from_head=True)) as stream:
        await table.run("BEGIN")
        await events.insert_many(table.connection, [(i, 1) for i in range(1, 4)])
        await table.set(3, "timestamp", "NULL")
        await table.run("COMMIT")
        await events.wake(table.connection)
        assert 'column "timestamp" of event 3' in str(await stream.failure())
        assert stream.ids == [1, 2]
    # So it is for the streams that the error has ended, when they are opened again.
    ids, error = await _until_error(events.stream(backend_pool, "1"))
    assert ids == [2]
    assert 'column "timestamp" of event 3' in str(error)


async def test_backlogs_and_pruning_take_any_time(backend: Backend, backend_pool: Any, table: Broken) -> None:
    await events.insert_many(table.connection, [(i, 1) for i in range(1, 5)])
    if isinstance(backend, PostgresBackend):
        await table.set(1, "timestamp", "'-infinity'")
        await table.set(2, "timestamp", "'infinity'")
    else:
        await table.set(1, "timestamp", "'0000-00-00'")
        await table.set(2, "timestamp", "'9999-12-31'")
    backlogs = await events.backlogs(table.connection, ["", "1"])
    # Zero is no time on MySQL, and so has no age.
    assert backlogs[""].seconds > 50 * 365 * 86400 or isinstance(backend, MysqlBackend)
    assert backlogs["1"].seconds == 0.0
    pruned = await events.prune(backend_pool, Retention(older_than=3600.0, force=True))
    assert pruned.events == 1
