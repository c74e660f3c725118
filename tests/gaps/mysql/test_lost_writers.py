"""Writers that are killed, or lose their connection or their server, with an id in hand: nothing waits for them."""

from typing import Any

import pytest

from reflex_aio.ext.embedded import EmbeddedMariaDB
from reflex_aio.sql import EventsTable
from tests.fix_backends import MYSQL
from tests.fix_mariadb import MysqlDatabase
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import MysqlPoints, Writer, delivers_all
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


async def test_the_gap_of_a_killed_connection_is_passed(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    holder = await new_writer(begin=True)
    await holder.insert()
    await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await points.more("peek")
        assert reader.ids == []
        await writer.run(f"KILL {await holder.thread()}")
        await delivers_all(reader, writer)


async def test_the_gap_of_a_client_that_vanished_is_passed(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    holder = await new_writer(begin=True)
    await holder.insert()
    await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await points.more("peek")
        assert reader.ids == []
        holder.vanish()
        await delivers_all(reader, writer)


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("detached", [False, True])
async def test_a_prepared_transaction_is_waited_for(
    detached: bool,
    ending: str,
    events: EventsTable,
    readers: Any,
    points: MysqlPoints,
    writer: Writer,
    new_writer: Any,
) -> None:
    name = f"'{await writer.value('SELECT DATABASE()')}'"
    holder = await new_writer()
    await holder.run(f"XA START {name}")
    await holder.insert()
    await holder.run(f"XA END {name}")
    await holder.run(f"XA PREPARE {name}")
    await writer.insert()
    try:
        async with reading(events.stream(readers)) as reader:
            await points.more("peek")
            assert reader.ids == []
            if detached:
                holder.vanish()
                await points.more("peek")
                assert reader.ids == []
    finally:
        ender = holder if not detached else writer
        await eventually(lambda: _ended(ender, f"XA {ending} {name}"))
    async with reading(events.stream(readers)) as reader:
        await delivers_all(reader, writer)


async def _ended(ender: Writer, statement: str) -> bool:
    try:
        await ender.run(statement)
    except Exception as exc:
        # Of a client that has vanished, the server knows nothing until it has noticed.
        if "Unknown XID" not in str(exc):
            raise
        return False
    return True


@pytest.mark.parametrize("library", [*MYSQL], indirect=True)
@pytest.mark.parametrize("crash", [False, True])
async def test_gaps_left_open_by_a_server_that_stopped_are_passed_when_it_is_back(
    crash: bool, library: str, own_mariadb: EmbeddedMariaDB, points: MysqlPoints
) -> None:
    events = EventsTable("events", wakeups=None, poll_period=0.05)
    database = MysqlDatabase(own_mariadb, "restarted")
    admin = Writer(backend := MYSQL[library](database), await backend.connect(db=None, autocommit=True))
    await admin.run("CREATE DATABASE restarted")
    first, holder, prepared = [Writer(backend, await backend.connect(autocommit=True)) for _ in range(3)]
    await events.create(first.connection)
    async with backend.pool(5) as pool, reading(events.stream(pool)) as reader:
        await first.insert()
        await prepared.run("XA START 'held'")
        await prepared.insert()
        await prepared.run("XA END 'held'")
        await prepared.run("XA PREPARE 'held'")
        await first.insert()
        await holder.run("BEGIN")
        await holder.insert()
        await first.insert()
        await points.more("peek")
        assert reader.ids == [1]
        if crash:
            await own_mariadb.kill()
        else:
            await own_mariadb.stop()
        await own_mariadb.start()

        again = Writer(backend, await backend.connect(autocommit=True))
        await again.insert()
        await points.more("peek")
        # What was prepared is still waited for.
        assert reader.ids == [1]
        await again.run("XA COMMIT 'held'")
        await delivers_all(reader, again)
        assert reader.ids[:3] == [1, 2, 3]
    backend.close()
