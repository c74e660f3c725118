"""The errors table: rows, the events that report them, and replays."""

import asyncio
import inspect
from typing import Any

import asyncpg
import pytest

from reflex_aio.consumer import Consumer
from reflex_aio.errors import (
    ConnectionLost,
    DatabaseError,
    ErrorNotFound,
    EventNotFound,
    InvalidCursor,
    SchemaError,
    TableNotFound,
)
from reflex_aio.event import Event
from reflex_aio.hooks import Hooks
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.patterns import DeadLetterConsumer
from reflex_aio.running.run import run
from reflex_aio.spec import Spec
from reflex_aio.sql import CursorsTable, ErrorColumns, ErrorsTable, ErrorStatus, EventsTable
from tests.fix_databases import Connect
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio

errors = ErrorsTable()
user_events = EventsTable("user_events")
cursors = CursorsTable("cursors")

RECORDED, RESOLVED = ErrorStatus.RECORDED, ErrorStatus.RESOLVED


def event(number: int | str = 7) -> Event:
    return Event(str(number), 1, "42", 0)


async def made(connect: Connect, table: ErrorsTable = errors) -> asyncpg.Connection:
    """Return a connection to a database with the tables."""
    connection = await connect()
    await table.create(connection)
    return connection


async def reported(pool: asyncpg.Pool, table: ErrorsTable = errors) -> list[tuple[str, int, bytes | None]]:
    """Return the contents of the events: the error's id, its status, and the consumer."""
    async with table.events.stream(pool, to_head=True) as stream:
        return [(event.foreign_id, event.type, event.metadata) async for event in stream]


class Counted(Hooks):
    def __init__(self) -> None:
        self.recorded: list[tuple[str, str, str]] = []

    def event_dead_lettered(self, consumer: str, event: Event, error: BaseException) -> None:
        self.recorded.append((consumer, event.id, str(error)))


# Recording.


@pytest.mark.every_postgres
async def test_an_error_is_a_row_and_an_event(connect: Connect, pool: asyncpg.Pool) -> None:
    connection = await made(connect)
    error_id = await errors.record(connection, consumer="c", event=event(7), error=ValueError("no such user"))
    found = await errors.get(connection, error_id)
    assert (found.id, found.consumer, found.event_id) == (error_id, "c", "7")
    assert (found.message, found.status) == ("ValueError: no such user", RECORDED)
    assert found.created_at == found.updated_at
    assert found.created_at.utcoffset() is not None
    assert await reported(pool) == [(error_id, RECORDED, b"c")]


@pytest.mark.every_postgres
async def test_a_repeated_error_is_recorded_once(connect: Connect, pool: asyncpg.Pool) -> None:
    connection = await made(connect)
    first = await errors.record(connection, consumer="c", event=event(), error=ValueError("one"))
    assert await errors.record(connection, consumer="c", event=event(), error=ValueError("two")) == first
    [found] = await errors.find(connection)
    assert found.message == "ValueError: two"
    assert found.updated_at > found.created_at
    assert await reported(pool) == [(first, RECORDED, b"c")]


async def test_each_consumer_has_its_error_on_an_event(connect: Connect, pool: asyncpg.Pool) -> None:
    connection = await made(connect)
    for consumer in ("a", "b"):
        for number in (1, 2):
            await errors.record(connection, consumer=consumer, event=event(number), error=ValueError())
    assert [(e.consumer, e.event_id) for e in await errors.find(connection)] == [
        ("a", "1"),
        ("a", "2"),
        ("b", "1"),
        ("b", "2"),
    ]
    assert len(await reported(pool)) == 4


@pytest.mark.every_postgres
async def test_a_resolved_error_that_is_repeated_is_recorded_again(
    connect: Connect, pool: asyncpg.Pool
) -> None:
    connection = await made(connect)
    error_id = await errors.record(connection, consumer="c", event=event(), error=ValueError("one"))
    await errors.resolve(connection, error_id)
    assert await errors.record(connection, consumer="c", event=event(), error=ValueError("two")) == error_id
    found = await errors.get(connection, error_id)
    assert (found.status, found.message) == (RECORDED, "ValueError: two")
    assert [status for _, status, _ in await reported(pool)] == [RECORDED, RESOLVED, RECORDED]


