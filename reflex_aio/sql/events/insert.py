"""Inserting events in the caller's transaction, and waking streams after it."""

from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, NamedTuple, cast
from uuid import UUID
from weakref import WeakKeyDictionary

from reflex_aio.errors import DatabaseError
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.dialect import EventsDialect, EventsWriter, wakeable_dialect
from reflex_aio.sql.events.settings import EventsSettings, Inserter
from reflex_aio.sql.events.values import NewEvent, Values, check_new_event, check_new_events, encoded_events
from reflex_aio.sql.wakeups import postgres_notifier
from reflex_aio.sql.wakeups.notifier import CHANNEL, Notifier, payload_of
from reflex_aio.sql.wakeups.postgres_notifier import PostgresNotifier, notifier_of

__all__ = ["EventInserts", "call_after_commit", "nested_transaction", "transaction"]

_Calls = dict[Hashable, Callable[[], None]]

# The functions to call after the innermost of our transactions on each connection, by the identity of the connection,
# which the transaction keeps alive.
_open: dict[int, _Calls] = {}


class _Route(NamedTuple):
    """The driver and the writer for connections of one class."""

    driver: Driver
    writer: EventsWriter


class _WakeUp:
    """Wakes the streams of one table when it is called, after the transaction of an insert.

    :param table: the key of the table that the events were inserted into
    """

    __slots__ = ("deferring", "generation", "key", "notifier", "table", "topic")

    def __init__(self, driver: Driver, notifier: Notifier, topic: str, table: Hashable) -> None:
        self.notifier, self.topic, self.table = notifier, topic, table
        self.key: Hashable = (id(notifier), topic)
        # Deferred inserts require a client library that knows whether a transaction is open.
        self.deferring = (
            notifier if isinstance(notifier, PostgresNotifier) and driver.tracks_transactions else None
        )
        self.generation = postgres_notifier.generation

    def __call__(self) -> None:
        self.notifier.notify(self.topic)


class EventInserts:
    """The inserts into one events table, on any connection. See the methods of :class:`~reflex_aio.sql.EventsTable`."""

    def __init__(self, settings: EventsSettings) -> None:
        self._settings = settings
        self._name = settings.name
        self._writers: dict[EventsDialect, EventsWriter] = {}
        # By the class of a connection, which determines the driver. Finding it for each event would be a third of the
        # calls of an insert.
        self._routes: dict[type, _Route] = {}
        # The table's name in wake-ups, by server and key, which is queried once. There may be several, as the search
        # path decides which table a name without a schema stands for.
        self._topics: dict[Hashable, str] = {}
        # The wake-up of the last insert on each connection, which will most likely serve the next one too.
        self._wakeups: WeakKeyDictionary[Any, _WakeUp] = WeakKeyDictionary()

    async def insert(
        self,
        connection: Any,
        foreign_id: str | int | UUID,
        type: int,
        metadata: object,
        trace: bytes | None,
    ) -> str:
        """Insert an event and return its id."""
        settings = self._settings
        if settings.codec is not None and metadata is not None:
            metadata = settings.codec.encode(metadata)
        encoded = cast("bytes | None", metadata)
        if trace is None and settings.schema.trace:
            trace = settings.hooks.current_trace()
        values = check_new_event(settings.schema, foreign_id, type, encoded, trace)
        driver, writer = self._routes.get(connection.__class__) or self._find_route(connection)
        try:
            table: Hashable = None
            if settings.inserter is not None:
                event_id = await _insert_by(settings.inserter, connection, values)
            else:
                row = await writer.insert(driver, connection, values)
                if row is None:
                    raise self._suppressed(0, 1)
                event_id, table = str(row[0]), row[1]
            if settings.wakeups is not None:
                await self._wake_after_commit(driver, connection, table)
        except Exception as exc:
            # Rather than by driver.errors(), which takes two more calls for each event.
            if (error := driver.translate(exc, self._name, schema_only=True)) is not None:
                raise error from exc
            raise
        return event_id

    async def insert_many(self, connection: Any, events: Iterable[NewEvent]) -> list[str]:
        """Insert events in order, all or none, and return their ids."""
        settings = self._settings
        if settings.codec is not None:
            events = encoded_events(settings.codec, events)
        checked = check_new_events(settings.schema, events)
        if settings.schema.trace and (current := settings.hooks.current_trace()) is not None:
            checked = checked.with_default_trace(current)
        driver, writer = self._routes.get(connection.__class__) or self._find_route(connection)
        if not len(checked):
            return []
        with driver.errors(self._name, schema_only=True):
            table: Hashable = None
            if settings.inserter is not None:
                ids = [await _insert_by(settings.inserter, connection, row) for row in checked.rows()]
            else:
                ids, table = await writer.insert_many(driver, connection, checked)
                if len(ids) != len(checked):
                    raise self._suppressed(len(ids), len(checked))
            if settings.wakeups is not None:
                await self._wake_after_commit(driver, connection, table)
        return ids

    async def wake(self, connection: Any) -> None:
        """Wake the table's streams now, unless they only poll."""
        driver = driver_of_connection(connection)
        if self._settings.wakeups is not None:
            with driver.errors(self._name, schema_only=True):
                topic = await self._topic(driver, connection, None)
                (await self._notifier(driver, connection)).notify(topic)

    def _find_route(self, connection: Any) -> _Route:
        driver = driver_of_connection(connection)
        dialect = wakeable_dialect(driver.dialect, self._settings)
        if dialect not in self._writers:
            self._writers[dialect] = dialect.writer(self._settings)
        route = self._routes[type(connection)] = _Route(driver, self._writers[dialect])
        return route

    def _suppressed(self, inserted: int, given: int) -> DatabaseError:
        return DatabaseError(
            f"{self._name}: the database inserted {inserted} of {given} events, without an error: check whether a"
            " trigger or a rule suppresses rows of the table"
        )

    async def _wake_after_commit(self, driver: Driver, connection: Any, table: Hashable) -> None:
        """Have streams woken when the events just inserted become visible, if that can be detected.

        :param table: the key of the table that they were inserted into, if it is known
        """
        settings = self._settings
        if settings.wakeups == "commit":
            underlying = driver.underlying(connection)
            wakeup = self._wakeups.get(underlying)
            if wakeup is None or wakeup.table != table or wakeup.generation != postgres_notifier.generation:
                topic = await self._topic(driver, connection, table)
                wakeup = _WakeUp(driver, await self._notifier(driver, connection), topic, table)
                if table is not None:
                    self._wakeups[underlying] = wakeup
            deferring = wakeup.deferring
            if deferring is not None and deferring.defer(wakeup.topic, driver, underlying, wakeup):
                return
            if not driver.after_transaction(underlying, wakeup.key, wakeup):
                call_after_commit(connection, wakeup.key, wakeup)
        elif settings.wakeups == "transaction":
            topic = await self._topic(driver, connection, table)
            notify = dialect_part(EventsDialect, driver.dialect).notify
            await driver.fetch(connection, notify, CHANNEL, payload_of(topic))

    async def _notifier(self, driver: Driver, connection: Any) -> Notifier:
        notifier = self._settings.notifier
        return await notifier_of(driver, connection) if notifier is None else notifier

    async def _topic(self, driver: Driver, connection: Any, table: Hashable) -> str:
        settings = self._settings
        if settings.schema.table.schema is not None:
            return settings.name
        key = (await driver.server(connection), table)
        topic = self._topics.get(key)
        if topic is None:
            dialect = dialect_part(EventsDialect, driver.dialect)
            rows = await driver.fetch(connection, dialect.topic, dialect.table(settings))
            topic = rows[0][0] if rows else settings.name
            if table is not None:
                self._topics[key] = topic
        return topic


