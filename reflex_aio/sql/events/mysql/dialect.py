"""MySQL and MariaDB: the implementation of the events dialect, and inserting events."""

from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar

from reflex_aio.errors import DatabaseError
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.events.dialect import EventsDialect, EventsWriter
from reflex_aio.sql.events.loader import Loader
from reflex_aio.sql.events.mysql.loader import MysqlLoader
from reflex_aio.sql.events.mysql.queries import head_sql, insert_sql
from reflex_aio.sql.events.settings import EventsSettings, Wakeups
from reflex_aio.sql.events.values import NewEvents, Values, column_picker
from reflex_aio.sql.schema.mysql import now_sql, timestamp_type

__all__ = ["MysqlEventsDialect"]

# Generous estimates of the size of an event in an INSERT without its values, and of a statement without its events, in
# bytes.
_EVENT_OVERHEAD = 200
_STATEMENT_OVERHEAD = 4096
# A larger event may exceed max_allowed_packet, whose lowest usual value this is.
_LARGE = 1 << 18

# The numbers of warnings about a value that was changed to fit its column.
_CHANGED = frozenset({1048, 1264, 1265, 1292, 1366, 1406})


class MysqlEventsDialect(EventsDialect):
    """Events on MySQL and MariaDB."""

    wakeups: ClassVar[tuple[Wakeups, ...]] = "commit", None
    topic: ClassVar[str] = (
        "SELECT CONCAT(DATABASE(), '.', REPLACE(%s, '`', '')) FROM dual WHERE DATABASE() IS NOT NULL"
    )

    def table(self, settings: EventsSettings) -> str:
        return settings.schema.table.quoted("`")

    def writer(self, settings: EventsSettings) -> EventsWriter:
        return _Writer(settings, self.table(settings))

    def head(self, settings: EventsSettings) -> str:
        return head_sql(settings, self.table(settings))

    def loader(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, primary: Any, fill_gaps: bool
    ) -> Loader:
        return MysqlLoader(settings, driver, pool, primary=primary, fill_gaps=fill_gaps)


class _Writer(EventsWriter):
    """Inserts the events of one table.

    The ids come from the AUTO_INCREMENT id of the statement's first row, which the client library receives, as MySQL
    has no RETURNING. An INSERT whose number of rows is known draws all of its ids at once, whatever
    ``innodb_autoinc_lock_mode`` is, so the others follow in steps of ``auto_increment_increment``. Source:
    https://dev.mysql.com/doc/refman/8.4/en/innodb-auto-increment-handling.html
    """

    def __init__(self, settings: EventsSettings, table: str) -> None:
        self._settings = settings
        self._table = table
        self._pick_columns = column_picker(settings.schema)
        # The expression for the current time, by server and database.
        self._now: dict[Hashable, str] = {}
        # The INSERT of one event, by the expression for the current time.
        self._insert_one: dict[str, str] = {}

    async def insert(self, driver: Driver, connection: Any, values: Values) -> Row:
        server = await driver.server(connection)
        now = await self._current_time(driver, connection, server)
        if _size(values) > _LARGE:
            self._check_size(values, _size(values), (await self._limits(driver, connection))[1])
        if now not in self._insert_one:
            self._insert_one[now] = insert_sql(self._settings, self._table, now)
        first_id = await self._insert(driver, connection, self._insert_one[now], [values])
        return first_id, (server, self._table)

    async def insert_many(
        self, driver: Driver, connection: Any, events: NewEvents
    ) -> tuple[list[str], Hashable]:
        rows = list(events.rows())
        server = await driver.server(connection)
        now = await self._current_time(driver, connection, server)
        step, largest = await self._limits(driver, connection)
        sizes = [_size(row) for row in rows]
        self._check_size(rows[sizes.index(max(sizes))], max(sizes), largest)
        chunks = list(_chunks(rows, sizes, largest - _STATEMENT_OVERHEAD))

        async def insert_chunks() -> list[str]:
            ids: list[str] = []
            for chunk in chunks:
                statement = insert_sql(self._settings, self._table, now, len(chunk))
                first_id = await self._insert(driver, connection, statement, chunk)
                ids += map(str, range(first_id, first_id + len(chunk) * step, step))
            return ids

        if len(chunks) == 1:
            return await insert_chunks(), (server, self._table)
        async with driver.transaction(connection):
            return await insert_chunks(), (server, self._table)

    async def _insert(self, driver: Driver, connection: Any, statement: str, events: Sequence[Values]) -> int:
        """Insert events, and return the id of the first one."""
        values = chain.from_iterable(map(self._pick_columns, events))
        ((_, first_id, warned),) = await driver.fetch(connection, statement, *values)
        if warned:
            await self._check_warnings(driver, connection)
        if not first_id:
            settings = self._settings
            raise DatabaseError(
                f"{settings.name}: the database generated no id for the event: check that column"
                f' "{settings.schema.columns.id}" is AUTO_INCREMENT, and that no trigger sets it'
            )
        return int(first_id)

    async def _current_time(self, driver: Driver, connection: Any, server: Hashable) -> str:
        now = self._now.get(server)
        if now is None:
            schema = self._settings.schema
            found = await timestamp_type(driver, connection, schema.table, schema.columns.timestamp)
            if found is None:
                # The INSERT will report the problem.
                return now_sql("datetime", 6)
            now = self._now[server] = now_sql(*found)
        return now

    async def _limits(self, driver: Driver, connection: Any) -> tuple[int, int]:
        """Return the step between ids, and the length of the longest statement, in bytes."""
        rows = await driver.fetch(connection, "SELECT @@auto_increment_increment, @@max_allowed_packet")
        return rows[0][0], rows[0][1]

    def _check_size(self, event: Values, size: int, largest: int) -> None:
        size += _STATEMENT_OVERHEAD
        if size > largest:
            raise ValueError(
                f"{self._settings.name}: event {event[0]!r} takes {size} bytes in a statement, more than the"
                f" server's max_allowed_packet of {largest}: metadata takes twice its length"
            )

    async def _check_warnings(self, driver: Driver, connection: Any) -> None:
        for level, number, message in await driver.fetch(connection, "SHOW WARNINGS"):
            if level == "Warning" and number in _CHANGED:
                raise DatabaseError(
                    f"{self._settings.name}: the database stored another value than the inserted one, as sql_mode is"
                    f" not strict: {message} (warning {number})"
                )


def _size(values: Values) -> int:
    """Return the greatest size that an event can have in a statement, in bytes."""
    foreign_id, _, metadata, trace = values
    return 2 * (len(foreign_id.encode()) + len(metadata or b"") + len(trace or b"")) + _EVENT_OVERHEAD


def _chunks(events: Sequence[Values], sizes: Sequence[int], largest: int) -> Iterator[Sequence[Values]]:
    """Split events into chunks of at most ``largest`` bytes in a statement, or of a single event."""
    start = total = 0
    for index, size in enumerate(sizes):
        total += size
        if index > start and total > largest:
            yield events[start:index]
            start, total = index, size
    yield events[start:]
