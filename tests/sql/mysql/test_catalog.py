"""What a stream on MySQL and MariaDB costs the catalogs when it is opened."""

from typing import Any

import pytest

from reflex_aio.sql import EventsTable
from tests.fix_backends import MysqlBackend

pytestmark = pytest.mark.asyncio

OTHER_TABLES = 20


async def test_opening_a_stream_looks_into_no_other_table(mysql: MysqlBackend) -> None:
    events = EventsTable("events")

    async def looked_into(pool: Any) -> int:
        async with pool.acquire() as connection:
            rows = await mysql.fetch(connection, "SHOW SESSION STATUS LIKE 'Opened_table_definitions'")
        return int(rows[0][1])

    # One connection, which counts what it has done.
    async with mysql.pool(1) as pool:
        async with pool.acquire() as connection:
            await events.create(connection)
            for number in range(OTHER_TABLES):
                await mysql.fetch(connection, f"CREATE TABLE other_{number} (id int)")
            await mysql.fetch(connection, "FLUSH TABLES")
        before = await looked_into(pool)
        async with events.stream(pool, to_head=True) as stream:
            assert [event async for event in stream] == []
        assert await looked_into(pool) - before < OTHER_TABLES
