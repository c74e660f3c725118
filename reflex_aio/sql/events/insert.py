"""Inserting events in the caller's transaction, and having streams woken after it."""

from collections.abc import Hashable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from reflex_aio.errors import DatabaseError
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.dialect import (
    EventsDialect,
    EventsSettings,
    EventsWriter,
    Inserter,
    wakeable_dialect,
)
from reflex_aio.sql.events.values import NewEvent, Values, check_new_event, check_new_events
from reflex_aio.sql.wakeups import postgres_notifier
from reflex_aio.sql.wakeups.after_commit import call_after_commit
from reflex_aio.sql.wakeups.notifier import CHANNEL, Notifier, payload_of
from reflex_aio.sql.wakeups.postgres_notifier import PostgresNotifier, notifier_of

__all__ = ["Announcer", "Inserts"]


class _Wake:
    """Wakes the streams of one table by one notifier.

    :param table: which table of its name that is
    """

    __slots__ = ("generation", "key", "notifier", "postgres_notifier", "table", "topic")

    def __init__(self, driver: Driver, notifier: Notifier, topic: str, table: Hashable) -> None:
        self.notifier, self.topic, self.table = notifier, topic, table
        self.key: Hashable = (id(notifier), topic)
        # Asked to tell of what is committed by then, which another client library wouldn't know.
        self.postgres_notifier = (
            notifier if isinstance(notifier, PostgresNotifier) and driver.tracks_transactions else None
        )
        self.generation = postgres_notifier.generation

    def __call__(self) -> None:
        self.notifier.notify(self.topic)


class Announcer:
    """Tells the streams of one events table, from any connections."""

    def __init__(self, settings: EventsSettings) -> None:
        self._settings = settings
        # What wake-ups call the table: it need be asked for once. The search path decides which table a name without a
        # schema stands for, so there may be several.
        self._topics: dict[Hashable, str] = {}
        # By connection: what its last transaction woke, as the next one will most likely, too.
        self._last: WeakKeyDictionary[Any, _Wake] = WeakKeyDictionary()

    async def announce(self, driver: Driver, connection: Any, table: Hashable) -> None:
        """Have streams woken once the events just inserted on ``connection`` are visible, if anything can tell when.

        :param table: which of the tables of this name they are in, if that is known
        """
        settings = self._settings
        if settings.wakeups == "transaction":
            topic = await self._topic(driver, connection, table)
            notify = dialect_part(EventsDialect, driver.dialect).notify()
            await driver.fetch(connection, notify, CHANNEL, payload_of(topic))
        elif settings.wakeups == "commit":
            fixed = driver.underlying(connection)
            wake = self._last.get(fixed)
            if wake is None or wake.table != table or wake.generation != postgres_notifier.generation:
                topic = await self._topic(driver, connection, table)
                wake = _Wake(driver, await self._notifier(driver, connection), topic, table)
                if table is not None:
                    self._last[fixed] = wake
            notifier = wake.postgres_notifier
            if notifier is not None and notifier.defer(wake.topic, driver, fixed, wake):
                return
            if not driver.after_transaction(connection, wake.key, wake):
                call_after_commit(connection, wake.key, wake)

    async def wake(self, driver: Driver, connection: Any) -> None:
        """Wake the streams now."""
        topic = await self._topic(driver, connection, None)
        (await self._notifier(driver, connection)).notify(topic)

    async def _notifier(self, driver: Driver, connection: Any) -> Notifier:
        given = self._settings.notifier
        return await notifier_of(driver, connection) if given is None else given

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


class _Way(NamedTuple):
    """How events are inserted on connections of one class."""

    driver: Driver
    writer: EventsWriter
    errors: AbstractContextManager[None]


class Inserts:
    """The inserts into one events table, on any connections. :class:`~reflex_aio.sql.EventsTable` tells the rules."""

    def __init__(self, settings: EventsSettings) -> None:
        self._settings = settings
        self._name = settings.name
        self._announcer = Announcer(settings)
        self._writers: dict[EventsDialect, EventsWriter] = {}
        # By the class of a connection, as that is all that the driver depends on. To find it out for each event would
        # be a third of the calls that are made here for one.
        self._ways: dict[type, _Way] = {}

    async def insert(
        self,
        connection: Any,
        foreign_id: str | int,
        type: int,
        metadata: bytes | None,
        trace: bytes | None,
    ) -> str:
        """Insert an event and return its id."""
        settings = self._settings
        if trace is None and settings.schema.trace:
            trace = settings.hooks.current_trace()
        values = check_new_event(settings.schema, foreign_id, type, metadata, trace)
        driver, writer, errors = self._way(connection)
        with errors:
            if settings.inserter is not None:
                event_id = await _insert_by(settings.inserter, connection, values)
                table = None
            else:
                row = await writer.insert(driver, connection, values)
                if row is None:
                    raise self._kept_out(0, 1)
                event_id, table = str(row[0]), row[1]
            if settings.wakeups is not None:
                await self._announcer.announce(driver, connection, table)
        return event_id

    async def insert_many(self, connection: Any, events: Iterable[NewEvent]) -> list[str]:
        """Insert events in the order given, all or none, and return their ids."""
        settings = self._settings
        given = check_new_events(settings.schema, events)
        if settings.schema.trace and (current := settings.hooks.current_trace()) is not None:
            given = given.traced(current)
        driver, writer, errors = self._way(connection)
        if not len(given):
            return []
        with errors:
            if settings.inserter is not None:
                ids = [await _insert_by(settings.inserter, connection, row) for row in given.rows()]
                table = None
            else:
                ids, table = await writer.insert_many(driver, connection, given)
                if len(ids) != len(given):
                    raise self._kept_out(len(ids), len(given))
            if settings.wakeups is not None:
                await self._announcer.announce(driver, connection, table)
        return ids

    async def wake(self, connection: Any) -> None:
        """Wake the table's streams now, if anything wakes them."""
        driver = driver_of_connection(connection)
        if self._settings.wakeups is not None:
            with driver.errors(self._name, schema_only=True):
                await self._announcer.wake(driver, connection)

    def _way(self, connection: Any) -> _Way:
        way = self._ways.get(type(connection))
        return self._find_way(connection) if way is None else way

    def _find_way(self, connection: Any) -> _Way:
        driver = driver_of_connection(connection)
        dialect = wakeable_dialect(driver.dialect, self._settings)
        if dialect not in self._writers:
            self._writers[dialect] = dialect.writer(self._settings)
        way = _Way(driver, self._writers[dialect], driver.errors(self._name, schema_only=True))
        self._ways[type(connection)] = way
        return way

    def _kept_out(self, inserted: int, given: int) -> DatabaseError:
        return DatabaseError(
            f"{self._name}: the database has inserted {inserted} of {given} events, without an error: does a"
            " trigger or a rule keep rows out of the table?"
        )


async def _insert_by(inserter: Inserter, connection: Any, values: Values) -> str:
    event_id = await inserter(connection, *values)
    if isinstance(event_id, bool) or not isinstance(event_id, (int, str)):
        raise TypeError(f"the inserter has returned {event_id!r}: accepted is the event's id, an int or str")
    return str(event_id)
