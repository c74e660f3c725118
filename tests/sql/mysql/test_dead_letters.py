"""The errors table on MySQL and MariaDB: rows, the events that report them, and replays."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reflex_aio.errors import ErrorNotFound, TableNotFound
from reflex_aio.event import Event
from reflex_aio.sql import ErrorsTable, ErrorStatus, EventsTable, transaction
from tests.fix_backends import MysqlBackend

pytestmark = pytest.mark.asyncio

errors = ErrorsTable()
RECORDED, RESOLVED = ErrorStatus.RECORDED, ErrorStatus.RESOLVED


def event(number: int) -> Event:
    return Event(str(number), 1, "42", 0)


async def made(mysql: MysqlBackend, **arguments: Any) -> Any:
    connection = await mysql.connect(**arguments)
    await errors.create(connection)
    return connection


async def reported(mysql: MysqlBackend) -> list[tuple[str, int, bytes | None]]:
    """Return the contents of the events: the error's id, its status, and the consumer."""
    async with mysql.pool() as pool, errors.events.stream(pool, to_head=True) as stream:
        return [(event.foreign_id, event.type, event.metadata) async for event in stream]


async def test_an_error_is_a_row_and_an_event_and_its_times_are_utc(mysql: MysqlBackend) -> None:
    connection = await made(mysql, init_command="SET time_zone = '+09:00'")
    error_id = await errors.record(
        connection, consumer="c", event=event(7), error=ValueError("100 % \u2028 'é'")
    )
    found = await errors.get(connection, error_id)
    assert (found.id, found.consumer, found.event_id) == (error_id, "c", "7")
    assert (found.message, found.status) == ("ValueError: 100 % \u2028 'é'", RECORDED)
    assert found.created_at == found.updated_at
    assert abs(datetime.now(UTC) - found.created_at) < timedelta(minutes=5)
    assert await reported(mysql) == [(error_id, RECORDED, b"c")]


async def test_a_repeated_error_is_recorded_once(mysql: MysqlBackend) -> None:
    connection = await made(mysql)
    first = await errors.record(connection, consumer="c", event=event(7), error=ValueError("one"))
    assert await errors.record(connection, consumer="c", event=event(7), error=ValueError("two")) == first
    [found] = await errors.find(connection)
    assert found.message == "ValueError: two"
    assert found.updated_at > found.created_at
    assert await reported(mysql) == [(first, RECORDED, b"c")]


async def test_a_resolved_error_that_is_repeated_is_recorded_again(mysql: MysqlBackend) -> None:
    connection = await made(mysql)
    error_id = await errors.record(connection, consumer="c", event=event(7), error=ValueError())
    assert await errors.resolve(connection, error_id)
    assert not await errors.resolve(connection, error_id)
    await errors.record(connection, consumer="c", event=event(7), error=ValueError())
    assert (await errors.get(connection, error_id)).status == RECORDED
    assert [status for _, status, _ in await reported(mysql)] == [RECORDED, RESOLVED, RECORDED]


async def test_an_error_that_is_recorded_concurrently_is_recorded_once(mysql: MysqlBackend) -> None:
    await made(mysql)
    connections = [await mysql.connect() for _ in range(8)]
    ids = await asyncio.gather(
        *(
            errors.record(connection, consumer="c", event=event(7), error=ValueError())
            for connection in connections
        )
    )
    assert len(set(ids)) == 1
    assert len(await reported(mysql)) == 1


@pytest.mark.parametrize("autocommit", [True, False])
async def test_recording_is_part_of_the_callers_transaction(mysql: MysqlBackend, autocommit: bool) -> None:
    connection = await made(mysql, autocommit=autocommit)
    if autocommit:
        await connection.begin()
    await errors.record(connection, consumer="c", event=event(7), error=ValueError())
    await connection.rollback()
    assert await errors.find(connection) == []
    assert await reported(mysql) == []


async def test_errors_are_found_by_consumer_and_status_page_by_page(mysql: MysqlBackend) -> None:
    connection = await made(mysql)
    for consumer in "a", "b":
        for number in 1, 2, 3:
            await errors.record(connection, consumer=consumer, event=event(number), error=ValueError())
    first = await errors.find(connection, consumer="b", limit=2)
    assert [(error.consumer, error.event_id) for error in first] == [("b", "1"), ("b", "2")]
    [last] = await errors.find(connection, consumer="b", after=first[-1].id)
    assert last.event_id == "3"
    await errors.mark(connection, last.id, 7)
    assert await errors.find(connection, status=7) == [await errors.get(connection, last.id)]
    assert len(await errors.find(connection, status=RECORDED)) == 5


async def test_a_replay_passes_the_event_and_resolves_its_error(mysql: MysqlBackend) -> None:
    connection = await made(mysql)
    events = EventsTable("events")
    await events.create(connection)
    failed = Event(await events.insert(connection, 42, 1), 1, "42", 0)
    error_id = await errors.record(connection, consumer="c", event=failed, error=ValueError())
    replayed: list[str] = []

    async def handle(event: Event) -> None:
        replayed.append(event.foreign_id)

    async with mysql.pool() as pool:
        assert await errors.replay(pool, error_id, source=events.source(pool), handler=handle)
    assert replayed == ["42"]
    assert (await errors.get(connection, error_id)).status == RESOLVED


async def test_an_error_marked_during_a_replay_keeps_its_mark(mysql: MysqlBackend) -> None:
    connection = await made(mysql)
    events = EventsTable("events")
    await events.create(connection)
    failed = Event(await events.insert(connection, 42, 1), 1, "42", 0)
    error_id = await errors.record(connection, consumer="c", event=failed, error=ValueError())

    async def handle(event: Event) -> None:
        await errors.mark(connection, error_id, 7)

    async with mysql.pool() as pool:
        assert not await errors.replay(pool, error_id, source=events.source(pool), handler=handle)
    assert (await errors.get(connection, error_id)).status == 7


async def test_missing_tables_errors_and_events_are_named(mysql: MysqlBackend) -> None:
    connection = await mysql.connect()
    with pytest.raises(TableNotFound, match="consumer_errors"):
        await errors.find(connection)
    await errors.create(connection)
    with pytest.raises(ErrorNotFound):
        await errors.get(connection, "9")
    await errors.validate(connection)


class Told:
    """A notifier that counts the calls of ``notify``."""

    def __init__(self) -> None:
        self.times = 0

    def notify(self, table: str) -> None:
        self.times += 1

    def subscribe(self, table: str, wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


async def test_errors_wake_the_streams_of_their_events_once_they_are_committed(mysql: MysqlBackend) -> None:
    woken = Told()
    telling = ErrorsTable(events=EventsTable("consumer_errors_events", metadata=True, notifier=woken))
    recording = await made(mysql)

    async def record(number: int) -> str:
        return await telling.record(recording, consumer="c", event=event(number), error=ValueError())

    error_id = await record(1)
    assert woken.times == 1
    await telling.resolve(recording, error_id)
    assert woken.times == 2
    async with transaction(recording):
        await record(2)
        await record(3)
        assert woken.times == 2
    assert woken.times == 3
    # The client library does not report the end of the caller's own transaction.
    await recording.begin()
    await record(4)
    await recording.commit()
    assert woken.times == 3
