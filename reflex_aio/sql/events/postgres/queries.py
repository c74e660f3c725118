"""PostgreSQL: the statements that write and read events.

Names that come from the user are quoted before they get here; values are always arguments.
"""

import struct
from collections.abc import Sequence
from typing import Any

from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE, EventBatch
from reflex_aio.sql.drivers.base import Row
from reflex_aio.sql.events.dialect import EventsSettings
from reflex_aio.sql.events.postgres.catalog import identity_sql

__all__ = [
    "SEPARATOR",
    "TIMESTAMP_TYPES",
    "Columns",
    "Queries",
    "head_sql",
    "insert_many_sql",
    "insert_noops_sql",
    "insert_sql",
]

SEPARATOR = "\x1f"
"""What stands between the foreign ids of a page that are sent as one text: ASCII's unit separator."""

# How a timestamp is sent: microseconds since the year 2000, as PostgreSQL keeps it. Decoding it into a datetime would
# be most of what a stream costs the client, and few consumers look at it.
_SEND = {
    "timestamp with time zone": "timestamptz_send",
    # Taken as UTC, as the session's time zone is anybody's.
    "timestamp without time zone": "timestamp_send",
}
TIMESTAMP_TYPES = tuple(_SEND)


def insert_sql(settings: EventsSettings, table: str) -> str:
    """Return the INSERT of one event. Arguments: foreign id, type, and metadata and trace if the table has them."""
    types = _types(settings)
    values = ", ".join(
        [f"$1::text{_cast(settings)}", *(f"${i}::{kind}" for i, kind in enumerate(types[1:], 2))]
    )
    return f"INSERT INTO {table} ({_columns(settings)}) VALUES ({values}) {_returning(settings, table)}"


