"""PostgreSQL: creating tables, finding events tables, and describing existing tables."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

from reflex_aio.errors import SchemaError, TableNotFound, TableRefused
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import (
    AttemptsSchema,
    CursorsSchema,
    ErrorsSchema,
    EventsSchema,
    LeasesSchema,
    Name,
    TableSchema,
)
from reflex_aio.sql.schema.table import Column, ExpectedColumn, FoundColumn, FoundTable, SchemaDialect

__all__ = ["FoundEvents", "PostgresSchemaDialect"]

_KINDS = {"r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "foreign table"}

# Whether the column a, of type t and with the default d, has the local time of the session as its default.
_LOCAL_TIME = r"""coalesce(
    coalesce(nullif(t.typbasetype, 0), t.oid) = 'timestamp'::regtype
    AND pg_get_expr(d.adbin, d.adrelid) ~* '(now|_timestamp|timeofday)\(|current_timestamp|localtimestamp|''now'''
    AND pg_get_expr(d.adbin, d.adrelid) !~* '(at time zone |timezone\()''(utc|gmt|z|zulu|universal|etc/utc)''',
    false)"""

# The unique index of a partitioned table cannot be on the id alone unless it is partitioned by the id, so one that
# begins with the id is accepted. A domain is replaced by its base type.
_COLUMNS = f"""
SELECT c.relkind::text, a.attname::text, format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL),
       NOT (a.attnotnull OR t.typnotnull),
       a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL,
       EXISTS (SELECT FROM pg_index i
               WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
                 AND i.indpred IS NULL AND i.indkey[0] = a.attnum
                 AND (i.indnkeyatts = 1 OR c.relkind = 'p')),
       {_LOCAL_TIME}
FROM pg_class c
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.oid = to_regclass($1)
ORDER BY a.attnum
"""

_KEYS = """
SELECT array_agg(a.attname::text)
FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid
"""

# $1: the table's name as written, $2: its timestamp column, $3: the column of event types.
_FIND = f"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), n.nspname || '.' || c.relname, c.relkind::text,
       pg_is_in_recovery(), format_type(a.atttypid, NULL), {_LOCAL_TIME},
       (SELECT format_type(k.atttypid, NULL) FROM pg_attribute k
        WHERE k.attrelid = c.oid AND k.attname = $3 AND NOT k.attisdropped),
       (SELECT format_type(coalesce(nullif(i.typbasetype, 0), i.oid), NULL)
        FROM pg_attribute k JOIN pg_type i ON i.oid = k.atttypid
        WHERE k.attrelid = c.oid AND k.attname = $4 AND NOT k.attisdropped)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2 AND NOT a.attisdropped
LEFT JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.oid = to_regclass($1)
"""

_INTEGERS = ("integer", "bigint")
_TEXTS = ("text", "character varying")
# A timestamp without time zone is interpreted as UTC.
_TIMES = ("timestamp with time zone", "timestamp without time zone")
_CURSOR_TYPES = {"int": "bigint", "str": "text"}

# The name of the trigger and of its function, which all tables of a schema share.
_WAKE = "reflex_aio_wake"

# The payload must be identical to that of payload_of() in reflex_aio/sql/wakeups/notifier.py.
_WAKE_BODY = """
DECLARE
    payload text := TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME;
BEGIN
    IF octet_length(convert_to(payload, 'UTF8')) > 200 THEN
        payload := 'md5:' || md5(convert_to(payload, 'UTF8'));
    END IF;
    PERFORM pg_notify('reflex_aio', payload);
    RETURN NULL;
END
""".strip()


class FoundEvents(NamedTuple):
    """An events table in the database. From then on it is addressed by schema and name."""

    name: str
    """Its name with the schema, quoted."""
    topic: str
    """Its name in wake-ups."""
    kind: str
    in_recovery: bool
    """True if the server is a standby."""
    timestamp_type: str | None
    """``None`` if there is no timestamp column."""
    local_time: bool
    """True if the default of the timestamp column is the session's local time."""
    event_type: str | None
    """The type of the column of event types. ``None`` if there is none."""

    @property
    def partitioned(self) -> bool:
        """True if the table has partitions."""
        return self.kind == "p"

    @classmethod
    async def of(cls, driver: Driver, connection: Any, schema: EventsSchema) -> Self:
        """Find the table in the connection's search path.

        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it is a view
        :raises SchemaError: if the column of its ids is missing or has another type
        """
        name = str(schema.table)
        columns = schema.columns
        rows = await driver.fetch(
            connection, _FIND, schema.table.quoted('"'), columns.timestamp, columns.type, columns.id
        )
        if not rows:
            raise TableNotFound(table=name)
        *values, id_type = rows[0]
        found = cls(*values)
        if found.kind not in ("r", "p"):
            raise TableRefused(
                table=name,
                reason="it is no table, and so has no ids of its own",
                remedy="stream from the table that the view reads, if that has an id of its own",
            )
        if id_type not in _INTEGERS:
            difference = f"is {id_type or 'missing'}: accepted is {' or '.join(_INTEGERS)}"
            raise SchemaError(table=name, differences=[f'column "{columns.id}" {difference}'])
        return found