async def test_an_applications_own_status_survives_a_repetition(connect: Connect) -> None:
    connection = await made(connect)
    error_id = await errors.record(connection, consumer="c", event=event(), error=ValueError())
    await errors.mark(connection, error_id, 3)
    await errors.record(connection, consumer="c", event=event(), error=ValueError())
    assert (await errors.get(connection, error_id)).status == 3


@pytest.mark.every_postgres
async def test_an_error_that_is_recorded_concurrently_is_recorded_once(
    connect: Connect, pool: asyncpg.Pool
) -> None:
    await made(connect)
    recorder = errors.recorder(pool)
    await asyncio.gather(
        *(recorder.record(consumer="c", event=event(), error=ValueError(str(i))) for i in range(15))
    )
    assert len(await reported(pool)) == 1
    async with pool.acquire() as connection:
        assert len(await errors.find(connection)) == 1


async def test_recording_is_part_of_the_callers_transaction(connect: Connect, pool: asyncpg.Pool) -> None:
    connection = await made(connect)
    transaction = connection.transaction()
    await transaction.start()
    await errors.record(connection, consumer="c", event=event(), error=ValueError())
    await transaction.rollback()
    assert await errors.find(connection) == []
    assert await reported(pool) == []


@pytest.mark.parametrize("in_transaction", [False, True])
async def test_without_its_event_no_row_is_written(connect: Connect, in_transaction: bool) -> None:
    connection = await made(connect)
    await connection.execute("ALTER TABLE consumer_errors_events ADD CHECK (type <> 1)")
    transaction = connection.transaction()
    if in_transaction:
        await transaction.start()
    with pytest.raises(asyncpg.CheckViolationError):
        await errors.record(connection, consumer="c", event=event(), error=ValueError())
    if in_transaction:
        # Only a savepoint was rolled back: the caller's transaction continues.
        await transaction.commit()
    assert await errors.find(connection) == []


async def test_consumer_event_and_error_are_keyword_only(pool: asyncpg.Pool) -> None:
    for method in (errors.record, errors.recorder(pool).record):
        kinds = {name: p.kind for name, p in inspect.signature(method).parameters.items()}
        for name in ("consumer", "event", "error"):
            assert kinds[name] is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"consumer": ""}, ValueError, "consumer name"),
        ({"consumer": "a\0"}, ValueError, "consumer name"),
        ({"consumer": event()}, TypeError, "consumer name"),
        ({"event": "7"}, TypeError, "accepted is an Event"),
        ({"error": "no"}, TypeError, "accepted is an exception"),
    ],
)
async def test_values_that_cannot_be_recorded_are_refused(
    connect: Connect, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    connection = await made(connect)
    good: dict[str, Any] = {"consumer": "c", "event": event(), "error": ValueError()}
    with pytest.raises(error, match=message):
        await errors.record(connection, **{**good, **arguments})
    assert await errors.find(connection) == []


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError(), "ValueError"),
        (ValueError("a\0b"), "ValueError: a\\0b"),
        (ValueError("\udc80"), "ValueError: \\udc80"),
        (ValueError("'; DROP TABLE consumer_errors; --"), "ValueError: '; DROP TABLE consumer_errors; --"),
        (ValueError("x" * 1_000_000), "ValueError: " + "x" * 9_988),
    ],
    ids=["empty", "nul", "surrogate", "sql", "long"],
)
async def test_every_exceptions_text_can_be_recorded(
    connect: Connect, error: Exception, message: str
) -> None:
    connection = await made(connect)
    error_id = await errors.record(connection, consumer="c", event=event(), error=error)
    assert (await errors.get(connection, error_id)).message == message


async def test_an_exception_without_a_text_is_recorded_by_its_class(connect: Connect) -> None:
    connection = await made(connect)
    error_id = await errors.record(connection, consumer="c", event=event(), error=Speechless())
    assert "Speechless: <exception str() failed>" in (await errors.get(connection, error_id)).message


