"""PostgreSQL: the statements that write and read events.

Names that come from the user are quoted before they get here; values are always arguments.
"""

import struct
from collections.abc import Sequence

from reflex_aio.errors import SchemaError
from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE, Event
from reflex_aio.sql.dialects.postgres.catalog import identity_sql
from reflex_aio.sql.drivers.base import Row
from reflex_aio.sql.settings import EventsSettings

__all__ = ["Queries", "events_of", "head_sql", "insert_many_sql", "insert_noops_sql", "insert_sql"]

# How a timestamp is sent: microseconds since the year 2000, as PostgreSQL keeps it. Decoding it into a datetime would
# be most of what a stream costs the client, and few consumers look at it.
_EPOCH_2000_US = 946_684_800_000_000
_SEND = {
    "timestamp with time zone": "timestamptz_send",
    # Taken as UTC, as the session's time zone is anybody's.
    "timestamp without time zone": "timestamp_send",
}
_unpack = struct.Struct("!q").unpack

TIMESTAMP_TYPES = tuple(_SEND)


def insert_sql(settings: EventsSettings, table: str) -> str:
    """Return the INSERT of one event. Arguments: foreign id, type, and metadata and trace if the table has them."""
    types = _types(settings)
    values = ", ".join(
        [f"$1::text{_cast(settings)}", *(f"${i}::{kind}" for i, kind in enumerate(types[1:], 2))]
    )
    return f"INSERT INTO {table} ({_columns(settings)}) VALUES ({values}) {_returning(settings, table)}"


def insert_many_sql(settings: EventsSettings, table: str) -> str:
    """Return the INSERT of many events.

    Its arguments: the foreign ids as one text, what separates them, the types as one text, separated by commas, and
    arrays of metadata and trace if the table has them. An array of texts takes both ends several times as long as
    a text of the same length.
    """
    types = _types(settings)
    given = ["string_to_array($1::text, $2::text)", "string_to_array($3::text, ',')::integer[]"]
    given += [f"${i}::{kind}[]" for i, kind in enumerate(types[2:], 4)]
    names = [f"c{i}" for i in range(1, len(types) + 1)]
    chosen = ", ".join([f"c1{_cast(settings)}", *names[1:]])
    return (
        f"INSERT INTO {table} ({_columns(settings)})"
        f" SELECT {chosen} FROM unnest({', '.join(given)}) AS given({', '.join(names)}) {_returning(settings, table)}"
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
    """

    def __init__(
        self, settings: EventsSettings, table: str, timestamp_type: str, *, one_server: bool
    ) -> None:
        columns, event_id = settings.columns, _id(settings)
        send = f'{_SEND[timestamp_type]}("{columns.timestamp}")'
        parts = [event_id, f'"{columns.type}"', f'"{columns.foreign_id}"::text', send]
        if settings.schema.metadata or settings.schema.trace:
            parts.append(f'"{columns.metadata}"' if settings.schema.metadata else "NULL::bytea")
        if settings.schema.trace:
            parts.append(f'"{columns.trace}"')
        page = f"SELECT {', '.join(parts)} FROM {table} WHERE {event_id} > $1 ORDER BY {event_id} LIMIT $2"
        self.page = page
        """Rows after $1, at most $2."""
        names = ", ".join(f"c{i}" for i in range(len(parts)))
        identity = identity_sql("$3::text", "$4::int8::oid", server=one_server)
        self.checked_page = (
            f"SELECT {names}, i.identity FROM (SELECT {identity} AS identity) AS i"
            f" LEFT JOIN LATERAL ({page}) AS e({names}) ON true ORDER BY c0"
        )
        """The same with the table's identity as the last column, in one row with NULLs if there is none."""
        self.head = head_sql(settings, table)
        self.head_by_age = (
            f'SELECT {event_id} FROM {table} WHERE "{columns.timestamp}" <= to_timestamp($1::float8)'
            f"{' AT TIME ZONE ' + repr('UTC') if timestamp_type == TIMESTAMP_TYPES[1] else ''}"
            f" ORDER BY {event_id} DESC LIMIT 1"
        )
        kind, foreign_id = f'"{columns.type}"', f'"{columns.foreign_id}"::text'
        first = f"SELECT {event_id} AS id, ({kind}, {foreign_id}) AS event FROM {table} ORDER BY {event_id} LIMIT $1"
        self.bottom = (
            f"SELECT min({event_id}), (SELECT id FROM ({first}) AS first"
            f" WHERE event IS DISTINCT FROM ({NOOP_TYPE}, '{NOOP_FOREIGN_ID}'::text) ORDER BY id LIMIT 1) FROM {table}"
        )
        """The least id, and the least of one that is no noop, if it is among the first $1."""


def events_of(rows: Sequence[Row], settings: EventsSettings) -> list[Event]:
    """Turn the rows of a page into events, noops left out unless the table includes them.

    :raises SchemaError: if one has no timestamp
    """
    schema = settings.schema
    try:
        if schema.trace:
            events = [
                Event(str(r[0]), r[1], r[2], _unpack(r[3])[0] + _EPOCH_2000_US, r[4], r[5]) for r in rows
            ]
        elif schema.metadata:
            events = [Event(str(r[0]), r[1], r[2], _unpack(r[3])[0] + _EPOCH_2000_US, r[4]) for r in rows]
        else:
            events = [Event(str(r[0]), r[1], r[2], _unpack(r[3])[0] + _EPOCH_2000_US) for r in rows]
    except TypeError:
        without = next(r[0] for r in rows if r[3] is None)
        problem = f'column "{schema.columns.timestamp}" of event {without} is NULL'
        raise SchemaError(table=settings.name, differences=[problem]) from None
    if settings.include_noops:
        return events
    return [event for event in events if event.type != NOOP_TYPE or event.foreign_id != NOOP_FOREIGN_ID]


def _types(settings: EventsSettings) -> list[str]:
    return ["text", "integer", *["bytea"] * (settings.schema.metadata + settings.schema.trace)]


def _columns(settings: EventsSettings) -> str:
    columns = settings.columns
    names = [columns.foreign_id, columns.type]
    names += [columns.metadata] * settings.schema.metadata + [columns.trace] * settings.schema.trace
    return ", ".join(f'"{name}"' for name in names)


def _returning(settings: EventsSettings, table: str) -> str:
    # A constant of the statement, made anew whenever the search path changes. tableoid would be a partition's.
    return f"RETURNING {_id(settings)}, '{table}'::regclass::oid"


def _id(settings: EventsSettings) -> str:
    return f'"{settings.columns.id}"'


def _cast(settings: EventsSettings) -> str:
    # PostgreSQL assigns text to any kind of text by itself, to an integer only when told to.
    return "::bigint" if settings.schema.foreign_id == "bigint" else ""
