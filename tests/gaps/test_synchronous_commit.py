"""A commit that waits for a synchronous standby is not visible, though it can't be undone any more."""

import asyncio

import asyncpg
import pytest

from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql.events.table import EventsTable
from tests.fix_standbys import Standby
from tests.reading import SCAN, ran, reading
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

events = EventsTable("events", poll_period=0.05)


async def test_an_event_is_waited_for_until_its_commit_has_reached_the_synchronous_standby(
    own_server: EmbeddedPostgres, standby: Standby
) -> None:
    async with asyncpg.create_pool(own_server.dsn, min_size=1, max_size=10) as pool:
        holder, writer, watcher = [await asyncpg.connect(own_server.dsn) for _ in range(3)]
        try:
            await events.create(writer)
            await writer.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            await writer.execute("SELECT pg_reload_conf()")
            # The others don't wait for the standby.
            await writer.execute("SET synchronous_commit = local")
            await holder.execute("SET synchronous_commit = on")

            async def synchronous() -> bool:
                return await watcher.fetchval("SELECT sync_state = 'sync' FROM pg_stat_replication") or False

            await eventually(synchronous, "the standby synchronous")
            async with reading(events.stream(pool)) as stream:
                first = int(await events.insert(holder, 1, 1))
                await stream.reached(first)
                await standby.server.stop("immediate")
                await holder.execute("BEGIN")
                held = int(await events.insert(holder, 1, 1))
                committing = asyncio.create_task(holder.execute("COMMIT"))

                async def waits() -> bool:
                    return (
                        await watcher.fetchval(
                            "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1",
                            holder.get_server_pid(),
                        )
                        or False
                    )

                await eventually(waits, "the commit waits for the standby")
                last = int(await events.insert(writer, 1, 1))
                await ran(watcher, SCAN, times=10)
                assert stream.ids == [first]
                assert not committing.done()
                await standby.server.start()
                await committing
                assert await stream.reached(last) == [first, held, last]
        finally:
            for connection in (holder, writer, watcher):
                await connection.close()