async def test_hooks_are_called_for_recorded_errors(connect: Connect) -> None:
    hooks = Counted()
    table = ErrorsTable(hooks=hooks)
    connection = await made(connect, table)
    await table.record(connection, consumer="c", event=event(7), error=ValueError("x"))
    await connection.execute("ALTER TABLE consumer_errors ADD CHECK (consumer <> 'd')")
    with pytest.raises(asyncpg.CheckViolationError):
        await table.record(connection, consumer="d", event=event(7), error=ValueError("x"))
    assert hooks.recorded == [("c", "7", "x")]


async def test_a_dead_letter_consumer_records_here_and_its_handler_is_replayed(
    connect: Connect, pool: asyncpg.Pool
) -> None:
    connection = await made(connect)
    await user_events.create(connection)
    await user_events.insert_many(connection, [(1, 1), (2, 1)])
    broken = True

    async def handle(event: Event) -> None:
        if broken and event.id == "1":
            raise ValueError("bad luck")

    source, store = user_events.source(pool), MemoryCursorStore()
    consumer = DeadLetterConsumer("c", handle, errors.recorder(pool), retries=0)
    await run(Spec(source, store, consumer, to_head=True))
    assert await store.get("c") == "2"
    [found] = await errors.find(connection)
    assert (found.consumer, found.event_id, found.message) == ("c", "1", "ValueError: bad luck")
    broken = False
    assert await errors.replay(pool, found.id, source=source, handler=consumer.handler)
    assert (await errors.get(connection, found.id)).status == RESOLVED


async def test_a_recorder_raises_our_errors(connect: Connect, pool: asyncpg.Pool) -> None:
    recorder = errors.recorder(pool)
    with pytest.raises(TableNotFound, match="consumer_errors: the table does not exist"):
        await recorder.record(consumer="c", event=event(), error=ValueError())
    connection = await made(connect)
    await connection.execute("ALTER TABLE consumer_errors ADD CHECK (consumer <> 'c')")
    with pytest.raises(DatabaseError) as raised:
        await recorder.record(consumer="c", event=event(), error=ValueError())
    assert raised.value.sqlstate == "23514"


async def test_a_recorder_without_a_server_raises_connection_lost() -> None:
    async with asyncpg.create_pool(host="127.0.0.1", port=1, min_size=0) as nowhere:
        with pytest.raises(ConnectionLost, match="consumer_errors: the database can't be reached"):
            await errors.recorder(nowhere).record(consumer="c", event=event(), error=ValueError())


# Finding.


@pytest.mark.every_postgres
async def test_errors_are_found_by_consumer_and_status(connect: Connect) -> None:
    connection = await made(connect)
    ids = [
        await errors.record(connection, consumer=consumer, event=event(i), error=ValueError())
        for i, consumer in enumerate("aabb")
    ]
    await errors.resolve(connection, ids[1])
    await errors.resolve(connection, ids[2])

    async def found(**by: Any) -> list[str]:
        return [error.id for error in await errors.find(connection, **by)]

    assert await found() == ids
    assert await found(consumer="a") == ids[:2]
    assert await found(status=RESOLVED) == ids[1:3]
    assert await found(consumer="b", status=RECORDED) == ids[3:]
    assert await found(consumer="c") == []
    assert await found(limit=3) == ids[:3]
    assert await found(after=ids[1], limit=1) == ids[2:3]


async def test_invalid_arguments_of_find_are_refused(connect: Connect) -> None:
    connection = await made(connect)
    with pytest.raises(ValueError, match="limit 0 is out of range"):
        await errors.find(connection, limit=0)
    with pytest.raises(ValueError, match="consumer name ''"):
        await errors.find(connection, consumer="")
    with pytest.raises(TypeError, match="event type 'new'"):
        await errors.find(connection, status="new")  # type: ignore[arg-type]
    for error_id in ("x", "", "-1", str(2**63)):
        with pytest.raises(ValueError, match=r"error id .* is not accepted"):
            await errors.get(connection, error_id)
    with pytest.raises(TypeError, match="accepted is a str"):
        await errors.get(connection, 7)  # type: ignore[arg-type]


