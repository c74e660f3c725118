"""The queries that streams send for each page: the plans that PostgreSQL makes of them, and how often."""

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from reflex_aio.sql import EventsTable
from reflex_aio.sql.events.postgres.queries import Queries
from tests.fix_databases import Connect

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]

events = EventsTable("planned_events", metadata=True, trace=True)
ROWS = 20_000


def queries(*, partitioned: bool = False) -> Queries:
    return Queries(
        events._settings,
        '"planned_events"',
        "timestamp with time zone",
        one_server=True,
        partitioned=partitioned,
    )


async def fill(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO planned_events (foreign_id, type)"
        f" SELECT i::text, 1 FROM generate_series(1, {ROWS}) AS i"
    )
    # What autovacuum does; before, a planner knows nothing of the table.
    await connection.execute("ANALYZE planned_events")


async def plan(connection: asyncpg.Connection, sql: str, *args: Any) -> str:
    """The plan that is used for a statement once it has been executed a few times."""
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    given = ", ".join(f"'{value}'" for value in args)
    await connection.execute(f"PREPARE planned AS {sql}")
    rows = await connection.fetch(f"EXPLAIN EXECUTE planned({given})")
    await connection.execute("DEALLOCATE planned; RESET plan_cache_mode")
    return "\n".join(row[0] for row in rows)


def page(size: int) -> str:
    return queries().page(size)


def checked_page(size: int) -> str:
    return queries().page(size, checked=True)


@pytest.mark.parametrize("sql", [page, checked_page])
@pytest.mark.parametrize("size", [1, 1000])
async def test_a_page_is_read_from_the_index_on_ids_and_not_sorted(
    connect: Connect, sql: Callable[[int], str], size: int
) -> None:
    connection = await connect()
    await events.create(connection)
    await fill(connection)
    args = [5, "planned_events", 0][: 1 if sql is page else 3]
    found = await plan(connection, sql(size), *args)
    assert "Index Scan using planned_events_pkey" in found
    assert "Sort" not in found
    assert "Seq Scan on planned_events" not in found


@pytest.mark.parametrize("sql", [page, checked_page])
@pytest.mark.parametrize("position", [0, ROWS // 2, ROWS - 1, ROWS])
async def test_pages_are_planned_a_few_times_in_a_connections_life_wherever_they_are(
    connect: Connect, sql: Callable[[int], str], position: int
) -> None:
    connection = await connect()
    await events.create(connection)
    await fill(connection)
    args = [position, "planned_events", 0][: 1 if sql is page else 3]
    for _ in range(20):
        await connection.fetch(sql(1000), *args)
    planned = await connection.fetchrow(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement = $1", sql(1000)
    )
    assert planned is not None
    assert (planned["generic_plans"], planned["custom_plans"]) == (15, 5)


async def test_of_a_partitioned_table_a_page_opens_no_partition_before_its_position(
    connect: Connect,
) -> None:
    connection = await connect()
    await connection.execute(
        "CREATE TABLE planned_events (id bigint GENERATED ALWAYS AS IDENTITY, type integer NOT NULL,"
        " timestamp timestamptz NOT NULL DEFAULT now(), foreign_id text NOT NULL, metadata bytea, trace bytea,"
        " PRIMARY KEY (id)) PARTITION BY RANGE (id)"
    )
    for i in range(4):
        await connection.execute(
            f"CREATE TABLE part_{i} PARTITION OF planned_events"
            f" FOR VALUES FROM ({i * ROWS // 2}) TO ({(i + 1) * ROWS // 2})"
        )
    await fill(connection)
    sql = queries(partitioned=True).page(1000)
    await connection.execute(f"PREPARE planned AS {sql}")
    for _ in range(10):
        rows = await connection.fetch(f"EXPLAIN EXECUTE planned({ROWS})")
    found = "\n".join(row[0] for row in rows)
    assert "part_2" in found
    assert "part_0" not in found
    assert "part_1" not in found
