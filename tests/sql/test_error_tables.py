"""Errors tables on every database: the order of ids, tables that services in Go share, and rows as those write them."""

from typing import Any

import pytest

from reflex_aio import Event
from reflex_aio.errors import SchemaError
from reflex_aio.sql import ErrorsTable, ErrorStatus, EventsTable
from tests.docs.documents import CHECKOUT, blocks
from tests.fix_backends import Backend

pytestmark = pytest.mark.asyncio

errors = ErrorsTable()
RECORDED, RESOLVED = ErrorStatus.RECORDED, ErrorStatus.RESOLVED

# The default columns of luno/reflex, with types that services in Go use for them.
GO_TABLE = {
    "postgres": (
        "CREATE TABLE consumer_errors (id bigserial PRIMARY KEY, consumer varchar(255) NOT NULL,"
        " event_id {} NOT NULL, error_msg text NOT NULL, created_at timestamptz NOT NULL,"
        " updated_at timestamptz NOT NULL, error_status smallint NOT NULL, UNIQUE (consumer, event_id))"
    ),
    "mysql": (
        "CREATE TABLE consumer_errors (id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY, consumer varchar(255) NOT NULL,"
        " event_id {} NOT NULL, error_msg text NOT NULL, created_at datetime(3) NOT NULL,"
        " updated_at datetime(3) NOT NULL, error_status tinyint NOT NULL, UNIQUE (consumer, event_id))"
    ),
}
# What luno/reflex does with a dead letter, once with its arguments in order and once as its consumer passes them.
GO_INSERT = (
    "INSERT INTO consumer_errors (consumer, event_id, error_msg, created_at, updated_at, error_status)"
    " VALUES ('{}', '{}', 'broken', '2024-02-29 12:00:00', '2024-02-29 12:00:00', 1)"
)


def event(number: int | str) -> Event:
    return Event(str(number), 1, "42", 0)


async def made(backend: Backend) -> Any:
    connection = await backend.connect()
    await errors.create(connection)
    return connection


async def shared(backend: Backend, event_id: str) -> Any:
    """Return a connection to a database with a table whose event ids have this type."""
    connection = await backend.connect()
    await backend.fetch(connection, GO_TABLE[backend.dialect].format(event_id))
    await errors.events.create(connection)
    return connection


# The order of ids.


async def test_errors_are_in_the_order_of_their_numbers_and_pages_lose_none(backend: Backend) -> None:
    connection = await made(backend)
    ids = []
    for number in range(1, 24):
        ids.append(
            await errors.record(
                connection, consumer=f"c{number % 2}", event=event(number), error=ValueError()
            )
        )
        # Ids of 1 to 3 digits, so that the order of texts is another one.
        if number in (4, 12):
            await skip_ids(backend, connection, 10 ** (2 if number == 12 else 1) - 1)
    assert ids == sorted(ids, key=int)
    assert {len(each) for each in ids} == {1, 2, 3}
    assert [each.id for each in await errors.find(connection)] == ids
    for wanted, options in (
        (ids, {}),
        (ids[1::2], {"consumer": "c0"}),
        (ids, {"status": RECORDED}),
    ):
        paged: list[str] = []
        while page := await errors.find(connection, limit=4, after=paged[-1] if paged else "", **options):
            paged += [each.id for each in page]
        assert paged == wanted


async def skip_ids(backend: Backend, connection: Any, last: int) -> None:
    """Let the errors table go on with the id after ``last``."""
    if backend.dialect == "postgres":
        statement = f"ALTER TABLE consumer_errors ALTER COLUMN id RESTART WITH {last + 1}"
    else:
        statement = f"ALTER TABLE consumer_errors AUTO_INCREMENT = {last + 1}"
    await backend.fetch(connection, statement)


# Tables that services in Go share.


@pytest.mark.parametrize("event_id", ["bigint", "integer", "varchar(255)"])
async def test_the_column_of_event_ids_may_hold_numbers(backend: Backend, event_id: str) -> None:
    connection = await shared(backend, event_id)
    await errors.validate(connection)
    first = await errors.record(connection, consumer="c", event=event(7), error=ValueError("one"))
    other = await errors.record(connection, consumer="d", event=event(7), error=ValueError("two"))
    assert await errors.record(connection, consumer="c", event=event(7), error=ValueError("three")) == first
    found = await errors.find(connection)
    assert [(each.id, each.event_id, each.message) for each in found] == [
        (first, "7", "ValueError: three"),
        (other, "7", "ValueError: two"),
    ]
    assert await errors.resolve(connection, first)
    await errors.record(connection, consumer="c", event=event(7), error=ValueError("four"))
    assert (await errors.get(connection, first)).status == RECORDED


