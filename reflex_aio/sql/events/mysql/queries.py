"""MySQL and MariaDB: the statements that write and read events.

They mean the same whatever the session's time zone, character set and sql_mode are. Names that come from the user are
quoted before they get here; values are always arguments.
"""

from collections.abc import Sequence
from operator import itemgetter

from reflex_aio.errors import SchemaError
from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE, EventBatch
from reflex_aio.sql.drivers.base import Row
from reflex_aio.sql.events.dialect import EventsSettings
from reflex_aio.sql.schema.mysql import microseconds_sql

__all__ = ["GapQueries", "Queries", "batch_of", "head_sql", "insert_sql"]


def insert_sql(settings: EventsSettings, table: str, now: str, count: int = 1) -> str:
    """Return the INSERT of ``count`` events.

    Its arguments, for each event: foreign id, type, and metadata and trace if the table has them.
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
    """The statements that read one table, once it has been found.

    :param table: its name with the database, quoted
    :param timestamp_type: the type of its timestamp column, one of ``TIMESTAMP_TYPES``
    """

    def __init__(self, settings: EventsSettings, table: str, timestamp_type: str) -> None:
        columns, event_id = settings.columns, _id(settings)
        time = microseconds_sql(timestamp_type, f"`{columns.timestamp}`")
        # As bytes, as the session's character set may lack some of its characters.
        foreign_id = f"CAST(CONVERT(`{columns.foreign_id}` USING utf8mb4) AS BINARY)"
        parts = [event_id, f"`{columns.type}`", foreign_id, time]
        if settings.schema.metadata or settings.schema.trace:
            parts.append(f"`{columns.metadata}`" if settings.schema.metadata else "NULL")
        if settings.schema.trace:
            parts.append(f"`{columns.trace}`")
        self.page = (
            f"SELECT {', '.join(parts)} FROM {table} WHERE {event_id} > %s ORDER BY {event_id} LIMIT %s"
        )
        """Rows after an id, at most so many."""
        self.head = head_sql(settings, table)
        self.head_by_age = (
            f"SELECT {event_id} FROM {table} WHERE {time} <= %s ORDER BY {event_id} DESC LIMIT 1"
        )
        """The greatest id of an event from before a time, in microseconds."""


def batch_of(rows: Sequence[Row], settings: EventsSettings) -> EventBatch:
    """Turn the rows of a page into events, noops left out unless the table includes them.

    :raises SchemaError: if one has no timestamp
    """
    if not rows:
        return EventBatch((), (), (), ())
    schema = settings.schema
    # Not zip(*rows), which makes an iterator of each row: a page of them keeps the garbage collector busy.
    ids, types, foreign_ids, timestamps, *rest = (list(map(itemgetter(i), rows)) for i in range(len(rows[0])))
    if None in timestamps:
        without = ids[timestamps.index(None)]
        problem = f'column "{schema.columns.timestamp}" of event {without} is NULL or zero'
        raise SchemaError(table=settings.name, differences=[problem])
    batch = EventBatch(
        list(map(str, ids)),
        types,
        list(map(bytes.decode, foreign_ids)),
        timestamps,
        rest[0] if schema.metadata else None,
        rest[1] if schema.trace else None,
    )
    return batch if settings.include_noops else batch.without_noops()


def _id(settings: EventsSettings) -> str:
    return f"`{settings.columns.id}`"


class GapQueries:
    """The statements that look at the ids of one table.

    :param table: its name with the database, quoted
    """

    def __init__(self, settings: EventsSettings, table: str) -> None:
        columns = settings.columns
        event_id, kind, foreign_id = f"`{columns.id}`", f"`{columns.type}`", f"`{columns.foreign_id}`"
        self.look = (
            f"SELECT MIN({event_id}), MAX({event_id}), @@GLOBAL.read_only FROM {table} WHERE {event_id} > %s"
        )
        """The next id after one, the greatest, and whether the server is read-only."""
        self.next = f"SELECT MIN({event_id}) FROM {table} WHERE {event_id} > %s"
        """The next id after one."""
        self.ids = (
            f"SELECT {event_id} FROM {table} WHERE {event_id} BETWEEN %s AND %s ORDER BY {event_id} LIMIT %s"
        )
        """Ids from one to another, at most so many."""
        first = f"SELECT {event_id} AS id, {kind} <=> {NOOP_TYPE} AND {foreign_id} <=> '{NOOP_FOREIGN_ID}' AS noop"
        first += f" FROM {table} ORDER BY {event_id} LIMIT %s"
        self.bottom = (
            f"SELECT MIN({event_id}), (SELECT MIN(id) FROM ({first}) AS first WHERE NOT noop) FROM {table}"
        )
        """The least id, and the least of one that is no noop, if it is among the first so many."""