async def test_an_error_that_is_not_there_is_not_found(connect: Connect, pool: asyncpg.Pool) -> None:
    connection = await made(connect)
    for call in (
        errors.get(connection, "9"),
        errors.resolve(connection, "9"),
        errors.replay(pool, "9", source=user_events.source(pool), handler=fail),
    ):
        with pytest.raises(ErrorNotFound, match="consumer_errors: there is no error 9"):
            await call


# Marking.


@pytest.mark.every_postgres
async def test_a_mark_is_a_status_and_an_event(connect: Connect, pool: asyncpg.Pool) -> None:
    connection = await made(connect)
    error_id = await errors.record(connection, consumer="c", event=event(), error=ValueError())
    assert await errors.mark(connection, error_id, 17)
    assert await errors.resolve(connection, f"00{error_id}")
    found = await errors.get(connection, error_id)
    assert found.status == RESOLVED
    assert found.updated_at > found.created_at
    assert await reported(pool) == [(error_id, status, b"c") for status in (RECORDED, 17, RESOLVED)]


async def test_a_status_that_an_error_already_has_is_not_reported_again(
    connect: Connect, pool: asyncpg.Pool
) -> None:
    connection = await made(connect)
    error_id = await errors.record(connection, consumer="c", event=event(), error=ValueError())
    assert await errors.resolve(connection, error_id)
    assert not await errors.resolve(connection, error_id)
    assert len(await reported(pool)) == 2


@pytest.mark.parametrize("status", [0, -1, 2**31])
async def test_a_status_is_a_number_from_1(connect: Connect, status: int) -> None:
    connection = await made(connect)
    with pytest.raises(ValueError, match="out of range"):
        await errors.mark(connection, "1", status)


# Replaying.


async def fail(event: Event) -> None:
    raise ValueError(f"event {event.id}")


async def failed(connect: Connect, pool: asyncpg.Pool) -> tuple[asyncpg.Connection, str]:
    """Run a consumer that continues after errors on events 2 and 3 of four; return the id of the error on event 2."""
    connection = await made(connect)
    await user_events.create(connection)
    await cursors.create(connection)
    await user_events.insert_many(connection, [(i, 1) for i in range(11, 15)])
    recorder = errors.recorder(pool)

    async def handle(event: Event) -> None:
        if event.id in "23":
            raise ValueError("bad luck")

    async def record(event: Event, error: Exception) -> None:
        await recorder.record(consumer="c", event=event, error=error)

    consumer = Consumer("c", handle, recover=record)
    await run(Spec(user_events.source(pool), cursors.store(pool), consumer, to_head=True))
    return connection, (await errors.find(connection))[0].id


@pytest.mark.every_postgres
async def test_a_replay_passes_only_the_event_and_resolves_its_error(
    connect: Connect, pool: asyncpg.Pool
) -> None:
    connection, error_id = await failed(connect, pool)
    handled = []

    async def handle(event: Event) -> None:
        handled.append((event.id, event.foreign_id))

    assert await errors.replay(pool, error_id, source=user_events.source(pool), handler=handle)
    assert handled == [("2", "12")]
    assert [e.status for e in await errors.find(connection)] == [RESOLVED, RECORDED]
    assert (await reported(pool))[2:] == [(error_id, RESOLVED, b"c")]


@pytest.mark.every_postgres
async def test_a_replay_that_fails_raises_and_updates_the_message(
    connect: Connect, pool: asyncpg.Pool
) -> None:
    connection, error_id = await failed(connect, pool)
    with pytest.raises(ValueError, match="event 2"):
        await errors.replay(pool, error_id, source=user_events.source(pool), handler=fail)
    found = await errors.get(connection, error_id)
    assert (found.status, found.message) == (RECORDED, "ValueError: event 2")
    assert len(await reported(pool)) == 2


@pytest.mark.parametrize("succeeds", [False, True])
async def test_a_replay_leaves_the_cursor_where_it_is(
    connect: Connect, pool: asyncpg.Pool, succeeds: bool
) -> None:
    connection, error_id = await failed(connect, pool)

    async def handle(event: Event) -> None:
        if not succeeds:
            raise ValueError

    try:
        await errors.replay(pool, error_id, source=user_events.source(pool), handler=handle)
    except ValueError:
        pass
    assert await cursors.all(connection) == {"c": "4"}