async def test_numbers_that_a_double_cannot_tell_apart_are_different_events(backend: Backend) -> None:
    connection = await shared(backend, "bigint")
    near = [2**62 - 1, 2**62, 2**62 + 1]
    for number in near:
        await errors.record(connection, consumer="c", event=event(number), error=ValueError(number))
    await errors.record(connection, consumer="c", event=event(2**62), error=ValueError("again"))
    assert [(int(each.event_id), each.message) for each in await errors.find(connection)] == [
        (2**62 - 1, f"ValueError: {2**62 - 1}"),
        (2**62, "ValueError: again"),
        (2**62 + 1, f"ValueError: {2**62 + 1}"),
    ]


async def test_an_event_id_that_the_column_cannot_hold_is_an_error(backend: Backend) -> None:
    connection = await shared(backend, "bigint")
    with pytest.raises((SchemaError, backend.library_error), match="abc"):
        await errors.record(connection, consumer="c", event=event("abc"), error=ValueError())
    assert await errors.find(connection) == []


async def test_a_replay_finds_the_event_of_a_number(backend: Backend, backend_pool: Any) -> None:
    connection, events, replayed = await shared(backend, "bigint"), EventsTable("events"), []
    await events.create(connection)
    number = await events.insert(connection, 42, 1)
    error_id = await errors.record(connection, consumer="c", event=event(number), error=ValueError())

    async def handle(event: Event) -> None:
        replayed.append(event.foreign_id)

    assert await errors.replay(backend_pool, error_id, source=events.source(backend_pool), handler=handle)
    assert replayed == ["42"]


@pytest.mark.parametrize("hours", [-5, 9])
async def test_times_without_a_zone_are_utc_in_every_session(mysql: Any, hours: int) -> None:
    writer, reader = await shared(mysql, "bigint"), await mysql.connect()
    await mysql.fetch(writer, mysql.set_time_zone.format(hours))
    now = await mysql.value(writer, mysql.now)
    error_id = await errors.record(writer, consumer="c", event=event(7), error=ValueError())
    for connection in writer, reader:
        found = await errors.get(connection, error_id)
        assert abs(found.created_at.timestamp() - float(now)) < 60
        assert found.updated_at == found.created_at
    await mysql.fetch(reader, GO_INSERT.format("d", 8))
    for connection in writer, reader:
        assert (await errors.find(connection, consumer="d"))[
            0
        ].created_at.isoformat() == "2024-02-29T12:00:00+00:00"


# Rows as luno/reflex writes them.


async def test_a_row_whose_consumer_and_event_are_swapped_is_recognized_and_found_by_its_consumer(
    backend: Backend, backend_pool: Any
) -> None:
    connection = await shared(backend, "varchar(255)")
    for consumer, event_id in (("mail", "7"), ("8", "mail"), ("9", "search")):
        await backend.fetch(connection, GO_INSERT.format(consumer, event_id))
    assert [each.swapped for each in await errors.find(connection)] == [False, True, True]
    found = await errors.find(connection, consumer="mail")
    assert [(each.consumer, each.event_id) for each in found] == [("mail", "7"), ("8", "mail")]
    # An event id is no name of a consumer.
    assert await errors.find(connection, consumer="7") == []

    async def handle(event: Event) -> None:
        raise AssertionError

    source = EventsTable("events").source(backend_pool)
    with pytest.raises(ValueError, match=r"error 2 are swapped: '8' .*'mail'"):
        await errors.replay(backend_pool, "2", source=source, handler=handle)
    assert await errors.resolve(connection, "2")


async def test_swapped_columns_are_corrected_by_the_documented_statement(mysql: Any) -> None:
    connection = await shared(mysql, "varchar(255)")
    for consumer, event_id in (("mail", "7"), ("8", "mail")):
        await mysql.fetch(connection, GO_INSERT.format(consumer, event_id))
    [statement] = blocks(CHECKOUT / "docs/dead_letters.md", "mysql")
    await mysql.fetch(connection, statement.code)
    found = await errors.find(connection)
    assert [(each.consumer, each.event_id) for each in found] == [("mail", "7"), ("mail", "8")]


async def test_ids_that_are_no_numbers_are_not_swapped(backend: Backend) -> None:
    connection = await made(backend)
    await errors.record(connection, consumer="mail", event=event("2024-02-29"), error=ValueError())
    [found] = await errors.find(connection, consumer="mail")
    assert not found.swapped
