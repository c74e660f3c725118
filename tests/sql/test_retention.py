"""Pruning: the events that are deleted, and those that are always kept."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import ConnectionLost, InvalidCursor
from reflex_aio.errors import TableNotFound
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.sql import CursorsTable, EventsTable, Retention
from reflex_aio.sql.retention.prune import Extent, Pruned
from tests.fix_backends import Backend
from tests.fix_databases import Database
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

events = EventsTable("events", wakeups=None)
cursors = CursorsTable("cursors")
HOUR = 3600.0

Fill = Callable[..., Awaitable[None]]


@pytest_asyncio.fixture
async def connection(backend: Backend) -> Any:
    """A connection, in autocommit, to a database that has both tables."""
    arguments = {"autocommit": True} if backend.has_autocommit else {}
    connection = await backend.connect(**arguments)
    await events.create(connection)
    await cursors.create(connection)
    return connection


@pytest.fixture
def fill(backend: Backend, connection: Any) -> Fill:
    """Insert so many events, each of an age that is a function of its id, in seconds; a day by default."""

    async def fill(count: int, age: Callable[[int], float] = lambda event_id: 24 * HOUR) -> None:
        ids = await events.insert_many(connection, [(1, 1)] * count)
        for event_id in map(int, ids):
            await grow_old(backend, connection, event_id, age(event_id))

    return fill


# What sets the time of an event to so many microseconds ago, by the clock that is stored.
AGO = {
    "postgres": "UPDATE events SET timestamp = now() - interval '1 microsecond' * {us} WHERE id = {id}",
    "mysql": "UPDATE events SET timestamp = now(6) - INTERVAL {us} MICROSECOND WHERE id = {id}",
}
# The same column, of the other type that is accepted, which is taken as UTC.
WITHOUT_TIME_ZONE = {
    "postgres": "ALTER TABLE events ALTER timestamp TYPE timestamp USING timestamp AT TIME ZONE 'UTC'",
    "mysql": "ALTER TABLE events MODIFY timestamp datetime(6) NOT NULL",
}
SET_TIME_ZONE = {"postgres": "SET TIME ZONE '{:+d}'", "mysql": "SET time_zone = '{:+03d}:00'"}


async def grow_old(backend: Backend, connection: Any, event_id: int, seconds: float) -> None:
    await backend.fetch(connection, AGO[backend.dialect].format(us=int(seconds * 1_000_000), id=event_id))


async def ids(backend: Backend, connection: Any) -> list[int]:
    return [row[0] for row in await backend.fetch(connection, "SELECT id FROM events ORDER BY id")]


def at(**consumers: str) -> MemoryCursorStore:
    return MemoryCursorStore(consumers)


# Which events go.


async def test_events_before_an_id_go(
    backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    await fill(10)
    pruned = await events.prune(backend_pool, Retention(before="7", cursors=at(mail="9")))
    assert pruned == Pruned(events=6, first="1", position="6", end="7", limit="before", consumer="")
    assert await ids(backend, connection) == [7, 8, 9, 10]


async def test_events_older_than_an_age_go_up_to_the_first_that_is_younger(
    backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    # Of the fifth the transaction took long: its time is that of its end.
    await fill(10, lambda event_id: HOUR if event_id in (5, 9, 10) else 3 * HOUR)
    pruned = await events.prune(backend_pool, Retention(older_than=2 * HOUR, cursors=at(mail="10")))
    assert (pruned.events, pruned.end, pruned.limit) == (4, "5", "age")
    assert await ids(backend, connection) == [5, 6, 7, 8, 9, 10]


async def test_an_age_is_right_whatever_the_type_of_times_and_the_time_zones_are(
    backend: Backend, connection: Any, fill: Fill
) -> None:
    # MariaDB turns a timestamp into a datetime in the time zone of the session.
    await backend.fetch(connection, SET_TIME_ZONE[backend.dialect].format(0))
    await fill(10, lambda event_id: (10 - event_id) * HOUR + 60)
    async with backend.pool(1) as pool:
        for number, statement in enumerate(("SELECT 1", WITHOUT_TIME_ZONE[backend.dialect])):
            await backend.fetch(connection, statement)
            for zone in (-5, 7):
                async with pool.acquire() as pooled:
                    await backend.fetch(pooled, SET_TIME_ZONE[backend.dialect].format(zone))
                retention = Retention(older_than=(7 - 2 * number) * HOUR, cursors=at(mail="10"))
                reported = await events.prune(pool, retention, dry_run=True)
                assert (reported.end, reported.limit) == (str(4 + 2 * number), "age")
            await events.prune(pool, retention)


async def test_of_two_limits_the_lower_one_counts(backend_pool: Any, fill: Fill) -> None:
    await fill(10, lambda event_id: 3 * HOUR if event_id < 5 else HOUR)
    consumed = at(mail="10")
    pruned = await events.prune(
        backend_pool, Retention(older_than=2 * HOUR, before="3", cursors=consumed), dry_run=True
    )
    assert (pruned.events, pruned.limit) == (2, "before")
    pruned = await events.prune(backend_pool, Retention(older_than=2 * HOUR, before="8", cursors=consumed))
    assert (pruned.events, pruned.limit) == (4, "age")


async def test_a_dry_run_reports_the_same_and_deletes_nothing(
    backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    await fill(10)
    retention = Retention(older_than=HOUR, cursors=at(mail="8"))
    reported = await events.prune(backend_pool, retention, dry_run=True, batch_size=3)
    assert len(await ids(backend, connection)) == 10
    assert reported == await events.prune(backend_pool, retention, batch_size=3)
    assert reported.events == 7


async def test_missing_ids_are_passed_over(
    backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    await fill(20)
    await backend.fetch(connection, "DELETE FROM events WHERE id IN (1, 2, 3, 9, 10, 11, 12, 13, 15)")
    pruned = await events.prune(backend_pool, Retention(before="15", cursors=at(mail="20")), batch_size=2)
    assert (pruned.events, pruned.first, pruned.position) == (6, "4", "14")
    assert await ids(backend, connection) == [16, 17, 18, 19, 20]


# What stays.


async def test_the_event_of_the_slowest_cursor_stays_with_all_after_it(
    backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    await fill(10)
    await cursors.set(connection, "mail", "9")
    await cursors.set(connection, "search", "4")
    pruned = await events.prune(
        backend_pool, Retention(older_than=0, cursors=cursors.store(backend_pool), expect=["mail"])
    )
    assert (pruned.events, pruned.limit, pruned.consumer) == (3, "consumer", "search")
    # So that a cursor differs from one whose events are deleted.
    assert await events.extent(connection) == Extent("4", "10")


@pytest.mark.parametrize("force", [False, True])
async def test_the_newest_row_always_stays(
    force: bool, backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    await fill(10)
    pruned = await events.prune(backend_pool, Retention(before="99", cursors=at(mail="10"), force=force))
    assert (pruned.events, pruned.end) == (9, "10")
    assert await ids(backend, connection) == [10]
    assert await events.source(backend_pool).head() == "10"
    assert await events.insert(connection, 1, 1) == "11"


async def test_the_slowest_of_several_stores_counts(backend_pool: Any, fill: Fill) -> None:
    await fill(10)
    stores = [at(mail="9", search="9"), at(search="3", billing="8")]
    pruned = await events.prune(backend_pool, Retention(older_than=0, cursors=stores))
    assert (pruned.events, pruned.consumer) == (2, "search")


async def test_a_consumer_that_is_expected_and_never_ran_keeps_everything(
    backend_pool: Any, fill: Fill
) -> None:
    await fill(10)
    pruned = await events.prune(
        backend_pool, Retention(older_than=0, cursors=at(mail="9"), expect=["mail", "new"])
    )
    assert (pruned.events, pruned.limit, pruned.consumer) == (0, "consumer", "new")


@pytest.mark.parametrize("cursor", ["", "0", "of-another-kind"])
async def test_a_cursor_at_the_beginning_or_of_no_event_keeps_everything(
    cursor: str, backend_pool: Any, fill: Fill
) -> None:
    await fill(10)
    pruned = await events.prune(
        backend_pool, Retention(older_than=0, cursors=[at(mail="9"), StoreOf(odd=cursor)])
    )
    assert (pruned.events, pruned.consumer) == (0, "odd")


async def test_without_any_consumer_everything_stays(backend_pool: Any, fill: Fill) -> None:
    await fill(10)
    pruned = await events.prune(backend_pool, Retention(older_than=0, cursors=at()))
    assert (pruned.events, pruned.limit, pruned.consumer) == (0, "consumer", "")


async def test_consumers_that_are_ignored_miss_events(backend_pool: Any, fill: Fill) -> None:
    await fill(10)
    consumed = at(mail="7", old="2", **{"payments-1": "1", "payments-2": ""})
    retention = Retention(older_than=0, cursors=consumed, ignore=["old", "payments-*"])
    pruned = await events.prune(backend_pool, retention)
    assert (pruned.events, pruned.consumer) == (6, "mail")


async def test_force_ignores_the_consumers(backend_pool: Any, fill: Fill) -> None:
    await fill(10)
    assert (await events.prune(backend_pool, Retention(before="5", force=True))).events == 4
    assert (
        await events.prune(backend_pool, Retention(before="8", cursors=at(mail="1"), force=True))
    ).events == 3


async def test_a_young_noop_stays_as_it_keeps_a_late_writer_from_its_id(
    backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    await fill(10)
    columns = f"{backend.quoted('type')} = 0, foreign_id = '0'"
    await backend.fetch(connection, f"UPDATE events SET {columns} WHERE id IN (4, 6)")
    await grow_old(backend, connection, 6, 60.0)
    retention = Retention(before="9", cursors=at(mail="10"))
    pruned = await events.prune(backend_pool, retention)
    assert (pruned.events, pruned.end, pruned.limit) == (5, "6", "noop")
    assert (
        await events.prune(backend_pool, Retention(before="9", cursors=at(mail="10"), noop_age=30))
    ).events == 3


async def test_a_consumer_that_is_rewound_meanwhile_keeps_what_is_left(backend_pool: Any, fill: Fill) -> None:
    await fill(20)
    consumed = StoreOf(mail="20")

    def rewind(pruned: Pruned) -> None:
        consumed.cursors["mail"] = "5"

    pruned = await events.prune(
        backend_pool, Retention(before="15", cursors=consumed), batch_size=2, progress=rewind
    )
    assert (pruned.events, pruned.end, pruned.consumer) == (4, "5", "mail")


async def test_an_empty_table_has_nothing_to_prune(backend_pool: Any, connection: Any) -> None:
    pruned = await events.prune(backend_pool, Retention(older_than=0, force=True))
    assert pruned == Pruned(events=0, first="", position="0", end="0", limit="newest", consumer="")


# How it is done.


async def test_progress_is_reported_after_each_batch(backend_pool: Any, fill: Fill) -> None:
    await fill(10)
    reported: list[Pruned] = []
    retention = Retention(before="8", cursors=at(mail="10"))
    pruned = await events.prune(backend_pool, retention, batch_size=3, progress=reported.append)
    assert [each.position for each in reported] == ["3", "6", "7"]
    assert reported[-1] == pruned


async def test_a_pruning_that_is_cancelled_keeps_its_batches_and_the_next_goes_on(
    backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    await fill(20)
    retention = Retention(before="15", cursors=at(mail="20"))
    begun = asyncio.Event()
    pruning = asyncio.create_task(
        events.prune(backend_pool, retention, batch_size=2, pause=1e9, progress=lambda pruned: begun.set())
    )
    await asyncio.wait_for(begun.wait(), deadline(10))
    pruning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pruning
    assert await ids(backend, connection) == list(range(3, 21))
    assert (await events.prune(backend_pool, retention)).events == 12


async def test_several_at_once_delete_each_event_once(
    backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    await fill(200)
    retention = Retention(before="190", cursors=at(mail="200"))
    pruned = await asyncio.gather(
        *(events.prune(backend_pool, retention, batch_size=7, pause=0) for _ in range(4))
    )
    assert sum(each.events for each in pruned) == 189
    assert await ids(backend, connection) == list(range(190, 201))


@pytest.mark.every_postgres
async def test_a_pool_of_a_stricter_isolation_makes_no_difference(
    database: Database, pool: asyncpg.Pool
) -> None:
    async with pool.acquire() as connection:
        await events.create(connection)
        await events.insert_many(connection, [(1, 1)] * 200)
    retention = Retention(before="190", cursors=at(mail="200"))
    settings = {"default_transaction_isolation": "serializable"}
    async with asyncpg.create_pool(database.dsn, min_size=4, server_settings=settings) as strict:
        pruned = await asyncio.gather(
            *(events.prune(strict, retention, batch_size=7, pause=0) for _ in range(4))
        )
    assert sum(each.events for each in pruned) == 189


@pytest.mark.every_postgres
async def test_a_lost_connection_is_an_error_and_the_next_pruning_continues(
    pool: asyncpg.Pool,
) -> None:
    async with pool.acquire() as connection:
        await events.create(connection)
        await events.insert_many(connection, [(1, 1)] * 200)
    retention = Retention(before="190", cursors=at(mail="200"))
    holding = asyncio.Event()

    async def lock() -> None:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT FROM events WHERE id = 100 FOR UPDATE")
            holding.set()

            async def blocked() -> object:
                # Within a transaction it would return the same again and again.
                return await pool.fetchval(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'WITH deleted%'"
                    " AND wait_event_type = 'Lock'"
                )

            await eventually(blocked, "the pruning is killed while it waits")

    locking = asyncio.create_task(lock())
    await holding.wait()
    with pytest.raises(ConnectionLost):
        await events.prune(pool, retention, batch_size=10)
    await locking
    pruned = await events.prune(pool, retention)
    assert (pruned.first, pruned.events) == ("91", 99)


async def test_it_waits_for_who_has_locked_an_event_and_goes_on(
    backend: Backend, backend_pool: Any, connection: Any, fill: Fill
) -> None:
    await fill(20)
    await backend.fetch(connection, "BEGIN")
    await backend.fetch(connection, "SELECT id FROM events WHERE id = 12 FOR UPDATE")
    reported: list[Pruned] = []
    met = asyncio.Event()

    def report(pruned: Pruned) -> None:
        reported.append(pruned)
        if len(reported) > 2 and reported[-1] == reported[-2]:
            met.set()

    pruning = asyncio.create_task(
        events.prune(
            backend_pool, Retention(before="15", cursors=at(mail="20")), batch_size=5, progress=report
        )
    )
    await asyncio.wait_for(met.wait(), deadline(20))
    assert not pruning.done()
    await backend.fetch(connection, "COMMIT")
    assert (await pruning).events == 14


# What is wrong.


async def test_a_missing_table_is_an_error(backend_pool: Any) -> None:
    with pytest.raises(TableNotFound, match="none"):
        await EventsTable("none").prune(backend_pool, Retention(before="5", force=True))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"force": True}, ValueError, "older_than, before, or both"),
        ({"before": "5"}, ValueError, "the positions of the consumers are unknown"),
        ({"before": "5", "cursors": []}, ValueError, "the positions of the consumers are unknown"),
        ({"before": "x", "force": True}, InvalidCursor, "'x' is not a cursor"),
        ({"older_than": -1, "force": True}, ValueError, "older_than -1 is out of range"),
        ({"older_than": "30d", "force": True}, TypeError, "older_than '30d' is a str"),
        ({"older_than": float("nan"), "force": True}, ValueError, "older_than nan"),
        (
            {"before": "5", "cursors": cursors},
            TypeError,
            r"accepted is a cursor store, such as cursors_table.store",
        ),
        ({"before": "5", "cursors": [cursors]}, TypeError, "accepted is a cursor store"),
        (
            {"before": "5", "cursors": at(), "ignore": "mail"},
            TypeError,
            "ignore 'mail' is a str: accepted is a collection of names",
        ),
        ({"before": "5", "force": "yes"}, TypeError, "force 'yes' is a str"),
        ({"before": "5", "force": True, "noop_age": -1}, ValueError, "noop_age -1"),
    ],
)
async def test_an_incomplete_or_invalid_retention_is_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Retention(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [({"batch_size": 0}, ValueError), ({"batch_size": "1"}, TypeError), ({"pause": -1.0}, ValueError)],
)
async def test_a_pace_out_of_range_is_refused(
    arguments: dict[str, Any], error: type[Exception], backend_pool: Any
) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        await events.prune(backend_pool, Retention(before="5", force=True), **arguments)


class StoreOf(MemoryCursorStore):
    """A store with the given cursors, valid or not."""

    def __init__(self, **cursors: str) -> None:
        super().__init__()
        self.cursors = cursors

    async def all(self) -> dict[str, str]:
        return self.cursors