async def test_an_error_that_the_handler_records_itself_is_not_resolved(
    connect: Connect, pool: asyncpg.Pool
) -> None:
    connection, error_id = await failed(connect, pool)
    recorder = errors.recorder(pool)

    async def handle(event: Event) -> None:
        await recorder.record(consumer="c", event=event, error=ValueError("again"))

    assert not await errors.replay(pool, error_id, source=user_events.source(pool), handler=handle)
    found = await errors.get(connection, error_id)
    assert (found.status, found.message) == (RECORDED, "ValueError: again")


async def test_a_replay_that_is_cancelled_changes_nothing(connect: Connect, pool: asyncpg.Pool) -> None:
    connection, error_id = await failed(connect, pool)
    before = await errors.get(connection, error_id)
    called = asyncio.Event()

    async def handle(event: Event) -> None:
        called.set()
        await asyncio.Event().wait()

    replay = asyncio.create_task(
        errors.replay(pool, error_id, source=user_events.source(pool), handler=handle)
    )
    await called.wait()
    replay.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replay
    assert await errors.get(connection, error_id) == before


async def test_a_replay_of_a_deleted_event_raises_event_not_found(
    connect: Connect, pool: asyncpg.Pool
) -> None:
    connection, error_id = await failed(connect, pool)
    await connection.execute("DELETE FROM user_events WHERE id = 2")
    with pytest.raises(EventNotFound, match="source of user_events>: there is no event 2"):
        await errors.replay(pool, error_id, source=user_events.source(pool), handler=fail)
    await connection.execute("DELETE FROM user_events")
    with pytest.raises(EventNotFound):
        await errors.replay(pool, error_id, source=user_events.source(pool), handler=fail)
    assert (await errors.get(connection, error_id)).message == "ValueError: bad luck"


async def test_a_replay_needs_a_source_a_handler_and_an_integer(connect: Connect, pool: asyncpg.Pool) -> None:
    connection = await made(connect)
    error_id = await errors.record(connection, consumer="c", event=event("2024/x"), error=ValueError())
    source: Any = user_events.source(pool)
    with pytest.raises(InvalidCursor):
        await errors.replay(pool, error_id, source=source, handler=fail)
    consumer: Any = Consumer("c", fail)
    with pytest.raises(
        TypeError, match=r"handler Consumer\('c'\) is a Consumer: accepted is an async function"
    ):
        await errors.replay(pool, error_id, source=source, handler=consumer)
    wrong: Any = user_events
    with pytest.raises(TypeError, match="accepted is a Source"):
        await errors.replay(pool, error_id, source=wrong, handler=fail)
    with pytest.raises(TypeError, match="is a connection: pass a pool"):
        await errors.replay(connection, error_id, source=source, handler=fail)


# Streaming.


async def test_errors_wake_the_streams_of_their_events(connect: Connect, pool: asyncpg.Pool) -> None:
    table = errors.replace(events=EventsTable("consumer_errors_events", metadata=True, poll_period=30.0))
    await made(connect, table)
    async with table.events.stream(pool) as stream, asyncio.timeout(deadline(10)):
        waiting = asyncio.create_task(stream.read_page())
        await table.recorder(pool).record(consumer="c", event=event(), error=ValueError())
        assert [event.metadata for event in await waiting] == [b"c"]


# The tables.


@pytest.mark.every_postgres
async def test_a_table_may_have_names_of_its_own(connect: Connect, pool: asyncpg.Pool) -> None:
    connection = await connect()
    await connection.execute("CREATE SCHEMA app")
    columns = ErrorColumns("ID", "who", "event", "what", "since", "at-last", "how")
    table = ErrorsTable("app.Failed-Events", columns=columns)
    await table.create(connection)
    await table.create(connection)
    await table.validate(connection)
    error_id = await table.record(connection, consumer="c", event=event(), error=ValueError())
    await table.record(connection, consumer="c", event=event(), error=ValueError())
    await table.resolve(connection, error_id)
    assert [e.status for e in await table.find(connection)] == [RESOLVED]
    assert table.events.name == "app.Failed-Events_events"
    assert len(await reported(pool, table)) == 2


