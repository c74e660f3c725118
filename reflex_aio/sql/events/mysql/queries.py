"""MySQL and MariaDB: the statements that insert and read events, and the decoding of their pages.

They do not depend on the session's time zone, character set and sql_mode. Names from the user are quoted by the
callers; values are always arguments.
"""

import time
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from reflex_aio.errors import SchemaError
from reflex_aio.event import NOOP_TYPE, Event, EventBatch
from reflex_aio.sql.drivers.base import Driver, Row
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
    """

    def __init__(self, settings: EventsSettings, table: str, timestamp_type: str) -> None:
        columns, event_id = settings.columns, _id(settings)
        microseconds = microseconds_sql(timestamp_type, f"`{columns.timestamp}`")
        # As bytes, as the session's character set may lack some of its characters.
        foreign_id = f"CAST(CONVERT(`{columns.foreign_id}` USING utf8mb4) AS BINARY)"
        parts = [event_id, f"`{columns.type}`", foreign_id, microseconds]
        if settings.schema.metadata or settings.schema.trace:
            parts.append(f"`{columns.metadata}`" if settings.schema.metadata else "NULL")
        if settings.schema.trace:
            parts.append(f"`{columns.trace}`")
        self.page = (
            f"SELECT {', '.join(parts)} FROM {table} AS event WHERE {event_id} > %s"
            f" ORDER BY event.{event_id} LIMIT %s"
        )
        """The rows after an id, up to a limit."""
        self.head = head_sql(settings, table)
        self.head_by_age = (
            f"SELECT {event_id} FROM {table} AS event WHERE {microseconds} <= %s"
            f" ORDER BY event.{event_id} DESC LIMIT 1"
        )
        """The greatest id of an event from before a time, in microseconds since 1970."""


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


def decode_rows(rows: Sequence[Row], settings: EventsSettings, batch: bool = False) -> Sequence[Event]:
    """Return the events of a page's rows, without noops unless the table includes them.

    :param batch: return a batch rather than event objects
    :raises SchemaError: if an event has no timestamp
    """
    began, schema = time.perf_counter(), settings.schema
    events: Sequence[Event] = ()
    if rows:
        # Not zip(*rows): it creates an iterator for each row, so many for a page that the garbage collector runs.
        ids, types, foreign_ids, timestamps, *rest = (
            list(map(itemgetter(i), rows)) for i in range(len(rows[0]))
        )
        if None in timestamps:
            event_id = ids[timestamps.index(None)]
            problem = f'column "{schema.columns.timestamp}" of event {event_id} is NULL or zero'
            raise SchemaError(table=settings.name, differences=[problem])
        columns = EventBatch(
            list(map(str, ids)),
            types,
            list(map(bytes.decode, foreign_ids)),
            timestamps,
            rest[0] if schema.metadata else None,
            rest[1] if schema.trace else None,
        )
        if not settings.include_noops:
            columns = columns.without_noops()
        events = columns if batch else list(columns)
    settings.hooks.page_decoded(settings.name, len(events), time.perf_counter() - began)
    return events


def _id(settings: EventsSettings) -> str:
    return f"`{settings.columns.id}`"
