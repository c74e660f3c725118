"""Ids that go up by more than one: those between may be another server's."""

import asyncio
from typing import Any

import pytest

from reflex_aio.sql import EventsTable
from tests.fix_backends import MYSQL
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import Writer, delivers_all

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("library", [*MYSQL], indirect=True)
async def test_writers_that_take_every_third_id_are_read_without_a_miss(
    events: EventsTable, readers: Any, new_writer: Any, writer: Writer
) -> None:
    async def write(offset: int) -> None:
        writer = await new_writer()
        await writer.run(f"SET auto_increment_increment = 3, auto_increment_offset = {offset}")
        for number in range(60):
            await writer.run("BEGIN")
            await writer.insert()
            await writer.run("ROLLBACK" if number % 7 == 0 else "COMMIT")

    async with reading(events.stream(readers)) as reader:
        await asyncio.gather(*(write(offset) for offset in (1, 3)))
        await writer.run("SET auto_increment_increment = 3, auto_increment_offset = 1")
        await writer.insert()
        await delivers_all(reader, writer)


async def test_noops_do_not_draw_ids_themselves(events: EventsTable, readers: Any, writer: Writer) -> None:
    await writer.run("SET auto_increment_increment = 3, auto_increment_offset = 1")
    ids = [await writer.insert() for _ in range(5)]
    async with reading(events.stream(readers)) as reader:
        await reader.reached(ids[-1])
        assert await writer.insert() == ids[-1] + 3
        await delivers_all(reader, writer)
