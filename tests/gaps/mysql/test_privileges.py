"""Readers without the privilege to write: they log what they need, wait at the gap, and lose nothing."""

import logging
from typing import Any

import pytest

from reflex_aio import TableRefused
from reflex_aio.sql import EventsTable
from tests.fix_backends import MysqlBackend
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import MysqlPoints, Writer, delivers_all
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


async def account(writer: Writer, *privileges: str) -> str:
    """Make an account with privileges on the table alone, and return its name."""
    name = str(await writer.value("SELECT CONCAT('u', LEFT(MD5(DATABASE()), 20))"))
    await writer.run(f"CREATE OR REPLACE USER '{name}'@'localhost'")
    await writer.run(f"GRANT {', '.join(privileges)} ON events TO '{name}'@'localhost'")
    return name


async def test_a_reader_without_the_privilege_logs_it_and_waits_for_a_process_that_has_it(
    events: EventsTable,
    mariadb: MysqlBackend,
    readers: Any,
    points: MysqlPoints,
    writer: Writer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    user = await account(writer, "SELECT")
    first = await writer.insert()
    await writer.burn()
    last = await writer.insert()
    async with mariadb.pool(5, user=user) as pool, reading(events.stream(pool)) as reader:
        await reader.reached(first)
        assert "grant INSERT on it" in caplog.text
        await points.more("look", 10)
        assert reader.ids == [first]
        # Another stream has the privilege.
        async with reading(events.stream(readers)) as other:
            await other.reached(last)
        await delivers_all(reader, writer)
        # What is in flight needs no privilege.
        holder = Writer(mariadb, await mariadb.connect(autocommit=False))
        await holder.insert()
        await writer.insert()
        await points.more("look", 5)
        await holder.run("COMMIT")
        await delivers_all(reader, writer)
    await writer.run(f"DROP USER '{user}'@'localhost'")


async def test_a_filler_who_may_not_insert_is_refused(
    events: EventsTable, mariadb: MysqlBackend, writer: Writer
) -> None:
    user = await account(writer, "SELECT")
    async with mariadb.pool(2, user=user) as pool:
        with pytest.raises(
            TableRefused, match=r"noops can't be inserted.*INSERT command denied.*grant INSERT"
        ):
            await events.fill_gaps(pool)
    await writer.run(f"DROP USER '{user}'@'localhost'")


async def test_select_and_insert_are_all_that_is_needed(
    events: EventsTable, mariadb: MysqlBackend, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    user = await account(writer, "SELECT", "INSERT")
    await writer.insert()
    await writer.burn()
    await writer.insert()
    async with mariadb.pool(2, user=user) as pool, reading(events.stream(pool)) as reader:
        await delivers_all(reader, writer)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await writer.run(f"DROP USER '{user}'@'localhost'")


async def test_no_noop_is_written_to_a_server_that_is_read_only(
    events: EventsTable,
    readers: Any,
    points: MysqlPoints,
    writer: Writer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The account is privileged: it could write all the same, and so break a replica that is protected by this.
    await writer.insert()
    await writer.burn()
    await writer.insert()
    await writer.run("SET GLOBAL read_only = ON")
    try:
        async with reading(events.stream(readers)) as reader:
            await eventually(lambda: "the server is read-only" in caplog.text)
            await points.more("look", 5)
            assert reader.ids == [1]
            await writer.run("SET GLOBAL read_only = OFF")
            await delivers_all(reader, writer)
    finally:
        await writer.run("SET GLOBAL read_only = OFF")
