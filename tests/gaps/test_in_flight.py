"""A lower id is in flight while higher ones commit: nothing above the gap comes before it has ended."""

import asyncpg
import pytest

from reflex_aio.sql import EventsTable
from reflex_aio.sql.events.postgres import gaps
from tests.fix_databases import Connect, Database
from tests.gaps.interleaving import Points, begin, insert, reading
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.every_postgres]


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
async def test_a_higher_id_waits_for_a_lower_one_in_flight(
    ending: str,
    events: EventsTable,
    readers: asyncpg.Pool,
    points: Points,
    writer: asyncpg.Connection,
    connect: Connect,
) -> None:
    before = await insert(writer)
    holder = await begin(connect)
    await insert(holder)
    above = await insert(writer)
    async with reading(events.stream(readers)) as reader:
        await reader.reached(before)
        await points.more("scan")
        assert reader.ids == [before]

        await holder.execute(ending)
        await reader.reached(above)
        await reader.delivers_all(writer)


async def test_the_first_event_of_a_table_is_waited_for(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    for after in ("", "0"):
        async with reading(events.stream(readers, after)) as reader:
            await points.more("scan")
            assert reader.ids == []
    async with reading(events.stream(readers)) as reader:
        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_an_id_right_after_the_cursor_is_waited_for_though_the_page_behind_it_is_whole(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    cursor = await insert(writer)
    holder = await begin(connect)
    await insert(holder)
    for _ in range(3):
        await insert(writer)
    async with reading(events.stream(readers, str(cursor))) as reader:
        await points.more("scan")
        assert reader.ids == []

        await holder.execute("COMMIT")
        await reader.delivers_all(writer, after=cursor)


@pytest.mark.parametrize("place", range(1, 8))
async def test_an_id_in_flight_anywhere_in_a_page_is_waited_for(
    place: int,
    events: EventsTable,
    readers: asyncpg.Pool,
    points: Points,
    writer: asyncpg.Connection,
    connect: Connect,
) -> None:
    pages_of_three = events.replace(page_size=3)
    for _ in range(place - 1):
        await insert(writer)
    holder = await begin(connect)
    await insert(holder)
    for _ in range(8 - place):
        await insert(writer)
    async with reading(pages_of_three.stream(readers)) as reader:
        await points.more("scan")
        assert reader.ids == list(range(1, place))

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_a_gap_that_opens_under_a_running_stream_is_waited_for(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    async with reading(events.stream(readers)) as reader:
        before = await insert(writer)
        await reader.reached(before)
        holder = await begin(connect)
        await insert(holder)
        await insert(writer)
        await points.more("scan", 5)
        assert reader.ids == [before]

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_a_gap_held_while_others_go_on_committing_loses_none(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    async with reading(events.replace(page_size=10).stream(readers)) as reader:
        before = await insert(writer)
        holder = await begin(connect)
        await insert(holder)
        for _ in range(100):
            await insert(writer)
            # Many scans, with ever higher tops.
            await points.more("scan", 1)
        assert reader.ids in ([], [before])

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_several_gaps_end_in_any_order(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holders = []
    for _ in range(4):
        holder = await begin(connect)
        await insert(holder)
        holders.append(holder)
        await insert(writer)
    async with reading(events.stream(readers)) as reader:
        for holder, ending in ((holders[2], "COMMIT"), (holders[1], "ROLLBACK"), (holders[3], "COMMIT")):
            await points.more("scan")
            await holder.execute(ending)
            await points.more("scan")
            assert reader.ids == []
        await holders[0].execute("COMMIT")
        await reader.delivers_all(writer)


async def test_a_holder_that_draws_again_is_held_to_its_first_id(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    async with reading(events.stream(readers)) as reader:
        holder = await begin(connect)
        await insert(holder)
        await insert(writer)
        await points.more("scan")
        await insert(holder)
        await insert(writer)
        await points.more("scan")
        assert reader.ids == []

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_to_head_waits_for_gaps_below_the_head(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers, to_head=True)) as reader:
        await points.more("scan")
        above = await insert(writer)
        await holder.execute("COMMIT")
        await reader.task
        assert reader.ids == list(range(1, above))


async def test_a_stream_that_begins_at_the_head_waits_for_gaps_above_it(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    head = await insert(writer)
    async with reading(events.stream(readers, from_head=True)) as reader:
        holder = await begin(connect)
        await insert(holder)
        await insert(writer)
        await points.more("scan")
        assert reader.ids == []

        await holder.execute("COMMIT")
        await reader.delivers_all(writer, after=head)


async def test_a_stream_with_a_lag_waits_for_old_ids_in_flight(
    events: EventsTable, readers: asyncpg.Pool, points: Points, writer: asyncpg.Connection, connect: Connect
) -> None:
    holder = await begin(connect)
    await insert(holder)
    await insert(writer)
    async with reading(events.stream(readers, lag=0.01)) as reader:
        await points.more("scan")
        assert reader.ids == []

        await holder.execute("COMMIT")
        await reader.delivers_all(writer)


async def test_logging_of_holders_without_the_privilege_to_see_sessions_does_not_end_the_stream(
    events: EventsTable,
    database: Database,
    writer: asyncpg.Connection,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gaps, "_LOG_INTERVAL", 0.05)
    user = f"reader_{database.name}"
    await writer.execute(
        f"CREATE ROLE {user} LOGIN; GRANT SELECT ON events TO {user}; REVOKE SELECT ON pg_stat_activity FROM PUBLIC"
    )
    try:
        async with asyncpg.create_pool(database.dsn, user=user, min_size=0, max_size=5) as readers:
            holder = await begin(connect)
            await insert(holder)
            await insert(writer)
            async with reading(events.stream(readers)) as reader:
                await eventually(
                    lambda: "may have been drawn by an open transaction" in caplog.text, "logged"
                )
                await holder.execute("COMMIT")
                await reader.delivers_all(writer)
    finally:
        await writer.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")
