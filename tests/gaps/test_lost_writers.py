"""Writers that are killed, or lose their connection or their server, with an id in hand: nothing waits for them."""

import asyncpg
import pytest

from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.fix_proxy import Proxy
from tests.gaps.crashes import CRASHES
from tests.gaps.interleaving import Points, begin, insert, reading, watched_pool
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]


async def test_the_gap_of_a_terminated_backend_is_passed(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        assert reader.ids == []
        await writer.execute("SELECT pg_terminate_backend($1)", holder.get_server_pid())
        await reader.delivers_all(writer)


async def test_the_gap_of_a_client_that_vanished_is_passed(
    events: EventsTable,
    readers: asyncpg.Pool,
    points: Points,
    writer: asyncpg.Connection,
    connect: Connect,
    proxy: Proxy,
) -> None:
    holder = await begin(connect, dsn=proxy.dsn)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await points.more("scan")
        assert reader.ids == []
        await proxy.drop_connections()
        await reader.delivers_all(writer)


@pytest.mark.suite_server
@pytest.mark.parametrize("crash", [*CRASHES])
async def test_a_gap_left_open_by_a_server_that_stopped_is_passed_when_it_is_back(
    crash: str, own_server: EmbeddedPostgres, reconnect: Connect
) -> None:
    events = EventsTable("events", wakeups=None, poll_period=0.05)
    first = await reconnect()
    await events.create(first)
    holder = await reconnect()
    async with (
        watched_pool(own_server.dsn) as (pool, points),
        reading(events.stream(pool)) as reader,
    ):
        await insert(first)
        await holder.execute("BEGIN")
        await insert(holder)
        await insert(first)
        await points.more("scan")
        assert reader.ids == [1]
        await CRASHES[crash](own_server, holder)
        await eventually(first.is_closed, "the connections cut")

        second = await reconnect()
        await insert(second)
        await reader.delivers_all(second, within=20.0)
        assert len(reader.ids) == 3
