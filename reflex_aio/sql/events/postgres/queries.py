"""PostgreSQL: the statements that insert and read events, and the decoding of their pages.

Names from the user are quoted by the callers; values are always arguments.
"""

import struct
import time
from collections.abc import Sequence
from typing import Any

from reflex_aio.event import NOOP_TYPE, Event, EventBatch
from reflex_aio.sql.drivers.base import Row
from reflex_aio.sql.events.loader import check_rows
from reflex_aio.sql.events.postgres.catalog import identity_sql
from reflex_aio.sql.events.settings import EventsSettings

__all__ = [
    "SEPARATOR",
    "TIMESTAMP_TYPES",
    "PageColumns",
    "Queries",
    "head_sql",
    "insert_many_sql",
    "insert_noops_sql",
    "insert_sql",
]

SEPARATOR = "\x1f"
"""The separator of the foreign ids of a page, which are sent as one text: ASCII's unit separator."""

# The functions that send a timestamp as PostgreSQL stores it, in microseconds since the year 2000. Decoding datetimes
# would be most of the client's cost of a stream, and few consumers use the time.
_SEND = {
    "timestamp with time zone": "timestamptz_send",
    # Interpreted as UTC, as the session's time zone may be any.
    "timestamp without time zone": "timestamp_send",
}
TIMESTAMP_TYPES = tuple(_SEND)

_EPOCH_2000_US = 946_684_800_000_000
# The size of a packed number, in bytes.
_SIZE = 8


def insert_sql(settings: EventsSettings, table: str) -> str:
    """Return the INSERT of one event. Arguments: foreign id, type, and metadata and trace if the table has them."""
    types = _types(settings)
    values = ", ".join(
        [f"$1::text{_cast(settings)}", *(f"${i}::{kind}" for i, kind in enumerate(types[1:], 2))]
    )
    return f"INSERT INTO {table} ({_columns(settings)}) VALUES ({values}) RETURNING {_id(settings)}, {_oid(table)}"


def insert_many_sql(settings: EventsSettings, table: str, *, one_type: bool) -> str:
    """Return the INSERT of many events. It returns one row: the ids as one text, separated by commas, and the table.

    Arguments: the foreign ids as one text, its separator, the types, and arrays of metadata and trace if the table has
    them, which may be NULL. The types are one text, separated by commas, or an integer with ``one_type``. An array of
    texts takes client and server several times as long as a text of the same length; one row per id takes longer than
    all ids in one.

    Several set-returning functions in a SELECT list advance together, row by row:
    postgresql.org/docs/current/xfunc-sql.html#XFUNC-SQL-FUNCTIONS-RETURNING-SET
    """
    types = _types(settings)
    values = [f"string_to_table($1::text, $2::text){_cast(settings)}"]
    values += ["$3::integer" if one_type else "unnest(string_to_array($3::text, ',')::integer[])"]
    values += [f"unnest(${i}::{kind}[])" for i, kind in enumerate(types[2:], 4)]
    return (
        f"WITH inserted AS (INSERT INTO {table} ({_columns(settings)})"
        f" SELECT {', '.join(values)} RETURNING {_id(settings)} AS id)"
        f" SELECT string_agg(id::text, ','), {_oid(table)} FROM inserted"
    )


def insert_noops_sql(settings: EventsSettings, table: str) -> str:
    """Return the statement that inserts noops with the ids $1, except for existing ids, and returns their number."""
    columns, noop = settings.columns, settings.schema.noop_foreign_id
    return (
        f'WITH noops AS (INSERT INTO {table} ({_id(settings)}, "{columns.foreign_id}", "{columns.type}")'
        f" OVERRIDING SYSTEM VALUE SELECT id, '{noop}', {NOOP_TYPE} FROM unnest($1::int8[]) AS given(id)"
        f" ON CONFLICT ({_id(settings)}) DO NOTHING RETURNING 1) SELECT count(*) FROM noops"
    )


def head_sql(settings: EventsSettings, table: str) -> str:
    """Return the query for the greatest visible id."""
    return f"SELECT max({_id(settings)}) FROM {table}"


