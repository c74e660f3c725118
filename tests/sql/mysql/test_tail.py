"""What many streams at the head of a table cost on MySQL and MariaDB, as the server counts it."""

from contextlib import AsyncExitStack

import pytest

from reflex_aio.ext.embedded import EmbeddedMariaDB
from reflex_aio.sql import EventsTable
from tests.fix_backends import MYSQL
from tests.fix_mariadb import MysqlDatabase
from tests.reading import reading

pytestmark = pytest.mark.asyncio

# Longer than the test: what streams do is because of wake-ups.
events = EventsTable("events", poll_floor=30.0, poll_period=30.0)

STATEMENTS = "SELECT variable_value FROM information_schema.{}_status WHERE variable_name = 'QUESTIONS'"


@pytest.mark.parametrize("library", [*MYSQL])
async def test_a_hundred_streams_cost_two_statements_for_an_insert(
    library: str, own_mariadb: EmbeddedMariaDB
) -> None:
    backend = MYSQL[library](MysqlDatabase(own_mariadb, "counted"))
    watcher = await backend.connect(db=None)
    await backend.fetch(watcher, "CREATE DATABASE counted")
    writer = await backend.connect()
    await events.create(writer)

    async def asked_by_streams() -> int:
        everybody = int(await backend.value(watcher, STATEMENTS.format("global")))
        ours = [int(await backend.value(one, STATEMENTS.format("session"))) for one in (writer, watcher)]
        return everybody - sum(ours)

    async with backend.pool(10) as pool, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(reading(events.stream(pool, from_head=True))) for _ in range(100)
        ]
        last = int(await events.insert(writer, 1, 1))
        for stream in streams:
            await stream.reached(last)
        before = await asked_by_streams()
        for _ in range(50):
            last = int(await events.insert(writer, 1, 1))
            for stream in streams:
                await stream.reached(last)
        # Something has to be read, or nothing was counted.
        assert 50 <= await asked_by_streams() - before <= 2 * 50
    backend.close()
