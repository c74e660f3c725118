"""The errors table: recording events on which consumers failed, finding them, marking them, and replaying them."""

from collections.abc import Sequence
from datetime import datetime
from traceback import format_exception_only
from typing import Any

from reflex_aio.checks import check_async, check_count, check_instance, check_text
from reflex_aio.consumer import Handler
from reflex_aio.errors import DatabaseError, ErrorNotFound, EventNotFound, InvalidCursor
from reflex_aio.event import Event, check_type
from reflex_aio.hooks import Hooks, installed
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.sql.dead_letters.dialect import ConsumerError, ErrorsDialect, ErrorStatus, is_event_id
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection, driver_of_pool
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.insert import nested_transaction
from reflex_aio.sql.events.table import EventsTable
from reflex_aio.sql.schema.names import ErrorColumns, ErrorsSchema, Name
from reflex_aio.sql.schema.table import Table, TableStore
from reflex_aio.stream import Source

__all__ = ["ErrorsTable", "TableErrorRecorder"]

# In characters. The text of an exception may contain a whole response of a server.
_LONGEST_MESSAGE = 10_000


class ErrorsTable(Table[ErrorsSchema]):
    """A table with a row for each event on which a consumer failed, and a table of events that report these rows.

    There is one row for a consumer and an event, however often it fails. The events have the row's id as foreign id,
    the new status as type, and the consumer's name as metadata.

    The methods run on the caller's connection, in its transaction if there is one; a row and its event are always
    written together. Exceptions of the client library are passed on as they are, except for missing tables and columns.

    :param name: ``table`` or ``schema.table``; case is significant
    :param columns: the names of the columns
    :param events: the table of its events, which must have metadata. ``True`` for a table with this name and
        ``_events``, ``False`` for none
    :param hooks: called when an error was recorded; by default the hooks installed for the process
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if a name is not accepted, or ``events`` has no column for metadata
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
        check_instance("events", events, EventsTable | bool, "an EventsTable or a bool")
        if isinstance(events, bool):
            events_table = EventsTable(f"{name}_events", metadata=True, hooks=hooks) if events else None
        else:
            events_table = events
        if events_table is not None and not events_table.has_metadata:
            raise ValueError(
                f"{events_table!r} has no column for metadata, which stores the consumer's name:"
                f" EventsTable({events_table.name!r}, metadata=True) has one"
            )
        self._events = events_table
        self._hooks = installed() if hooks is None else hooks

    @property
    def columns(self) -> ErrorColumns:
        """The names of the columns."""
        return self.schema.columns

    @property
    def events(self) -> EventsTable:
        """The table of its events.

        :raises ValueError: if it has none
        """
        if self._events is None:
            raise ValueError(f"{self!r} was made with events=False: it has no table of events")
        return self._events

    # The tables.

    @property
    def tables(self) -> Sequence[Table[Any]]:
        """The table, and the table of its events if it has one."""
        return [self] if self._events is None else [self, self._events]

    def ddl_statements(self, dialect: str = "postgres") -> list[str]:
        """Return the statements that create the table and the table of its events one by one.

        :raises ValueError: if there is no such dialect
        """
        statements = super().ddl_statements(dialect)
        return statements if self._events is None else statements + self._events.ddl_statements(dialect)

    async def create(self, connection: Any) -> None:
        """Create the table and the table of its events unless they exist. Several services may do so at the same time.

        :raises TypeError: if ``connection`` is not a connection
        """
        await super().create(connection)
        if self._events is not None:
            await self._events.create(connection)

    async def validate(self, connection: Any) -> None:
        """Compare the table in the database with this object, and then the table of its events.

        :raises TableNotFound: if a table does not exist
        :raises SchemaError: if a table differs, with a line for each difference
        :raises TypeError: if ``connection`` is not a connection
        """
        await super().validate(connection)
        if self._events is not None:
            await self._events.validate(connection)

    # Recording.

    async def record(self, connection: Any, *, consumer: str, event: Event, error: BaseException) -> str:
        """Record that ``consumer`` failed on ``event``, and return the id of the error's row.

        If the error was recorded before, its row gets the new message, and there is no further event; unless it was
        resolved in between: then its status is ``RECORDED`` again, which an event reports.

        :raises TypeError: if ``connection`` is not a connection, or an argument has the wrong type
        :raises ValueError: if the consumer's name is empty, or cannot be stored
        """
        check_text("consumer name", consumer)
        check_instance("event", event, Event, "an Event")
        check_instance("error", error, BaseException, "an exception")
        driver, dialect = self._parts(connection)
        values = consumer, event.id, _message(error)
        with driver.errors(self.name, schema_only=True):
            async with nested_transaction(connection):
                error_id = await dialect.insert(driver, connection, *values, ErrorStatus.RECORDED)
                if error_id is not None:
                    await self._insert_event(connection, error_id, ErrorStatus.RECORDED, consumer)
                else:
                    error_id = await self._record_again(driver, dialect, connection, *values)
        self._hooks.event_dead_lettered(consumer, event, error)
        return error_id

    async def _record_again(
        self,
        driver: Driver,
        dialect: ErrorsDialect,
        connection: Any,
        consumer: str,
        event_id: str,
        message: str,
    ) -> str:
        found = await dialect.set_message(driver, connection, consumer, event_id, message)
        if found is None:
            raise DatabaseError(
                f"{self.name}: the error of {consumer} on event {event_id} is not stored: was it deleted just now,"
                " or is there a trigger or a policy on the table?"
            )
        error_id, status = found
        if status == ErrorStatus.RESOLVED:
            await dialect.set_status(driver, connection, error_id, ErrorStatus.RECORDED, None)
            await self._insert_event(connection, error_id, ErrorStatus.RECORDED, consumer)
        return error_id

    def recorder(self, pool: Any) -> "TableErrorRecorder":
        """Return a recorder for consumers that continue after errors. It records them here, through ``pool``.

        :raises TypeError: if ``pool`` is not a pool
        """
        return TableErrorRecorder(self, pool)

    # Finding.

    async def get(self, connection: Any, error_id: str) -> ConsumerError:
        """Return an error.

        :raises ErrorNotFound: if there is no error with that id
        :raises TypeError: if ``connection`` is not a connection, or the id is not a string
        :raises ValueError: if the id is not an integer
        """
        found = await self._get(connection, error_id)
        if found is None:
            raise ErrorNotFound(table=self.name, error_id=error_id)
        return found

    async def _get(self, connection: Any, error_id: str) -> ConsumerError | None:
        driver, dialect = self._parts(connection)
        with driver.errors(self.name, schema_only=True):
            row = await dialect.get(driver, connection, _check_id(error_id))
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
        """Return errors in order of their ids, which is about the order in which they were first recorded.

        :param consumer: only the errors of this consumer, with those whose consumer and event are
            :attr:`~ConsumerError.swapped`
        :param status: only the errors with this status
        :param after: only the errors with greater ids than this, to continue after ``limit``
        :param limit: the greatest number of errors to return
        :raises TypeError: if ``connection`` is not a connection, or an argument has the wrong type
        :raises ValueError: if ``limit`` is less than 1
        """
        check_count("limit", limit, least=1)
        driver, dialect = self._parts(connection)
        with driver.errors(self.name, schema_only=True):
            rows = await dialect.find(
                driver,
                connection,
                consumer=None if consumer is None else check_text("consumer name", consumer),
                swapped=None if consumer is None or is_event_id(consumer) else consumer,
                status=None if status is None else check_type(status),
                after=_check_id(after or "0"),
                limit=limit,
            )
        return [ConsumerError(*row) for row in rows]

    # Marking.

    async def mark(self, connection: Any, error_id: str, status: int) -> bool:
        """Set the status of an error, and insert the event that reports it.

        :param status: an :class:`ErrorStatus`, or a number of the application's own from 3
        :return: whether it had another status before; otherwise nothing is written
        :raises ErrorNotFound: if there is no error with that id
        :raises TypeError: if ``connection`` is not a connection, or an argument has the wrong type
        :raises ValueError: if ``status`` is out of range
        """
        if check_type(status) < 1:
            raise ValueError(f"status {status} is out of range: accepted is an int from 1")
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
        driver, dialect = self._parts(connection)
        error_id = _check_id(error_id)
        with driver.errors(self.name, schema_only=True):
            async with nested_transaction(connection):
                consumer = await dialect.set_status(driver, connection, error_id, status, unchanged_since)
                if consumer is not None:
                    await self._insert_event(connection, error_id, status, consumer)
        return consumer is not None

    # Replaying.

    async def replay(self, pool: Any, error_id: str, *, source: Source, handler: Handler) -> bool:
        """Call ``handler`` with the event of an error, and mark the error as resolved if the handler returns.

        The consumer's cursor is not moved, and no transaction is open while the handler runs. Pass the consumer's own
        handler, without the part that records its errors.

        :param source: the source of the consumer's events, whose ids must be integers
        :return: whether the error was marked as resolved. It was not if its row has changed since it was read, for
            example because the handler recorded or marked it
        :raises Exception: the handler's exception, which is recorded as the error's new message
        :raises ErrorNotFound: if there is no error with that id
        :raises EventNotFound: if the source no longer has the event
        :raises InvalidCursor: if the event's id is not an integer
        :raises ValueError: if the error's consumer and event are :attr:`~ConsumerError.swapped`
        :raises TypeError: if an argument has the wrong type
        """
        driver = driver_of_pool(pool)
        check_instance("source", source, Source, "a Source, such as events.source(pool)")
        handler = check_async("handler", handler)
        with driver.errors(self.name):
            async with driver.acquire(pool) as connection:
                failed = await self._get(connection, error_id)
        if failed is None:
            raise ErrorNotFound(table=self.name, error_id=error_id)
        if failed.swapped:
            raise ValueError(
                f"{self.name}: consumer and event of error {error_id} are swapped: {failed.consumer!r} is in the column"
                f" {self.columns.consumer}, and {failed.event_id!r} in {self.columns.event_id}, as luno/reflex writes"
                " them: correct the row first"
            )
        event = await _read_event(source, failed.event_id)
        try:
            await handler(event)
        except Exception as exc:
            await self.recorder(pool).record(consumer=failed.consumer, event=event, error=exc)
            raise
        with driver.errors(self.name):
            async with driver.acquire(pool) as connection:
                return await self._mark(
                    connection, error_id, ErrorStatus.RESOLVED, unchanged_since=failed.updated_at
                )

    def _parts(self, connection: Any) -> tuple[Driver, ErrorsDialect]:
        driver = driver_of_connection(connection)
        return driver, dialect_part(ErrorsDialect, driver.dialect, self.schema)

    async def _insert_event(self, connection: Any, error_id: str, status: int, consumer: str) -> None:
        if self._events is not None:
            await self._events.insert(connection, error_id, status, metadata=consumer.encode())


class TableErrorRecorder(TableStore[ErrorsDialect]):
    """Records the errors of consumers in a table, through a pool. :meth:`ErrorsTable.recorder` makes it.

    :meth:`record` also raises :class:`~reflex_aio.errors.ConnectionLost` and, for any other failure that the database
    reports, :class:`~reflex_aio.errors.DatabaseError`.
    """

    def __init__(self, table: ErrorsTable, pool: Any) -> None:
        super().__init__(table, pool, ErrorsDialect)
        self._errors_table = table

    def __repr__(self) -> str:
        return f"{self._table!r}.recorder({self._pool!r})"

    async def record(self, *, consumer: str, event: Event, error: Exception) -> None:
        """Record that ``consumer`` failed on ``event``, and commit. See :meth:`ErrorsTable.record`."""
        async with self._connection() as connection:
            await self._errors_table.record(connection, consumer=consumer, event=event, error=error)


async def _read_event(source: Source, event_id: str) -> Event:
    number = int(check_cursor(event_id, "int"))
    async with source.stream(str(number - 1) if number > 1 else "", to_head=True) as stream:
        async for event in stream:
            if event.id == event_id:
                return event
            break
    raise EventNotFound(source=repr(source), event_id=event_id)


def _message(error: BaseException) -> str:
    """Return the class and the text of an exception. Characters that a database cannot store are escaped."""
    text = "".join(format_exception_only(error)).strip().replace("\0", "\\0")
    return text.encode(errors="backslashreplace").decode()[:_LONGEST_MESSAGE]


def _check_id(error_id: str) -> str:
    """Return the id of an error, which is the text of an integer.

    :raises TypeError: if it is not a string
    :raises ValueError: if it is not the text of an integer
    """
    try:
        return check_cursor(error_id, "int")
    except InvalidCursor:
        raise ValueError(
            f"error id {error_id!r} is not accepted: accepted is the text of an integer"
        ) from None
