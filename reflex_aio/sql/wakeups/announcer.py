"""Telling streams of new events of a table, once these are visible."""

from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary

from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.events.dialect import EventsDialect
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.wakeups.after_commit import call_after_ours
from reflex_aio.sql.wakeups.notifier import CHANNEL, Notifier, payload_of
from reflex_aio.sql.wakeups.postgres_notifier import PostgresNotifier, generation, notifier_of

__all__ = ["Announcer"]


class _Wake:
    """Wakes the streams of one table by one notifier.

    :param table: which table of its name that is
    """

    __slots__ = ("generation", "hub", "key", "notifier", "table", "topic")

    def __init__(self, driver: Driver, notifier: Notifier, topic: str, table: Hashable) -> None:
        self.notifier, self.topic, self.table = notifier, topic, table
        self.key: Hashable = (id(notifier), topic)
        # Asked to tell of what is committed by then, which another client library wouldn't know.
        self.hub = notifier if isinstance(notifier, PostgresNotifier) and driver.knows_transactions else None
        self.generation = generation()

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
            fixed = driver.fixed(connection)
            wake = self._last.get(fixed)
            if wake is None or wake.table != table or wake.generation != generation():
                topic = await self._topic(driver, connection, table)
                wake = _Wake(driver, await self._notifier(driver, connection), topic, table)
                if table is not None:
                    self._last[fixed] = wake
            hub = wake.hub
            if hub is not None and hub.notify_if_committed(wake.topic, driver, fixed, wake):
                return
            if not driver.after_transaction(connection, wake.key, wake):
                call_after_ours(connection, wake.key, wake)

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