class Queries:
    """The queries that read one table.

    :param table: its name with the schema, quoted
    :param timestamp_type: the type of its timestamp column, one of ``TIMESTAMP_TYPES``
    :param one_server: whether rows and locks must come from the same server, in the same run
    :param partitioned: whether the table has partitions
    :param wide_types: whether the column of event types is a bigint
    """

    def __init__(
        self,
        settings: EventsSettings,
        table: str,
        timestamp_type: str,
        *,
        one_server: bool,
        partitioned: bool,
        wide_types: bool = False,
    ) -> None:
        columns, event_id = settings.columns, _id(settings)
        timestamp, kind, foreign_id = (
            f'"{name}"' for name in (columns.timestamp, columns.type, columns.foreign_id)
        )
        rest = [f'"{columns.metadata}"'] * settings.schema.metadata
        rest += [f'"{columns.trace}"'] * settings.schema.trace
        # If the planner knows the position, or does not know the limit, a custom plan looks cheaper than the generic
        # one, so it would plan each page again, which takes longer than reading one at the head. It does not look into
        # a subquery. For a partitioned table, custom plans are better: they open only the partitions that they need.
        position = "$1::int8" if partitioned else "(SELECT $1::int8)"
        # Aggregates process the rows of a subquery in its order: postgresql.org/docs/current/functions-aggregate.html
        self._rows = (
            f"SELECT {', '.join([event_id, timestamp, kind, foreign_id, *rest])}"
            f" FROM {table} AS event WHERE {event_id} > {position} ORDER BY event.{event_id}"
        )
        before = [
            f"string_agg({event_id}::text, ',')",
            # An aggregate of bytes would skip NULL.
            f"string_agg({_SEND[timestamp_type]}(coalesce({timestamp}, '-infinity')), ''::bytea)",
        ]
        separator = f"chr({ord(SEPARATOR)})"
        packed = [
            f"string_agg({'int8send' if wide_types else 'int4send'}({kind}), ''::bytea)",
            # NULL becomes a superfluous separator, which is detected.
            f"string_agg(coalesce({foreign_id}::text, {separator}), {separator})",
        ]
        arrays = [f"array_agg({kind}::int8)", f"array_agg({foreign_id}::text)"]
        self._columns = {True: [*before, *packed], False: [*before, *arrays]}
        self._values = rest
        self._identity = identity_sql("$2::text", "$3::int8::oid", server=one_server)
        self.next = f"SELECT min({event_id}) FROM {table} WHERE {event_id} > $1"
        """The first id after $1."""
        self.head = head_sql(settings, table)
        self.head_by_age = (
            f"SELECT {event_id} FROM {table} AS event WHERE {timestamp} <= to_timestamp($1::float8)"
            f"{' AT TIME ZONE ' + repr('UTC') if timestamp_type == TIMESTAMP_TYPES[1] else ''}"
            f" ORDER BY event.{event_id} DESC LIMIT 1"
        )
        """The greatest id of an event from before $1, in seconds since 1970."""
        event = f"({kind}, {foreign_id}::text)"
        # Qualified, as in all queries of this package: the name alone may be that of a column of the result.
        first = f"SELECT {event_id} AS id, {event} AS event FROM {table} AS each ORDER BY each.{event_id} LIMIT $1"
        self.bottom = (
            f"SELECT min({event_id}), (SELECT id FROM ({first}) AS first"
            f" WHERE event IS DISTINCT FROM ({NOOP_TYPE}, '{settings.schema.noop_foreign_id}'::text)"
            " ORDER BY first.id LIMIT 1)"
            f" FROM {table}"
        )
        """The least id, and the least id that is not a noop's, if it is among the first $1."""

    def page(self, size: int, limit: int = 1000, *, packed: bool = True, checked: bool = False) -> str:
        """Return the query for the first ``size`` events after $1, which :class:`PageColumns` decodes.

        It returns one row of columns, NULL if there are no events: the ids as one text, separated by commas; the
        timestamps as bytes, 8 each; types and foreign ids; metadata and traces as arrays, if the table has them, and
        the size of the largest of their values.

        :param limit: the size at which metadata and traces are cut off, in bytes. A larger value has one byte more
        :param packed: send the types as bytes too, and the foreign ids as one text, separated by
            :data:`SEPARATOR`. Arrays take client and server longer, but support NULL, and foreign ids that contain the
            separator
        :param checked: add the identity of the table ($2) and its sequence ($3) as the last column
        """
        columns = [*self._columns[packed]]
        if self._values:
            # With one byte more than accepted, by which a larger value is recognized.
            columns += [f"array_agg(substring({name} FROM 1 FOR {limit + 1}))" for name in self._values]
            columns.append(f"greatest({', '.join(f'max(octet_length({name}))' for name in self._values)})")
        if checked:
            columns.append(self._identity)
        return f"SELECT {', '.join(columns)} FROM ({self._rows} LIMIT {size}) AS page"


