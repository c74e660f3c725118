"""A lower id is in flight while higher ones commit: nothing above the gap comes before it has ended."""

from typing import Any

import pytest

from reflex_aio.sql import EventsTable
from reflex_aio.sql.events.mysql import gaps
from tests.fix_backends import MYSQL
from tests.gaps.interleaving import reading
from tests.gaps.mysql.interleaving import MysqlPoints, Writer, delivers_all
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("library", [*MYSQL], indirect=True)
@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
async def test_a_higher_id_waits_for_a_lower_one_in_flight(
    ending: str, events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    before = await writer.insert()
    holder = await new_writer(begin=True)
    await holder.insert()
    above = await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await reader.reached(before)
        await points.more("peek")
        assert reader.ids == [before]

        await holder.run(ending)
        await reader.reached(above)
        await delivers_all(reader, writer)


async def test_the_first_event_of_a_table_is_waited_for(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    holder = await new_writer(begin=True)
    await holder.insert()
    await writer.insert()
    for after in ("", "0"):
        async with reading(events.stream(readers, after)) as reader:
            await points.more("peek")
            assert reader.ids == []
    async with reading(events.stream(readers)) as reader:
        await holder.run("COMMIT")
        await delivers_all(reader, writer)


async def test_many_first_events_of_one_transaction_are_waited_for(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    # More ids than would be filled below the first event; and the first id has no owner.
    await writer.burn()
    holder = await new_writer(begin=True)
    await holder.run("INSERT INTO events (foreign_id, type) SELECT '1', 1 FROM seq_1_to_3000")
    await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await points.more("peek")
        assert reader.ids == []
        await holder.run("COMMIT")
        await delivers_all(reader, writer)
        assert len(reader.ids) == 3001


async def test_the_transaction_that_holds_a_gap_is_logged_after_a_while(
    events: EventsTable,
    readers: Any,
    points: MysqlPoints,
    writer: Writer,
    new_writer: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gaps, "_LOG_INTERVAL", 0.05)
    holder = await new_writer(begin=True)
    await holder.insert()
    await writer.insert()
    async with reading(events.stream(readers)) as reader:
        await eventually(lambda: "waiting for the event after 0" in caplog.text)
        assert f"(thread {await holder.thread()}, since 20" in caplog.text
        await holder.run("COMMIT")
        await delivers_all(reader, writer)


async def test_an_id_right_after_the_cursor_is_waited_for_though_the_page_behind_it_is_whole(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    cursor = await writer.insert()
    holder = await new_writer(begin=True)
    await holder.insert()
    for _ in range(3):
        await writer.insert()
    async with reading(events.stream(readers, str(cursor))) as reader:
        await points.more("peek")
        assert reader.ids == []

        await holder.run("COMMIT")
        await delivers_all(reader, writer, after=cursor)


@pytest.mark.parametrize("place", range(1, 8))
async def test_an_id_in_flight_anywhere_in_a_page_is_waited_for(
    place: int, events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    for _ in range(place - 1):
        await writer.insert()
    holder = await new_writer(begin=True)
    await holder.insert()
    for _ in range(8 - place):
        await writer.insert()
    async with reading(events.replace(page_size=3).stream(readers)) as reader:
        await points.more("peek")
        assert reader.ids == list(range(1, place))

        await holder.run("COMMIT")
        await delivers_all(reader, writer)


async def test_a_gap_held_while_others_go_on_committing_loses_none(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    async with reading(events.replace(page_size=10).stream(readers)) as reader:
        before = await writer.insert()
        await reader.reached(before)
        holder = await new_writer(begin=True)
        await holder.insert()
        for number in range(100):
            await writer.insert()
            if number % 10 == 0:
                await writer.burn()
                await points.more("look", 1)
        await points.more("peek")
        assert reader.ids == [before]

        await holder.run("COMMIT")
        await delivers_all(reader, writer)


async def test_several_gaps_end_in_any_order(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    holders = []
    for _ in range(4):
        holder = await new_writer(begin=True)
        await holder.insert()
        holders.append(holder)
        await writer.insert()
    async with reading(events.stream(readers)) as reader:
        for holder, ending in ((holders[2], "COMMIT"), (holders[1], "ROLLBACK"), (holders[3], "COMMIT")):
            await points.more("peek")
            await holder.run(ending)
            await points.more("peek")
            assert reader.ids == []
        await holders[0].run("COMMIT")
        await delivers_all(reader, writer)


async def test_a_writer_in_flight_is_refused_nothing_below_its_further_ids(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    async with reading(events.stream(readers)) as reader:
        holder = await new_writer(begin=True)
        await holder.insert()
        await writer.burn()
        await writer.insert()
        await points.more("peek", 5)
        # Behind an id in flight nothing is filled: it may be the same writer's.
        assert await writer.value("SELECT COUNT(*) FROM events WHERE type = 0") == 0
        await holder.insert()
        await holder.run("COMMIT")
        await delivers_all(reader, writer)


async def test_to_head_waits_for_gaps_below_the_head(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    holder = await new_writer(begin=True)
    await holder.insert()
    await writer.insert()
    async with reading(events.stream(readers, to_head=True)) as reader:
        await points.more("peek")
        above = await writer.insert()
        await holder.run("COMMIT")
        await reader.task
        assert reader.ids == list(range(1, above))


@pytest.mark.parametrize("left", [0, 1])
async def test_to_head_ends_though_the_newest_rows_are_deleted_meanwhile(
    left: int, events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    for _ in range(left):
        await writer.insert()
    holder = await new_writer(begin=True)
    await holder.insert()
    await writer.insert()
    async with reading(events.stream(readers, to_head=True)) as reader:
        await points.more("peek")
        await writer.run(f"DELETE FROM events WHERE id > {left + 1}")
        await holder.run("ROLLBACK")
        await reader.task
        assert len(reader.ids) == left


async def test_a_stream_that_begins_at_the_head_waits_for_gaps_above_it(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    head = await writer.insert()
    async with reading(events.stream(readers, from_head=True)) as reader:
        holder = await new_writer(begin=True)
        await holder.insert()
        await writer.insert()
        await points.more("peek")
        assert reader.ids == []

        await holder.run("COMMIT")
        await delivers_all(reader, writer, after=head)


async def test_a_stream_with_a_lag_waits_for_old_ids_in_flight(
    events: EventsTable, readers: Any, points: MysqlPoints, writer: Writer, new_writer: Any
) -> None:
    holder = await new_writer(begin=True)
    await holder.insert()
    await writer.insert()
    async with reading(events.stream(readers, lag=0.01)) as reader:
        await points.more("peek")
        assert reader.ids == []

        await holder.run("COMMIT")
        await delivers_all(reader, writer)


async def test_the_head_of_a_stream_with_a_lag_is_the_newest_event_that_old(
    events: EventsTable, readers: Any, writer: Writer
) -> None:
    old = await writer.insert()
    await writer.run("UPDATE events SET timestamp = timestamp - INTERVAL 1 HOUR")
    young = await writer.insert()
    async with reading(events.stream(readers, from_head=True, lag=600.0)) as reader:
        assert reader.stream.cursor == str(old)
    async with reading(events.stream(readers, from_head=True)) as reader:
        assert reader.stream.cursor == str(young)