def insert_many_sql(settings: EventsSettings, table: str, *, one_type: bool) -> str:
    """Return the INSERT of many events. It returns one row: their ids as one text, separated by commas, and the table.

    Its arguments: the foreign ids as one text, what separates them, the types, and arrays of metadata and trace if the
    table has them, which may be NULL. The types are one text, separated by commas, or an integer if there is
    ``one_type``. An array of texts takes both ends several times as long as a text of the same length, and a row for
    each id longer than all of them in one.

    Functions that return sets go forward together where they stand in the list of what is selected, row by row:
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
    """Return the statement that takes ids ($1) for noops, but for those that are taken, and returns their number."""
    columns = settings.columns
    return (
        f'WITH taken AS (INSERT INTO {table} ({_id(settings)}, "{columns.foreign_id}", "{columns.type}")'
        f" OVERRIDING SYSTEM VALUE SELECT id, '{NOOP_FOREIGN_ID}', {NOOP_TYPE} FROM unnest($1::int8[]) AS given(id)"
        f" ON CONFLICT ({_id(settings)}) DO NOTHING RETURNING 1) SELECT count(*) FROM taken"
    )


def head_sql(settings: EventsSettings, table: str) -> str:
    """Return the query for the greatest visible id."""
    return f"SELECT max({_id(settings)}) FROM {table}"


class Queries:
    """The statements that read one table, once it has been found.

    :param table: its name with the schema, quoted
    :param timestamp_type: what PostgreSQL calls the type of its timestamp column, one of ``TIMESTAMP_TYPES``
    :param one_server: whether the rows must come from the server, and its run, that the locks come from
    :param partitioned: whether the table has partitions
    """

    def __init__(
        self,
        settings: EventsSettings,
        table: str,
        timestamp_type: str,
        *,
        one_server: bool,
        partitioned: bool,
    ) -> None:
        columns, event_id = settings.columns, _id(settings)
        timestamp, kind, foreign_id = (
            f'"{name}"' for name in (columns.timestamp, columns.type, columns.foreign_id)
        )
        rest = [f'"{columns.metadata}"'] * settings.schema.metadata
        rest += [f'"{columns.trace}"'] * settings.schema.trace
        # To a planner that knows the position, or doesn't know the limit, a plan for this very page looks cheaper than
        # one for any page, and so it would plan each anew, which takes longer than to read one at the head. It doesn't
        # look into a subquery. Of a table with partitions it had better plan: it opens no more of them than it needs.
        position = "$1::int8" if partitioned else "(SELECT $1::int8)"
        # Aggregates meet the rows of a subquery in its order: postgresql.org/docs/current/functions-aggregate.html
        self._rows = (
            f"SELECT {', '.join([event_id, timestamp, kind, foreign_id, *rest])}"
            f" FROM {table} WHERE {event_id} > {position} ORDER BY {event_id}"
        )
        before = [
            f"string_agg({event_id}::text, ',')",
            f"string_agg({_SEND[timestamp_type]}({timestamp}), ''::bytea)",
        ]
        separator = f"chr({ord(SEPARATOR)})"
        packed = [
            f"string_agg(int8send({kind}::int8), ''::bytea)",
            # One that is NULL shows as a separator too many.
            f"string_agg(coalesce({foreign_id}::text, {separator}), {separator})",
        ]
        arrays = [f"array_agg({kind}::int8)", f"array_agg({foreign_id}::text)"]
        after = [f"array_agg({name})" for name in rest]
        self._columns = {
            True: ", ".join([*before, *packed, *after]),
            False: ", ".join([*before, *arrays, *after]),
        }
        self._identity = identity_sql("$2::text", "$3::int8::oid", server=one_server)
        self.untimed = (
            f"SELECT {event_id} FROM {table} WHERE {event_id} > $1 AND {timestamp} IS NULL"
            f" ORDER BY {event_id} LIMIT 1"
        )
        """The id of the first event after $1 that has no timestamp."""
        self.head = head_sql(settings, table)
        self.head_by_age = (
            f"SELECT {event_id} FROM {table} WHERE {timestamp} <= to_timestamp($1::float8)"
            f"{' AT TIME ZONE ' + repr('UTC') if timestamp_type == TIMESTAMP_TYPES[1] else ''}"
            f" ORDER BY {event_id} DESC LIMIT 1"
        )
        event = f"({kind}, {foreign_id}::text)"
        first = f"SELECT {event_id} AS id, {event} AS event FROM {table} ORDER BY {event_id} LIMIT $1"
        self.bottom = (
            f"SELECT min({event_id}), (SELECT id FROM ({first}) AS first"
            f" WHERE event IS DISTINCT FROM ({NOOP_TYPE}, '{NOOP_FOREIGN_ID}'::text) ORDER BY id LIMIT 1) FROM {table}"
        )
        """The least id, and the least of one that is no noop, if it is among the first $1."""

    def page(self, size: int, *, packed: bool = True) -> str:
        """Return the query for the first ``size`` events after $1.

        They come as one row of their columns, NULL if there are none: ids as one text, separated by commas; timestamps
        as bytes, 8 each; types and foreign ids; metadata and traces as arrays, if the table has any.

        :param packed: send types as bytes too, 8 each, and foreign ids as one text, separated by :data:`SEPARATOR`;
            otherwise as arrays, which take both ends longer, but have room for NULL, and for foreign ids with the
            separator in them
        """
        return f"SELECT {self._columns[packed]} FROM ({self._rows} LIMIT {size}) AS page"

    def checked_page(self, size: int, *, packed: bool = True) -> str:
        """Return the same with the identity of the table ($2) and its sequence ($3) as the last column."""
        columns = f"{self._columns[packed]}, {self._identity}"
        return f"SELECT {columns} FROM ({self._rows} LIMIT {size}) AS page"


def _types(settings: EventsSettings) -> list[str]:
    return ["text", "integer", *["bytea"] * (settings.schema.metadata + settings.schema.trace)]


def _columns(settings: EventsSettings) -> str:
    columns = settings.columns
    names = [columns.foreign_id, columns.type]
    names += [columns.metadata] * settings.schema.metadata + [columns.trace] * settings.schema.trace
    return ", ".join(f'"{name}"' for name in names)


def _returning(settings: EventsSettings, table: str) -> str:
    return f"RETURNING {_id(settings)}, {_oid(table)}"


def _oid(table: str) -> str:
    # A constant of the statement, made anew whenever the search path changes. tableoid would be a partition's.
    return f"'{table}'::regclass::oid"


def _id(settings: EventsSettings) -> str:
    return f'"{settings.columns.id}"'


def _cast(settings: EventsSettings) -> str:
    # PostgreSQL assigns text to any kind of text by itself, to an integer only when told to.
    return "::bigint" if settings.schema.foreign_id == "bigint" else ""


_EPOCH_2000_US = 946_684_800_000_000
# Of a packed number, in bytes.
_SIZE = 8


class Columns:
    """The columns of a page.

    What is packed is taken apart when its events are made, so that the next page can be requested before.

    :param row: as the server has sent it, all NULL if there are no events
    :param position: the id after which the page was asked for
    :param size: how many events it could have at most
    :param packed: whether it was asked for packed types and foreign ids
    """

    def __init__(self, row: Row, position: int, size: int, settings: EventsSettings, *, packed: bool) -> None:
        self._settings = settings
        self._row = row
        self._packed = packed
        self._ids: str = row[0] or ""
        self._timestamps: bytes = row[1] or b""
        self.ids: Sequence[int] = _numbers(self._ids, position)
        self.full: bool = len(self.ids) == size
        """Whether there may be further events."""

    @property
    def identity(self) -> Any:
        """The identity of the table, of a page that was asked for with it."""
        return self._row[-1]

    @property
    def complete(self) -> bool:
        """Whether every event has a timestamp: an aggregate of bytes passes over NULL."""
        return len(self._timestamps) == _SIZE * len(self.ids)

    @property
    def torn(self) -> bool:
        """Whether it can't be told which type or foreign id is whose, and the page is to be read in arrays."""
        count = len(self.ids)
        if not self._packed or not count:
            return False
        types, foreign_ids = self._row[2], self._row[3]
        # If all types are NULL, so are the bytes.
        return len(types or b"") != _SIZE * count or foreign_ids.count(SEPARATOR) != count - 1

    def batch(self, count: int) -> EventBatch:
        """Return the first ``count`` events, noops left out unless the table includes them."""
        if not count:
            return EventBatch((), (), (), ())
        schema, row = self._settings.schema, self._row
        timestamps = _unpacked(self._timestamps)
        batch = EventBatch(
            self._ids.split(","),
            _unpacked(row[2]) if self._packed else row[2],
            row[3].split(SEPARATOR) if self._packed else row[3],
            [timestamp + _EPOCH_2000_US for timestamp in timestamps],
            row[4] if schema.metadata else None,
            row[4 + schema.metadata] if schema.trace else None,
        )
        if count < len(batch):
            batch = batch[:count]
        return batch if self._settings.include_noops else batch.without_noops()


def _unpacked(numbers: bytes) -> Sequence[int]:
    return struct.unpack(f"!{len(numbers) // _SIZE}q", numbers)


def _numbers(ids: str, position: int) -> Sequence[int]:
    if not ids:
        return ()
    last = int(ids[ids.rfind(",") + 1 :])
    if last - position == ids.count(",") + 1:
        # Without a gap: there is no need to look at each.
        return range(position + 1, last + 1)
    return list(map(int, ids.split(",")))