async def test_the_ddl_makes_the_tables_that_create_makes(connect: Connect) -> None:
    connection = await connect()
    await connection.execute(errors.ddl())
    await errors.create(connection)
    await errors.validate(connection)


async def test_errors_may_have_no_events(connect: Connect) -> None:
    table = ErrorsTable(events=False)
    connection = await made(connect, table)
    await table.validate(connection)
    error_id = await table.record(connection, consumer="c", event=event(), error=ValueError())
    assert await table.resolve(connection, error_id)
    assert await connection.fetchval("SELECT to_regclass('consumer_errors_events')") is None
    with pytest.raises(ValueError, match="events=False"):
        _ = table.events


async def test_a_table_without_its_unique_index_is_refused(connect: Connect) -> None:
    connection = await made(connect)
    await connection.execute(
        "ALTER TABLE consumer_errors DROP CONSTRAINT consumer_errors_consumer_event_id_key"
    )
    with pytest.raises(SchemaError, match=r'no unique index on \("consumer", "event_id"\)'):
        await errors.validate(connection)
    await connection.execute(
        "CREATE UNIQUE INDEX ON consumer_errors (event_id, consumer) INCLUDE (error_msg)"
    )
    await errors.validate(connection)
    await errors.record(connection, consumer="c", event=event(), error=ValueError())


async def test_validate_checks_the_events_table_too(connect: Connect) -> None:
    connection = await made(connect)
    await connection.execute("ALTER TABLE consumer_errors_events DROP COLUMN metadata")
    with pytest.raises(SchemaError, match='consumer_errors_events: column "metadata" is missing'):
        await errors.validate(connection)


async def test_a_trigger_that_keeps_errors_from_being_stored_is_an_error(connect: Connect) -> None:
    connection = await made(connect)
    await connection.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER no BEFORE INSERT ON consumer_errors FOR EACH ROW EXECUTE FUNCTION no()"
    )
    with pytest.raises(DatabaseError, match="is there a trigger or a policy on the table"):
        await errors.record(connection, consumer="c", event=event(), error=ValueError())


async def test_a_missing_table_is_named(connect: Connect) -> None:
    connection = await connect()
    for call in (
        errors.record(connection, consumer="c", event=event(), error=ValueError()),
        errors.get(connection, "1"),
        errors.find(connection),
        errors.resolve(connection, "1"),
        errors.validate(connection),
    ):
        with pytest.raises(TableNotFound, match="consumer_errors: the table does not exist"):
            await call


async def test_an_object_that_is_not_a_connection_is_refused(connect: Connect, pool: asyncpg.Pool) -> None:
    for call in (
        errors.record(pool, consumer="c", event=event(), error=ValueError()),
        errors.get(pool, "1"),
        errors.find(pool),
        errors.mark(pool, "1", 2),
        errors.create(pool),
    ):
        with pytest.raises(TypeError, match="is a pool: pass a connection"):
            await call
    with pytest.raises(TypeError, match="is a connection: pass a pool"):
        errors.recorder(await connect())


async def test_settings_that_could_not_work_are_refused() -> None:
    with pytest.raises(ValueError, match="has no column for metadata"):
        ErrorsTable(events=EventsTable("e"))
    with pytest.raises(TypeError, match="accepted is an EventsTable or a bool"):
        ErrorsTable(events="e")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="accepted is an ErrorColumns"):
        ErrorsTable(columns=["id"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="accepted"):
        ErrorsTable('err"ors')


async def test_a_replaced_table_keeps_everything_else() -> None:
    columns = ErrorColumns(error_msg="what")
    table = ErrorsTable("a", columns=columns, hooks=Counted()).replace(name="b")
    assert (table.name, table.columns, table.events.name) == ("b", columns, "b_events")
    assert repr(table) == "ErrorsTable('b')"
    with pytest.raises(TypeError, match="colums"):
        table.replace(colums=columns)