class PostgresSchemaDialect(SchemaDialect):
    """Tables of PostgreSQL 14 or later."""

    quote: ClassVar[str] = '"'

    def statements(self, schema: TableSchema) -> list[str]:
        statements = [self._table(schema)]
        if isinstance(schema, EventsSchema) and schema.trigger:
            statements += [self._function(schema.table), self._trigger(schema.table)]
        return statements

    def create(self, schema: TableSchema) -> str:
        table = schema.table.quoted(self.quote)
        # IF NOT EXISTS would only look in one schema of the search path, require the privilege CREATE although the
        # table exists, and fail if two services start at the same time.
        statements = [
            "PERFORM pg_advisory_xact_lock(hashtext('reflex_aio create'))",
            f"IF to_regclass('{table}') IS NULL THEN\n{self._table(schema)};\nEND IF",
        ]
        if isinstance(schema, EventsSchema) and schema.trigger:
            # Not OR REPLACE: that would block the writers of the table whenever a service starts.
            statements.append(
                f"IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = '{_WAKE}' AND tgrelid = '{table}'::regclass)"
                f" THEN\n{self._function(schema.table)};\n{self._trigger(schema.table)};\nEND IF"
            )
        return "DO $create$ BEGIN\n" + "".join(f"{statement};\n" for statement in statements) + "END $create$"

    def expected(self, schema: TableSchema) -> Sequence[ExpectedColumn]:
        if isinstance(schema, CursorsSchema):
            cursors = schema.columns
            return [
                ExpectedColumn(cursors.id, _TEXTS, unique=True),
                ExpectedColumn(cursors.last_event_id, _INTEGERS if schema.cursor_type == "int" else _TEXTS),
                ExpectedColumn(cursors.updated_at, _TIMES, nullable=True),
            ]
        if isinstance(schema, ErrorsSchema):
            errors = schema.columns
            return [
                ExpectedColumn(errors.id, _INTEGERS, needs_default=True, unique=True),
                ExpectedColumn(errors.consumer, _TEXTS),
                ExpectedColumn(errors.event_id, (*_TEXTS, *_INTEGERS)),
                ExpectedColumn(errors.error_msg, _TEXTS),
                ExpectedColumn(errors.created_at, ("timestamp with time zone",)),
                ExpectedColumn(errors.updated_at, ("timestamp with time zone",)),
                ExpectedColumn(errors.error_status, ("smallint", *_INTEGERS)),
            ]
        if isinstance(schema, LeasesSchema):
            return [
                ExpectedColumn("id", _TEXTS, unique=True),
                ExpectedColumn("owner", _TEXTS),
                ExpectedColumn("epoch", _INTEGERS),
                ExpectedColumn("expires_at", ("timestamp with time zone",)),
            ]
        if isinstance(schema, AttemptsSchema):
            return [
                ExpectedColumn("consumer", _TEXTS),
                ExpectedColumn("event_id", _TEXTS),
                ExpectedColumn("attempts", _INTEGERS),
                ExpectedColumn("next_try_at", ("timestamp with time zone",)),
            ]
        events = schema.columns
        columns = [
            ExpectedColumn(events.id, _INTEGERS, needs_default=True, unique=True),
            ExpectedColumn(events.type, ("smallint", *_INTEGERS)),
            ExpectedColumn(events.timestamp, _TIMES, needs_default=True),
            _foreign_id(schema),
        ]
        if schema.metadata:
            columns.append(ExpectedColumn(events.metadata, ("bytea",), nullable=True))
        if schema.trace:
            columns.append(ExpectedColumn(events.trace, ("bytea",), nullable=True))
        return columns

    def key(self, schema: TableSchema) -> Sequence[str]:
        if isinstance(schema, AttemptsSchema):
            return "consumer", "event_id"
        if isinstance(schema, ErrorsSchema):
            return schema.columns.consumer, schema.columns.event_id
        return ()

    async def found(self, driver: Driver, connection: Any, table: Name) -> FoundTable | None:
        rows = await driver.fetch(connection, _COLUMNS, table.quoted(self.quote))
        if not rows:
            return None
        kind: str = rows[0][0]
        columns = [FoundColumn(*row[1:]) for row in rows if row[1] is not None]
        keys = await driver.fetch(connection, _KEYS, table.quoted(self.quote))
        return FoundTable(
            _KINDS.get(kind, f"relation of kind {kind!r}"),
            {column.name: column for column in columns},
            {frozenset(row[0]) for row in keys},
        )

    def _table(self, schema: TableSchema) -> str:
        columns = ",\n".join(f"    {self._column(column)}" for column in self.columns(schema))
        if key := self.key(schema):
            names = ", ".join(f"{self.quote}{name}{self.quote}" for name in key)
            kind = "PRIMARY KEY" if isinstance(schema, AttemptsSchema) else "UNIQUE"
            columns += f",\n    {kind} ({names})"
        partitioned = ""
        if isinstance(schema, EventsSchema) and schema.partitioned:
            partitioned = f" PARTITION BY RANGE ({self.quote}{schema.columns.id}{self.quote})"
        return f"CREATE TABLE {schema.table.quoted(self.quote)} (\n{columns}\n){partitioned}"

    def columns(self, schema: TableSchema) -> Sequence[Column]:
        if isinstance(schema, CursorsSchema):
            cursors = schema.columns
            return [
                Column(cursors.id, "text", primary=True),
                Column(cursors.last_event_id, _CURSOR_TYPES[schema.cursor_type]),
                Column(cursors.updated_at, "timestamptz", default="now()"),
            ]
        if isinstance(schema, ErrorsSchema):
            errors = schema.columns
            return [
                Column(errors.id, "bigint", primary=True, identity=True),
                Column(errors.consumer, "text"),
                Column(errors.event_id, "text"),
                Column(errors.error_msg, "text"),
                Column(errors.created_at, "timestamptz", default="now()"),
                Column(errors.updated_at, "timestamptz", default="now()"),
                Column(errors.error_status, "integer"),
            ]
        if isinstance(schema, LeasesSchema):
            return [
                Column("id", "text", primary=True),
                Column("owner", "text"),
                Column("epoch", "bigint"),
                Column("expires_at", "timestamptz"),
            ]
        if isinstance(schema, AttemptsSchema):
            return [
                Column("consumer", "text"),
                Column("event_id", "text"),
                Column("attempts", "bigint"),
                Column("next_try_at", "timestamptz"),
            ]
        events = schema.columns
        columns = [
            Column(events.id, "bigint", primary=True, identity=True),
            Column(events.type, "integer"),
            # Not now(), the start of the transaction: times should increase with ids, and the event of a long
            # transaction is not old when it is inserted.
            Column(events.timestamp, "timestamptz", default="clock_timestamp()"),
            Column(events.foreign_id, schema.foreign_id),
        ]
        if schema.metadata:
            columns.append(Column(events.metadata, "bytea", nullable=True))
        if schema.trace:
            columns.append(Column(events.trace, "bytea", nullable=True))
        return columns

    def _column(self, column: Column) -> str:
        parts = [f"{self.quote}{column.name}{self.quote} {column.type}"]
        # ALWAYS: an event with an id that was chosen by hand, below the head while its transaction is open, could be
        # missed.
        parts += ["GENERATED ALWAYS AS IDENTITY"] * column.identity + ["PRIMARY KEY"] * column.primary
        parts += ["NOT NULL"] * (not (column.primary or column.nullable))
        parts += [] if column.default is None else [f"DEFAULT {column.default}"]
        return " ".join(parts)

    def _function(self, table: Name) -> str:
        return (
            f"CREATE OR REPLACE FUNCTION {self._wake(table)}() RETURNS trigger LANGUAGE plpgsql AS $wake$\n"
            f"{_WAKE_BODY}\n$wake$"
        )

    def _trigger(self, table: Name) -> str:
        return (
            f"CREATE TRIGGER {_WAKE} AFTER INSERT ON {table.quoted(self.quote)}\n"
            f"    FOR EACH STATEMENT EXECUTE FUNCTION {self._wake(table)}()"
        )

    def _wake(self, table: Name) -> str:
        return Name(_WAKE, table.schema).quoted(self.quote)


def _foreign_id(schema: EventsSchema) -> ExpectedColumn:
    name = schema.columns.foreign_id
    if schema.foreign_id == "bigint":
        return ExpectedColumn(name, ("smallint", *_INTEGERS, *_TEXTS))
    if schema.foreign_id == "uuid":
        return ExpectedColumn(name, ("uuid", *_TEXTS))
    return ExpectedColumn(
        name, _TEXTS, hint="foreign_id='bigint' is for integers, foreign_id='uuid' for UUIDs"
    )
