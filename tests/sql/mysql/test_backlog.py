"""What operators look at, on MySQL and MariaDB: which events a table has, and how far cursors are behind them."""

import pytest

from reflex_aio.errors import TableNotFound
from reflex_aio.sql import EventColumns, EventsTable
from reflex_aio.sql.retention.prune import Extent
from tests.fix_backends import MysqlBackend

pytestmark = pytest.mark.asyncio

events = EventsTable("events")


async def test_the_extent_is_that_of_what_is_retained(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await events.create(connection)
    assert await events.extent(connection) == Extent("", "")
    await events.insert_many(connection, [(1, 1)] * 9)
    await mysql.fetch(connection, "DELETE FROM events WHERE id < 4 OR id = 9")
    assert await events.extent(connection) == Extent("4", "8")


async def test_a_missing_table_has_no_extent_and_no_backlog(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    with pytest.raises(TableNotFound):
        await events.extent(connection)
    with pytest.raises(TableNotFound):
        await events.backlogs(connection, [""])


@pytest.mark.parametrize("type", ["timestamp(6)", "datetime(6)", "datetime"])
@pytest.mark.parametrize("zone", ["+00:00", "+09:00", "-05:00"])
async def test_a_backlog_has_the_number_of_events_after_the_cursor_and_the_age_of_the_first(
    mysql: MysqlBackend, type: str, zone: str
) -> None:
    connection = await mysql.connect()
    await events.create(connection)
    await mysql.fetch(connection, f"ALTER TABLE events MODIFY timestamp {type} NOT NULL")
    await events.insert_many(connection, [(1, 1)] * 4)
    await mysql.fetch(connection, "UPDATE events SET timestamp = timestamp - INTERVAL id HOUR")
    watcher = await mysql.connect(init_command=f"SET time_zone = '{zone}'")
    found = await events.backlogs(watcher, ["", "1", "3", "4", "9"])
    assert [backlog.events for backlog in found.values()] == [4, 3, 1, 0, 0]
    assert [backlog.seconds for backlog in found.values()] == [
        pytest.approx(seconds, abs=60) for seconds in (3600, 7200, 14400, 0, 0)
    ]


async def test_noops_are_no_backlog_and_counting_ends_at_the_limit(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    await events.create(connection)
    await mysql.fetch(
        connection, "INSERT INTO events (foreign_id, type) VALUES ('0', 0), ('0', 1), ('1', 0), ('7', 1)"
    )
    assert (await events.backlogs(connection, [""]))[""].events == 3
    assert (await events.backlogs(connection, [""], limit=2))[""].events == 2
    assert await events.backlogs(connection, []) == {}


async def test_a_table_is_taken_as_it_is_found(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    columns = EventColumns(id="Number", type="kind", timestamp="at", foreign_id="row")
    table = EventsTable("Odd-events", columns=columns, foreign_id="bigint", metadata=True)
    await table.create(connection)
    found = await EventsTable("Odd-events", columns=columns).as_found(connection)
    assert await found.insert(connection, 7, 1, metadata=b"m") == "1"
    assert (await found.backlogs(connection, [""]))[""].events == 1
    with pytest.raises(ValueError, match="no column for trace"):
        await found.insert(connection, 7, 1, trace=b"t")