class PageColumns:
    """The result of :meth:`Queries.page`. Packed columns are unpacked when the events are decoded.

    :param row: the row of the result
    :param position: the position of the query
    :param size: the limit of the query
    :param limit: the size at which its values are cut off, in bytes
    :param packed: whether the query has packed types and foreign ids
    :param wide: whether packed types have 8 bytes instead of 4
    """

    __slots__ = ("_count", "_ids", "_packed", "_row", "_settings", "_wide", "full", "ids", "largest", "torn")

    def __init__(
        self,
        row: Row,
        position: int,
        size: int,
        limit: int,
        settings: EventsSettings,
        *,
        packed: bool,
        wide: bool = False,
    ) -> None:
        self._settings = settings
        self._row = row
        self._packed = packed
        self._wide = wide
        self._ids: str = row[0] or ""
        self.ids: Sequence[int] = ()
        if self._ids:
            count, last = self._ids.count(",") + 1, int(self._ids[self._ids.rfind(",") + 1 :])
            if last - position == count:
                # Without a gap, the ids need not be parsed.
                self.ids = range(position + 1, last + 1)
            else:
                self.ids = list(map(int, self._ids.split(",")))
        self._count = count = len(self.ids)
        self.full: bool = count == size
        """True if there may be further events."""
        values = settings.schema.metadata + settings.schema.trace
        self.largest: int = (row[4 + values] or 0) if values else 0
        """The size of the largest metadata or trace, in bytes."""
        if self.largest > limit:
            # Values that were cut off, and the events after them, are loaded by further queries.
            self.ids, self.full = self.ids[: _first_larger(row[4 : 4 + values], limit)], True
        self.torn: bool = False
        """True if types and foreign ids cannot be assigned to the events, so that the page must be read as arrays."""
        if packed and count:
            types, foreign_ids = row[2], row[3]
            # If all types are NULL, so are the bytes.
            size = _SIZE if wide else _SIZE // 2
            self.torn = len(types or b"") != size * count or foreign_ids.count(SEPARATOR) != count - 1

    def _is_usual(self) -> bool:
        """Return whether all times are from 2000 to 2283, and types are packed, and not wide."""
        # A tenth of the time that comparing the numbers takes. The first byte of each is the most significant one.
        return self._packed and not self._wide and self._row[1][::_SIZE].count(0) == self._count

    @property
    def identity(self) -> Any:
        """The identity of the table, in the result of a checked query."""
        return self._row[-1]

    def decode(self, count: int, batch: bool = False) -> Sequence[Event]:
        """Return the first ``count`` events, without noops unless the table includes them.

        :param batch: return a batch rather than event objects
        """
        began, settings, row = time.perf_counter(), self._settings, self._row
        if not count:
            settings.hooks.page_decoded(settings.name, 0, time.perf_counter() - began)
            return ()
        schema, packed = settings.schema, self._packed
        numbers = struct.Struct(f"!{self._count}q")
        columns = EventBatch(
            self._ids.split(","),
            struct.unpack(f"!{self._count}{'q' if self._wide else 'i'}", row[2]) if packed else row[2],
            row[3].split(SEPARATOR) if packed else row[3],
            [timestamp + _EPOCH_2000_US for timestamp in numbers.unpack(row[1])],
            row[4] if schema.metadata else None,
            row[4 + schema.metadata] if schema.trace else None,
        )
        if count < self._count:
            columns = columns[:count]
        if not self._is_usual():
            check_rows(
                settings, columns.ids, columns.types, columns.foreign_ids, columns.timestamps_us, self.decode
            )
        if not settings.include_noops:
            columns = columns.without_noops()
        events = columns if batch else list(columns)
        settings.hooks.page_decoded(settings.name, len(events), time.perf_counter() - began)
        return events


def _first_larger(columns: Sequence[Sequence[bytes | None]], limit: int) -> int:
    """Return the least index of a value of more than ``limit`` bytes."""
    rows = enumerate(zip(*columns, strict=True))
    return next(index for index, row in rows if any(len(value or b"") > limit for value in row))


def _types(settings: EventsSettings) -> list[str]:
    return ["text", "integer", *["bytea"] * (settings.schema.metadata + settings.schema.trace)]


def _columns(settings: EventsSettings) -> str:
    columns = settings.columns
    names = [columns.foreign_id, columns.type]
    names += [columns.metadata] * settings.schema.metadata + [columns.trace] * settings.schema.trace
    return ", ".join(f'"{name}"' for name in names)


def _oid(table: str) -> str:
    # A constant of the statement, evaluated again when the search path changes. tableoid would be that of a partition.
    return f"'{table}'::regclass::oid"


def _id(settings: EventsSettings) -> str:
    return f'"{settings.columns.id}"'


def _cast(settings: EventsSettings) -> str:
    # PostgreSQL casts text to any text type implicitly, but not to other types.
    return {"text": "", "bigint": "::bigint", "uuid": "::uuid"}[settings.schema.foreign_id]