async def _insert_by(inserter: Inserter, connection: Any, values: Values) -> str:
    event_id = await inserter(connection, *values)
    if isinstance(event_id, bool) or not isinstance(event_id, (int, str)):
        raise TypeError(f"the inserter returned {event_id!r}: accepted is the event's id, an int or str")
    return str(event_id)


def transaction(connection: Any) -> AbstractAsyncContextManager[None]:
    """Begin a transaction on ``connection``; commit it at the end, or roll it back after an error or a cancellation.

    After the commit, the streams of the tables that received events are woken. With asyncpg,
    ``connection.transaction()`` does the same; aiomysql and asyncmy cannot detect the end of a transaction. Within
    another ``transaction`` this is a savepoint, and streams are woken after the outer one. On a connection without
    autocommit, first commit or roll back a transaction that a SELECT has begun.

    On entry:

    :raises TypeError: if ``connection`` is not a connection
    :raises ValueError: if a transaction is open on it that was begun elsewhere
    """
    return _Transaction(connection, begins=True)


def nested_transaction(connection: Any) -> AbstractAsyncContextManager[None]:
    """Begin a savepoint in the transaction that is open on ``connection``, or a transaction if none is open.

    Streams are woken after a transaction, and after the end of the caller's, if it can be detected.
    """
    return _Transaction(connection, begins=False)


class _Transaction(AbstractAsyncContextManager[None]):
    """A transaction, with the functions to call after its commit. One of ours around it takes these over.

    It is a class, as it is around each insert on MySQL: nested generators would take as many calls as all that asyncmy
    does for an INSERT.

    :param begins: whether it must be a transaction, not a savepoint, unless one of ours is open
    """

    __slots__ = ("_begins", "_calls", "_connection", "_context", "_driver", "_outer")

    def __init__(self, connection: Any, *, begins: bool) -> None:
        self._connection, self._begins = connection, begins
        self._calls: _Calls = {}

    async def __aenter__(self) -> None:
        connection = self._connection
        self._driver = driver = driver_of_connection(connection)
        self._outer = outer = _open.get(id(connection))
        begin = driver.begin if self._begins and outer is None else driver.transaction
        self._context = begin(connection)
        await self._context.__aenter__()
        _open[id(connection)] = self._calls

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        connection, outer = self._connection, self._outer
        if outer is None:
            del _open[id(connection)]
        else:
            _open[id(connection)] = outer
        await self._context.__aexit__(kind, exc, traceback)
        if kind is not None:
            return
        if outer is not None:
            outer.update(self._calls)
            return
        for key, call in self._calls.items():
            if self._begins:
                call()
            else:
                self._driver.after_transaction(connection, key, call)


def call_after_commit(connection: Any, key: Hashable, call: Callable[[], None]) -> bool:
    """Call ``call`` once, after the commit of our transaction on ``connection``; return whether there is one.

    Several calls with the same ``key`` count as one.
    """
    calls = _open.get(id(connection))
    if calls is None:
        return False
    calls[key] = call
    return True
