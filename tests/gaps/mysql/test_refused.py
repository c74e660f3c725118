"""Tables and servers of which events could be missed, or broken, are refused with what to do about it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from reflex_aio import TableRefused
from reflex_aio.errors import SchemaError
from reflex_aio.sql import EventsTable
from tests.fix_backends import AsyncmyBackend, MysqlBackend
from tests.fix_mariadb import MysqlDatabase, make_mariadb
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import MysqlPoints, Writer, delivers_all
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

COLUMNS = (
    "type int NOT NULL, timestamp timestamp(6) NOT NULL DEFAULT NOW(6), foreign_id varchar(255) NOT NULL"
)

TABLES = {
    "key of two columns": (
        (
            f"CREATE TABLE events (id bigint NOT NULL AUTO_INCREMENT, {COLUMNS}, PRIMARY KEY (id, timestamp))"
            " PARTITION BY RANGE (UNIX_TIMESTAMP(timestamp)) (PARTITION p VALUES LESS THAN MAXVALUE)"
        ),
        r"its id has no unique index of its own.*create a unique index on id alone",
    ),
    "no transactions": (
        f"CREATE TABLE events (id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, {COLUMNS}) ENGINE = MyISAM",
        r"its engine is MyISAM",
    ),
    "ids by hand": (
        f"CREATE TABLE events (id bigint NOT NULL PRIMARY KEY, {COLUMNS})",
        r"its id isn't AUTO_INCREMENT",
    ),
    "ids beyond 64 bits": (
        f"CREATE TABLE events (id bigint unsigned AUTO_INCREMENT PRIMARY KEY, {COLUMNS})"
        + " AUTO_INCREMENT = 9223372036854775808",
        r"its next id is 9223372036854775808: cursors",
    ),
    "view": ("CREATE VIEW events AS SELECT * FROM spare", r"it is no table, and so has no ids of its own"),
}


@pytest.mark.parametrize("table", [*TABLES])
async def test_a_table_of_which_events_could_be_missed_is_refused(
    table: str, writer: Writer, readers: Any
) -> None:
    await writer.run(f"CREATE TABLE spare (id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, {COLUMNS})")
    statement, message = TABLES[table]
    await writer.run(statement)
    with pytest.raises(TableRefused, match=message):
        await EventsTable("events").stream(readers).__aenter__()


async def test_ids_of_another_type_are_refused(writer: Writer, readers: Any) -> None:
    await writer.run(f"CREATE TABLE events (id double NOT NULL AUTO_INCREMENT PRIMARY KEY, {COLUMNS})")
    with pytest.raises(SchemaError, match='column "id" is double: accepted is int or bigint'):
        await EventsTable("events").stream(readers).__aenter__()


async def test_a_table_partitioned_by_its_id_alone_is_streamed(writer: Writer, readers: Any) -> None:
    await writer.run(
        f"CREATE TABLE events (id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, {COLUMNS})"
        " PARTITION BY RANGE (id) (PARTITION a VALUES LESS THAN (3), PARTITION b VALUES LESS THAN MAXVALUE)"
    )
    async with reading(EventsTable("events", poll_period=0.05).stream(readers)) as reader:
        for _ in range(4):
            await writer.insert()
            await writer.burn()
        await writer.insert()
        await delivers_all(reader, writer)


async def test_settling_on_another_server_needs_a_replica_to_read_from(
    events: EventsTable, readers: Any, mariadb: MysqlBackend
) -> None:
    async with mariadb.pool(2) as other:
        with pytest.raises(TableRefused, match="does not connect to a replica: leave primary out"):
            await events.stream(readers, primary=other).__aenter__()


class Replication:
    """A primary, and a replica of it."""

    def __init__(self, primary: MysqlBackend, replica: MysqlBackend) -> None:
        self.primary, self.replica = primary, replica


@pytest_asyncio.fixture
async def replication() -> AsyncIterator[Replication]:
    primary_server = make_mariadb(port=0, server_id=1, log_bin="binlog", binlog_format="ROW")
    replica_server = make_mariadb(server_id=2)
    async with primary_server, replica_server:
        backends = [
            AsyncmyBackend(MysqlDatabase(server, "replicated")) for server in (primary_server, replica_server)
        ]
        primary, replica = backends
        port = primary_server.dsn_for("", tcp=True).rpartition(":")[2].rstrip("/")
        admins = [await backend.connect(db=None, autocommit=True) for backend in backends]
        follow = f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'root'"
        await replica.fetch(admins[1], f"{follow}, MASTER_CONNECT_RETRY = 1")
        await replica.fetch(admins[1], "START SLAVE")
        await primary.fetch(admins[0], "CREATE DATABASE replicated CHARACTER SET utf8mb4")

        async def there() -> object:
            return await replica.fetch(admins[1], "SHOW DATABASES LIKE 'replicated'")

        await eventually(there, "the replica has the database")
        yield Replication(primary, replica)
        for backend in backends:
            backend.close()


async def test_a_replica_gets_no_noops_whether_it_replicates_at_the_moment_or_not(
    replication: Replication, points: MysqlPoints, caplog: pytest.LogCaptureFixture
) -> None:
    events = EventsTable("events", wakeups=None, poll_period=0.05)
    primary, replica = replication.primary, replication.replica
    writer = Writer(primary, await primary.connect(autocommit=True))
    await events.create(writer.connection)
    await writer.insert()
    await writer.burn()
    last = await writer.insert()
    on_replica = Writer(replica, await replica.connect(autocommit=True))

    async def arrived() -> object:
        return await on_replica.value("SELECT MAX(id) FROM events") == last

    await eventually(arrived, "the events on the replica")
    async with replica.pool(5) as pool, primary.pool(5) as primary_pool:
        for statement in ("SELECT 1", "STOP SLAVE", "START SLAVE"):
            await on_replica.run(statement)
            async with reading(events.stream(pool)) as reader:
                await reader.reached(1)
                assert "read on a replica of 127.0.0.1" in caplog.text
                await points.more("page")
                assert reader.ids == [1]
            with pytest.raises(TableRefused, match=r"replicates from 127\.0\.0\.1, and takes no noops"):
                await events.fill_gaps(pool)
        # Resolved on the primary, read on the replica.
        async with reading(events.stream(pool, primary=primary_pool)) as reader:
            await reader.reached(last)
            holder = Writer(primary, await primary.connect(autocommit=False))
            await holder.insert()
            await writer.insert()
            await points.more("peek")
            await holder.run("COMMIT")
            await delivers_all(reader, writer)
        with pytest.raises(TableRefused, match="a noop here would break replication"):
            await events.stream(pool, primary=pool).__aenter__()
        assert await on_replica.value("SELECT COUNT(*) FROM events WHERE type = 0") == 1
        status = await on_replica.run("SHOW SLAVE STATUS")
        assert "Yes" in status[0], "the replica still replicates"
