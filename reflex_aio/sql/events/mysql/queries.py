"""MySQL and MariaDB: the statements that insert and read events, and the decoding of their pages.

They do not depend on the session's time zone, character set and sql_mode. Names from the user are quoted by the
callers; values are always arguments.
"""

import time
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from reflex_aio.event import INT32_MAX, INT32_MIN, NOOP_TYPE, TIMESTAMP_US_MIN, Event, EventBatch
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.events.loader import check_rows
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.schema.mysql import microseconds_sql

__all__ = ["GapQueries", "Queries", "decode_rows", "dirty_read", "head_sql", "insert_sql"]


def insert_sql(settings: EventsSettings, table: str, now: str, count: int = 1) -> str:
    """Return the INSERT of ``count`` events.

    Arguments, for each event: foreign id, type, and metadata and trace if the table has them.
    """
    columns = settings.columns
    names = [columns.foreign_id, columns.type]
    names += [columns.metadata] * settings.schema.metadata + [columns.trace] * settings.schema.trace
    quoted = ", ".join(f"`{name}`" for name in (columns.timestamp, *names))
    row = f"({now}{', %s' * len(names)})"
    return f"INSERT INTO {table} ({quoted}) VALUES {', '.join([row] * count)}"


def head_sql(settings: EventsSettings, table: str) -> str:
    """Return the query for the greatest visible id."""
    return f"SELECT MAX({_id(settings)}) FROM {table}"


class Queries:
    """The queries that read one table.

    :param table: its name with the database, quoted
    :param timestamp_type: the type of its timestamp column, see :func:`~reflex_aio.sql.schema.mysql.microseconds_sql`
    :param utf8: whether foreign ids are texts that are stored in UTF-8
    """

    def __init__(
        self, settings: EventsSettings, table: str, timestamp_type: str, *, utf8: bool = False
    ) -> None:
        columns, event_id = settings.columns, _id(settings)
        microseconds = microseconds_sql(timestamp_type, f"`{columns.timestamp}`")
        # As bytes, as the session's character set may lack some of its characters.
        foreign_id = f"`{columns.foreign_id}`" if utf8 else f"CONVERT(`{columns.foreign_id}` USING utf8mb4)"
        foreign_id = f"CAST({foreign_id} AS BINARY)"
        self._names = [f"`{columns.metadata}`"] * settings.schema.metadata
        self._names += [f"`{columns.trace}`"] * settings.schema.trace
        self._id = event_id
        self._parts = [f"`{columns.type}`", foreign_id, microseconds]
        self._rows = f" FROM {table} AS event WHERE {event_id} > %s ORDER BY event.{event_id} LIMIT %s"
        self.head = head_sql(settings, table)
        self.head_by_age = (
            f"SELECT {event_id} FROM {table} AS event WHERE {microseconds} <= %s"
            f" ORDER BY event.{event_id} DESC LIMIT 1"
        )
        """The greatest id of an event from before a time, in microseconds since 1970."""

    def page(self, limit: int) -> str:
        """Return the query for the rows after an id, up to a number of rows.

        :param limit: the size at which metadata and traces are cut off, in bytes. The id of a row with a larger value
            is 0
        """
        event_id, names = self._id, self._names
        if names:
            larger = " OR ".join(f"LENGTH({name}) > {limit}" for name in names)
            event_id = f"IF({larger}, 0, {event_id})"
        values = [f"LEFT({name}, {limit})" for name in names]
        return f"SELECT {', '.join([event_id, *self._parts, *values])}{self._rows}"


class GapQueries:
    """The queries of the ids of one table.

    :param table: its name with the database, quoted
    """

    def __init__(self, settings: EventsSettings, table: str) -> None:
        columns = settings.columns
        event_id, kind, foreign_id = f"`{columns.id}`", f"`{columns.type}`", f"`{columns.foreign_id}`"
        self.state = (
            f"SELECT MIN({event_id}), MAX({event_id}), @@GLOBAL.read_only FROM {table} WHERE {event_id} > %s"
        )
        """The next id after one, the greatest id, and whether the server is read-only."""
        self.next = f"SELECT MIN({event_id}) FROM {table} WHERE {event_id} > %s"
        """The next id after one."""
        self.ids = (
            f"SELECT {event_id} FROM {table} AS event WHERE {event_id} BETWEEN %s AND %s"
            f" ORDER BY event.{event_id} LIMIT %s"
        )
        """The ids from one to another, up to a limit."""
        noop = f"{kind} <=> {NOOP_TYPE} AND {foreign_id} <=> '{settings.schema.noop_foreign_id}'"
        first = f"SELECT {event_id} AS id, {noop} AS noop"
        first += f" FROM {table} AS event ORDER BY event.{event_id} LIMIT %s"
        self.bottom = (
            f"SELECT MIN({event_id}), (SELECT MIN(id) FROM ({first}) AS first WHERE NOT noop) FROM {table}"
        )
        """The least id, and the least id that is not a noop's, if it is among the first, up to a limit."""


async def dirty_read(driver: Driver, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
    """Run one query that also reads uncommitted rows.

    :param connection: a connection with autocommit. If this raises or is cancelled, it must be closed, as its next
        statement might read uncommitted rows too
    """
    # For the next transaction only, which is the query. SET SESSION would also affect the next user of the connection.
    await driver.fetch(connection, "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
    return await driver.fetch(connection, sql, *args)


def decode_rows(
    rows: Sequence[Row], ids: list[int], settings: EventsSettings, count: int, batch: bool = False
) -> Sequence[Event]:
    """Return the events of the first ``count`` of a page's rows, without noops unless the table includes them.

    :param ids: the ids of the rows
    :param batch: return a batch rather than event objects
    :raises BadRow: if one of them is no event
    """
    if count < len(rows):
        rows, ids = rows[:count], ids[:count]
    began, schema = time.perf_counter(), settings.schema
    events: Sequence[Event] = ()
    if rows:
        # Not zip(*rows): it creates an iterator for each row, so many for a page that the garbage collector runs.
        types, foreign_ids, timestamps, *rest = (
            list(map(itemgetter(i), rows)) for i in range(1, len(rows[0]))
        )
        try:
            # Each raises TypeError for NULL. A time beyond the year 9999 can't be stored.
            texts = list(map(bytes.decode, foreign_ids))
            usual = min(timestamps) >= TIMESTAMP_US_MIN and _are_types(set(types))
        except TypeError:
            usual = False
        if not usual:
            decode = partial(decode_rows, rows, ids, settings)
            check_rows(settings, ids, types, foreign_ids, timestamps, decode)
        columns = EventBatch(
            list(map(str, ids)),
            types,
            texts,
            timestamps,
            rest[0] if schema.metadata else None,
            rest[-1] if schema.trace else None,
        )
        if not settings.include_noops:
            columns = columns.without_noops()
        events = columns if batch else list(columns)
    settings.hooks.page_decoded(settings.name, len(events), time.perf_counter() - began)
    return events


def _are_types(types: set[int]) -> bool:
    return min(types) >= INT32_MIN and max(types) <= INT32_MAX


def _id(settings: EventsSettings) -> str:
    return f"`{settings.columns.id}`"
