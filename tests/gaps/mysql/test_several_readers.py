"""Several who fill the same gaps at once, in one process and in many: none starves, none fails, nothing is missed."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from reflex_aio.sql import EventsTable
from tests.fix_backends import MYSQL, MysqlBackend
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import Writer, delivers_all

pytestmark = pytest.mark.asyncio


async def gappy(writer: Writer, count: int) -> None:
    for number in range(count):
        await writer.burn(number % 3)
        await writer.insert()


async def test_two_streams_behind_resolve_the_same_gaps(
    events: EventsTable, readers: Any, writer: Writer
) -> None:
    await gappy(writer, 100)
    # Without the tail: each pages for itself.
    async with (
        reading(events.stream(readers, lag=0.001)) as one,
        reading(events.stream(readers, lag=0.001)) as two,
    ):
        await gappy(writer, 50)
        await delivers_all(one, writer)
        await delivers_all(two, writer)


@pytest.mark.parametrize("library", [*MYSQL], indirect=True)
async def test_ten_processes_resolve_the_same_gaps(
    events: EventsTable, mariadb: MysqlBackend, writer: Writer, new_writer: Any
) -> None:
    # As ten processes do: each pool has a loader of its own.
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(10):
            pool = await stack.enter_async_context(mariadb.pool(3))
            streams.append(await stack.enter_async_context(reading(events.stream(pool))))
        writers = [writer, await new_writer(), await new_writer()]
        await asyncio.gather(*(gappy(each, 60) for each in writers))
        for stream in streams:
            await delivers_all(stream, writer)
    assert await writer.value("SELECT MAX(id) - COUNT(*) FROM events") == 0
