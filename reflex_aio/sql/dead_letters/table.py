"""The errors table: events that consumers failed on, to be looked at, marked and replayed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from traceback import format_exception_only
from typing import Any

from reflex_aio.checks import check_text
from reflex_aio.consumer import Handler
from reflex_aio.errors import DatabaseError, ErrorNotFound, EventNotFound, InvalidCursor
from reflex_aio.event import Event, check_type
from reflex_aio.hooks import Hooks, installed
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.sql.dead_letters.dialect import ErrorsDialect
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection, driver_of_pool
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.table import EventsTable
from reflex_aio.sql.schema.names import ErrorColumns, ErrorsSchema, Name
from reflex_aio.sql.schema.table import Table
from reflex_aio.sql.wakeups.after_commit import within
from reflex_aio.stream import Source

__all__ = ["ConsumerError", "ErrorStatus", "ErrorsTable", "TableErrorRecorder"]

# An error's text may hold a whole response of some server.
_LONGEST_MESSAGE = 10_000


class ErrorStatus(IntEnum):
    """What has become of an error: statuses of rows, and types of the events that tell of them.

    Numbers from 3 are free for statuses of your own; luno/reflex knows 1 alone.
    """

    RECORDED = 1
    RESOLVED = 2


@dataclass(frozen=True, slots=True)
class ConsumerError:
    """A row of an errors table: what a consumer met on an event."""

    id: str
    consumer: str
    event_id: str
    message: str
    status: int
    """An :class:`ErrorStatus`, or a number of your own."""
    created_at: datetime
    updated_at: datetime
    """When its message or status was last set."""


class ErrorsTable(Table[ErrorsSchema]):
    """A table with a row for each event that a consumer failed on, and a table of events that tell of these rows.

    There is one row for a consumer and an event, however often it fails. The events have the row's id as foreign id,
    the new status as type, and the consumer's name as metadata.

    The methods run on a connection of the caller's, in its transaction if there is one; row and event are always
    written together. What the client library raises there passes through, but for missing tables and columns.

    :param name: ``table`` or ``schema.table``; case counts
    :param columns: what its columns are called
    :param events: the table of its events, which has metadata; by default one of this name and ``_events``, and
        ``False`` for none
    :param hooks: told what happens; by default those installed for the process
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if a name isn't accepted, or ``events`` has no column for metadata
    """

    def __init__(
        self,
        name: str = "consumer_errors",
        *,
        columns: ErrorColumns | None = None,
        events: EventsTable | bool = True,
        hooks: Hooks | None = None,
    ) -> None:
        super().__init__(
            ErrorsSchema(Name.parse(name), ErrorColumns() if columns is None else columns), locals()
        )
        if isinstance(events, bool):
            events_table = EventsTable(f"{name}_events", metadata=True, hooks=hooks) if events else None
        elif isinstance(events, EventsTable):
            events_table = events
        else:
            raise TypeError(
                f"events {events!r} is a {type(events).__name__}: accepted is an EventsTable or a bool"
            )
        if events_table is not None and not events_table.has_metadata:
            raise ValueError(
                f"{events_table!r} has no column for metadata, which the consumer's name goes into:"
                f" EventsTable({events_table.name!r}, metadata=True) has one"
            )
        self._events = events_table
        self._hooks = installed() if hooks is None else hooks

    @property
    def columns(self) -> ErrorColumns:
        """What its columns are called."""
        return self.schema.columns

    @property
    def events(self) -> EventsTable:
        """The table of its events.

        :raises ValueError: if it has none
        """
        if self._events is None:
            raise ValueError(f"{self!r} was made with events=False: it has no events")
        return self._events

    # The tables.

    def ddl(self, dialect: str = "postgres") -> str:
        """Return the statements that create the table and the table of its events, for a migration.

        :raises ValueError: if there is no such dialect
        """
        statements = super().ddl(dialect)
        return statements if self._events is None else statements + self._events.ddl(dialect)

    async def create(self, connection: Any) -> None:
        """Create the table and the table of its events unless they exist. See :meth:`CursorsTable.create`."""
        await super().create(connection)
        if self._events is not None:
            await self._events.create(connection)

    async def validate(self, connection: Any) -> None:
        """Compare the table, and then the table of its events, with this object. See :meth:`CursorsTable.validate`."""
        await super().validate(connection)
        if self._events is not None:
            await self._events.validate(connection)

    # Recording.

    async def record(self, connection: Any, *, consumer: str, event: Event, error: BaseException) -> str:
        """Record that ``consumer`` failed on ``event``, and return the id of the error's row.

        An error that was recorded before keeps its row, which gets the new message, and no further event tells of it;
        unless it was resolved meanwhile: then it is an error anew.

        :raises TypeError: if it isn't a connection, or an argument isn't what its name says
        :raises ValueError: if the consumer's name is empty, or can't be stored
        """
        check_text("consumer name", consumer)
        _check("event", event, isinstance(event, Event), "an Event")
        _check("error", error, isinstance(error, BaseException), "an exception")
        driver, dialect = self._of(connection)
        values = consumer, event.id, _message(error)
        with driver.errors(self.name, schema_only=True):
            async with within(connection):
                error_id = await dialect.insert(driver, connection, *values, ErrorStatus.RECORDED)
                if error_id is not None:
                    await self._tell(connection, error_id, ErrorStatus.RECORDED, consumer)
                else:
                    error_id = await self._repeat(driver, dialect, connection, *values)
        self._hooks.event_dead_lettered(consumer, event, error)
        return error_id

    async def _repeat(
        self,
        driver: Driver,
        dialect: ErrorsDialect,
        connection: Any,
        consumer: str,
        event_id: str,
        message: str,
    ) -> str:
        found = await dialect.repeat(driver, connection, consumer, event_id, message)
        if found is None:
            raise DatabaseError(
                f"{self.name}: the error of {consumer} on event {event_id} is not stored: was it deleted just now,"
                " or is there a trigger or a policy on the table?"
            )
        error_id, status = found
        if status == ErrorStatus.RESOLVED:
            await dialect.mark(driver, connection, error_id, ErrorStatus.RECORDED, None)
            await self._tell(connection, error_id, ErrorStatus.RECORDED, consumer)
        return error_id

    def recorder(self, pool: Any) -> "TableErrorRecorder":
        """Return what records errors here through a pool, for consumers that go on after errors.

        :raises TypeError: if it isn't a pool
        """
        return TableErrorRecorder(self, pool)

    # Looking.

    async def get(self, connection: Any, error_id: str) -> ConsumerError:
        """Return an error.

        :raises ErrorNotFound: if there is none of that id
        :raises TypeError: if it isn't a connection, or the id no string
        :raises ValueError: if the id is no integer
        """
        found = await self._found(connection, error_id)
        if found is None:
            raise ErrorNotFound(table=self.name, error_id=error_id)
        return found

    async def _found(self, connection: Any, error_id: str) -> ConsumerError | None:
        driver, dialect = self._of(connection)
        with driver.errors(self.name, schema_only=True):
            row = await dialect.get(driver, connection, _checked_id(error_id))
        return None if row is None else ConsumerError(*row)

    async def find(
        self,
        connection: Any,
        *,
        consumer: str | None = None,
        status: int | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> Sequence[ConsumerError]:
        """Return errors in the order of their ids, which is about that of their first recording.

        :param consumer: those of this consumer alone
        :param status: those of this status alone
        :param after: those with greater ids than this alone, to get the next after ``limit``
        :param limit: at most so many
        :raises TypeError: if it isn't a connection, or an argument has the wrong type
        :raises ValueError: if ``limit`` is less than 1
        """
        if limit < 1:
            raise ValueError(f"limit {limit} is out of range: accepted is a number from 1")
        driver, dialect = self._of(connection)
        with driver.errors(self.name, schema_only=True):
            rows = await dialect.find(
                driver,
                connection,
                consumer=None if consumer is None else check_text("consumer name", consumer),
                status=None if status is None else check_type(status),
                after=_checked_id(after or "0"),
                limit=limit,
            )
        return [ConsumerError(*row) for row in rows]

    # Marking.

    async def mark(self, connection: Any, error_id: str, status: int) -> bool:
        """Give an error another status, with an event that tells so.

        :param status: an :class:`ErrorStatus`, or a number of your own from 3
        :return: whether it had another status before; otherwise nothing is written
        :raises ErrorNotFound: if there is none of that id
        :raises TypeError: if it isn't a connection, or an argument has the wrong type
        :raises ValueError: if ``status`` is out of its range
        """
        if check_type(status) < 1:
            raise ValueError(f"status {status} is out of range: accepted is a number from 1")
        if await self._mark(connection, error_id, int(status)):
            return True
        await self.get(connection, error_id)
        return False

    async def resolve(self, connection: Any, error_id: str) -> bool:
        """Mark an error as resolved. See :meth:`mark`."""
        return await self.mark(connection, error_id, ErrorStatus.RESOLVED)

    async def _mark(
        self, connection: Any, error_id: str, status: int, *, unchanged_since: datetime | None = None
    ) -> bool:
        driver, dialect = self._of(connection)
        error_id = _checked_id(error_id)
        with driver.errors(self.name, schema_only=True):
            async with within(connection):
                consumer = await dialect.mark(driver, connection, error_id, status, unchanged_since)
                if consumer is not None:
                    await self._tell(connection, error_id, status, consumer)
        return consumer is not None

    # Replaying.

    async def replay(self, pool: Any, error_id: str, *, source: Source, handler: Handler) -> bool:
        """Hand the event of an error to ``handler`` once more, and mark the error as resolved if that returns.

        The consumer's cursor stays where it is; no transaction is open meanwhile. The handler is that of the
        consumer, without what records its errors.

        :param source: where the consumer's events come from; its ids have to be integers
        :return: whether the error is resolved now; not if it was recorded or marked meanwhile, as by a handler that
            does so itself
        :raises Exception: what the handler raises; it is then the error's message
        :raises ErrorNotFound: if there is no error of that id
        :raises EventNotFound: if the source doesn't have the event any more
        :raises InvalidCursor: if the event's id is no integer
        :raises TypeError: if an argument isn't what its name says
        """
        driver = driver_of_pool(pool)
        _check("source", source, isinstance(source, Source), "a Source, such as events.source(pool)")
        _check("handler", handler, callable(handler), "an async function of an event, as consumer.handler is")
        with driver.errors(self.name):
            async with driver.acquire(pool) as connection:
                found = await self._found(connection, error_id)
        if found is None:
            raise ErrorNotFound(table=self.name, error_id=error_id)
        event = await _event(source, found.event_id)
        try:
            await handler(event)
        except Exception as exc:
            await self.recorder(pool).record(consumer=found.consumer, event=event, error=exc)
            raise
        with driver.errors(self.name):
            async with driver.acquire(pool) as connection:
                return await self._mark(
                    connection, error_id, ErrorStatus.RESOLVED, unchanged_since=found.updated_at
                )

    # What these share.

    def _of(self, connection: Any) -> tuple[Driver, ErrorsDialect]:
        driver = driver_of_connection(connection)
        return driver, dialect_part(ErrorsDialect, driver.dialect, self.schema)

    async def _tell(self, connection: Any, error_id: str, status: int, consumer: str) -> None:
        if self._events is not None:
            await self._events.insert(connection, error_id, status, metadata=consumer.encode())


class TableErrorRecorder:
    """Records the errors of consumers in a table, through a pool. :meth:`ErrorsTable.recorder` makes it.

    Beside what :meth:`ErrorsTable.record` says, its method raises :class:`~reflex_aio.errors.ConnectionLost` and, for
    what the database refuses, :class:`~reflex_aio.errors.DatabaseError`.
    """

    def __init__(self, table: ErrorsTable, pool: Any) -> None:
        self._driver = driver_of_pool(pool)
        self._table = table
        self._pool = pool

    def __repr__(self) -> str:
        return f"{self._table!r}.recorder({self._pool!r})"

    async def record(self, *, consumer: str, event: Event, error: Exception) -> None:
        """Record that ``consumer`` failed on ``event``, and commit that."""
        with self._driver.errors(self._table.name):
            async with self._driver.acquire(self._pool) as connection:
                await self._table.record(connection, consumer=consumer, event=event, error=error)


async def _event(source: Source, event_id: str) -> Event:
    """Return the event of that id."""
    number = int(check_cursor(event_id, "int"))
    async with source.stream(str(number - 1) if number > 1 else "", to_head=True) as stream:
        async for event in stream:
            if event.id == event_id:
                return event
            break
    raise EventNotFound(source=repr(source), event_id=event_id)


def _message(error: BaseException) -> str:
    """Return what is stored of an exception: its class and text, with what a database can't hold made visible."""
    text = "".join(format_exception_only(error)).strip().replace("\0", "\\0")
    return text.encode(errors="backslashreplace").decode()[:_LONGEST_MESSAGE]


def _checked_id(error_id: str) -> str:
    """Return an error's id, which is an integer's text.

    :raises TypeError: if it is no string
    :raises ValueError: if it isn't such a text
    """
    try:
        return check_cursor(error_id, "int")
    except InvalidCursor:
        raise ValueError(f"error id {error_id!r} is not accepted: it is the text of an integer") from None


def _check(what: str, value: object, fits: bool, accepted: str) -> None:
    if not fits:
        raise TypeError(f"{what} {value!r} is a {type(value).__name__}: accepted is {accepted}")
