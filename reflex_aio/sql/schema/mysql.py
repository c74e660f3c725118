"""MySQL and MariaDB: creating tables, finding events tables, and describing existing tables."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

from reflex_aio.errors import SchemaError, TableNotFound, TableRefused
from reflex_aio.sql.drivers.base import Driver, Row
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

__all__ = ["FoundEvents", "MysqlSchemaDialect", "microseconds_sql", "now_sql", "schema_sql", "timestamp_type"]

_KINDS = {"BASE TABLE": "table", "SYSTEM VERSIONED": "table", "VIEW": "view"}

# For a name without a database, schema_sql() returns DATABASE(). Not an expression of both: unless the schema is a
# constant, MariaDB opens every table of every database.
_TABLE = """
SELECT table_type, engine FROM information_schema.tables WHERE table_schema = {schema} AND table_name = %s
"""
_COLUMNS = """
SELECT column_name, data_type, column_type LIKE '%%unsigned%%', extra LIKE '%%auto_increment%%', is_nullable = 'YES',
       column_default IS NOT NULL OR extra LIKE '%%auto_increment%%' OR extra LIKE '%%generated%%'
FROM information_schema.columns AS c WHERE table_schema = {schema} AND table_name = %s ORDER BY c.ordinal_position
"""
# An index on a prefix makes only the prefixes unique.
_KEYS = """
SELECT index_name, column_name, sub_part FROM information_schema.statistics
WHERE table_schema = {schema} AND table_name = %s AND non_unique = 0
"""
_TIMESTAMP_TYPE = """
SELECT data_type, datetime_precision FROM information_schema.columns
WHERE table_schema = {schema} AND table_name = %s AND column_name = %s
"""

_UTC = ("UTC", "GMT", "ETC/UTC", "+00:00", "-00:00")

_INTEGERS = ("int", "bigint", "int unsigned", "bigint unsigned")
_ANY_INTEGERS = ("tinyint", "smallint", "mediumint", *_INTEGERS)
_IDS = tuple(f"{kind} auto_increment" for kind in _INTEGERS)
_TEXTS = ("varchar", "char", "text", "mediumtext", "longtext")
_BYTES = ("longblob", "mediumblob", "blob", "tinyblob", "varbinary")
# A datetime is interpreted as UTC.
_TIMES = ("timestamp", "datetime")

_NOW = "CURRENT_TIMESTAMP(6)"
# Names are compared by case and accents, as in all other databases. Two columns of this length fit in an index of any
# row format.
_NAME = "varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_CURSOR_TYPES = {"int": "bigint", "str": "varchar(255)"}
_FOREIGN_ID_TYPES = {"text": "varchar(255)", "bigint": "bigint", "uuid": "uuid"}


def schema_sql(name: Name) -> str:
    """Return the expression for the database that a table is in."""
    # Name has checked its characters.
    return "DATABASE()" if name.schema is None else f"'{name.schema}'"


async def timestamp_type(driver: Driver, connection: Any, table: Name, column: str) -> tuple[str, int] | None:
    """Return the type and precision of a column of times; ``None`` if there is none, or it has another type."""
    statement = _TIMESTAMP_TYPE.format(schema=schema_sql(table))
    rows = await driver.fetch(connection, statement, table.table, column)
    return (rows[0][0], rows[0][1]) if rows and rows[0][0] in _TIMES else None


# Microseconds since 1970, as an integer: decoding datetimes would be most of the client's cost of a stream. A timestamp
# is stored in UTC, but would be converted to the session's time zone; a datetime is interpreted as UTC.
_MICROSECONDS = {
    "timestamp": "CAST(UNIX_TIMESTAMP({}) * 1000000 AS SIGNED)",
    "datetime": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {})",
}
# The stored value is UTC for both types. With the precision of the column, to which it would be rounded up.
_CURRENT_TIME = {"timestamp": "CURRENT_TIMESTAMP({})", "datetime": "UTC_TIMESTAMP({})"}


def now_sql(timestamp_type: str, precision: int) -> str:
    """Return the expression for the current time in a column of this type."""
    return _CURRENT_TIME[timestamp_type].format(precision)


def microseconds_sql(timestamp_type: str, expression: str) -> str:
    """Return the expression that converts a time of this type to microseconds since 1970."""
    return _MICROSECONDS[timestamp_type].format(expression)


# With subqueries that name the table: for a join, MariaDB opens every table of every database.
_FIND = """
SELECT t.table_schema, t.table_name, t.table_type,
       (SELECT data_type FROM information_schema.columns
        WHERE table_schema = {schema} AND table_name = %s AND column_name = %s),
       (SELECT datetime_precision FROM information_schema.columns
        WHERE table_schema = {schema} AND table_name = %s AND column_name = %s),
       VERSION() LIKE '%%MariaDB%%', @@max_allowed_packet,
       IF(@@GLOBAL.time_zone = 'SYSTEM', @@system_time_zone, @@GLOBAL.time_zone),
       (SELECT character_set_name LIKE 'utf8mb%%' FROM information_schema.columns
        WHERE table_schema = {schema} AND table_name = %s AND column_name = %s),
       (SELECT data_type FROM information_schema.columns
        WHERE table_schema = {schema} AND table_name = %s AND column_name = %s)
FROM information_schema.tables t WHERE t.table_schema = {schema} AND t.table_name = %s
"""


class FoundEvents(NamedTuple):
    """An events table in the database."""

    schema: str
    table: str
    timestamp_type: str
    now: str
    """The expression for the current time in its timestamp column."""
    is_mariadb: bool
    longest_statement: int
    """The server's ``max_allowed_packet``, in bytes."""
    time_zone: str
    """The time zone of sessions that do not set one."""
    utf8: bool
    """True if foreign ids are texts that are stored in UTF-8."""

    @classmethod
    async def of(cls, driver: Driver, connection: Any, schema: EventsSchema) -> Self:
        """Find the table in the connection's database.

        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it is a view
        :raises SchemaError: if the column of its ids or times is missing or has another type
        """
        name, column = schema.table, schema.columns.timestamp
        foreign_id = schema.columns.foreign_id
        event_id = schema.columns.id
        found = [column, column, foreign_id, event_id]
        arguments = (*(part for each in found for part in (name.table, each)), name.table)
        rows = await driver.fetch(connection, _FIND.format(schema=schema_sql(name)), *arguments)
        if not rows:
            raise TableNotFound(table=str(name))
        database, table, kind, timestamp, precision, is_mariadb, longest, zone, utf8, id_type = rows[0]
        if kind not in ("BASE TABLE", "SYSTEM VERSIONED"):
            raise TableRefused(
                table=str(name),
                reason="it is no table, and so has no ids of its own",
                remedy="stream from the table that the view reads, if that has an id of its own",
            )
        if timestamp not in _TIMES:
            difference = f"is {timestamp or 'missing'}: accepted is {' or '.join(_TIMES)}"
            raise SchemaError(table=str(name), differences=[f'column "{column}" {difference}'])
        if id_type not in ("int", "bigint"):
            difference = f"is {id_type or 'missing'}: accepted is int or bigint, also unsigned"
            raise SchemaError(table=str(name), differences=[f'column "{event_id}" {difference}'])
        return cls(
            database,
            table,
            timestamp,
            now_sql(timestamp, precision),
            bool(is_mariadb),
            longest,
            zone,
            bool(utf8),
        )

    @property
    def local_time(self) -> bool:
        """True if NOW() is not UTC in such a session, but is read as UTC."""
        return self.timestamp_type == "datetime" and self.time_zone.upper() not in _UTC

    @property
    def name(self) -> str:
        """Its name with the database, quoted."""
        return f"`{self.schema}`.`{self.table}`"

    @property
    def topic(self) -> str:
        """Its name in wake-ups."""
        return f"{self.schema}.{self.table}"


class MysqlSchemaDialect(SchemaDialect):
    """Tables on MySQL and MariaDB."""

    quote: ClassVar[str] = "`"

    def statements(self, schema: TableSchema) -> list[str]:
        return [self._create(schema, "CREATE TABLE")]

    def create(self, schema: TableSchema) -> str:
        return self._create(schema, "CREATE TABLE IF NOT EXISTS")

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
                ExpectedColumn(errors.id, _IDS, unique=True),
                ExpectedColumn(errors.consumer, _TEXTS),
                ExpectedColumn(errors.event_id, (*_TEXTS, *_INTEGERS)),
                ExpectedColumn(errors.error_msg, _TEXTS),
                ExpectedColumn(errors.created_at, _TIMES),
                ExpectedColumn(errors.updated_at, _TIMES),
                ExpectedColumn(errors.error_status, _ANY_INTEGERS),
            ]
        if isinstance(schema, LeasesSchema):
            return [
                ExpectedColumn("id", _TEXTS, unique=True),
                ExpectedColumn("owner", _TEXTS),
                ExpectedColumn("epoch", _INTEGERS),
                # A timestamp would be converted to and from the session's time zone.
                ExpectedColumn("expires_at", ("datetime",)),
            ]
        if isinstance(schema, AttemptsSchema):
            return [
                ExpectedColumn("consumer", _TEXTS),
                ExpectedColumn("event_id", _TEXTS),
                ExpectedColumn("attempts", _INTEGERS),
                ExpectedColumn("next_try_at", ("datetime",)),
            ]
        events = schema.columns
        columns = [
            ExpectedColumn(events.id, _IDS, unique=True),
            ExpectedColumn(events.type, _ANY_INTEGERS),
            ExpectedColumn(events.timestamp, _TIMES),
            _foreign_id(schema),
        ]
        if schema.metadata:
            columns.append(ExpectedColumn(events.metadata, _BYTES, nullable=True))
        if schema.trace:
            columns.append(ExpectedColumn(events.trace, _BYTES, nullable=True))
        return columns

    def key(self, schema: TableSchema) -> Sequence[str]:
        if isinstance(schema, AttemptsSchema):
            return "consumer", "event_id"
        if isinstance(schema, ErrorsSchema):
            return schema.columns.consumer, schema.columns.event_id
        return ()

    async def found(self, driver: Driver, connection: Any, table: Name) -> FoundTable | None:
        async def fetch(statement: str) -> Sequence[Row]:
            return await driver.fetch(connection, statement.format(schema=schema_sql(table)), table.table)

        tables = await fetch(_TABLE)
        if not tables:
            return None
        keys = _keys(await fetch(_KEYS))
        columns = [_column(row, keys) for row in await fetch(_COLUMNS)]
        return FoundTable(_kind(*tables[0]), {column.name: column for column in columns}, keys)

    def _create(self, schema: TableSchema, create: str) -> str:
        if isinstance(schema, EventsSchema) and schema.trigger:
            raise ValueError(
                f"wakeups='trigger' of {schema.table} is not accepted: MySQL and MariaDB have no NOTIFY, which the"
                " trigger would call"
            )
        columns = self.columns(schema)
        lines = [f"    {self._column(column)}" for column in columns]
        lines += [f"    PRIMARY KEY ({self._quoted(column.name)})" for column in columns if column.primary]
        if key := self.key(schema):
            kind = "PRIMARY KEY" if isinstance(schema, AttemptsSchema) else "UNIQUE"
            lines.append(f"    {kind} ({', '.join(map(self._quoted, key))})")
        inside = ",\n".join(lines)
        return f"{create} {schema.table.quoted(self.quote)} (\n{inside}\n) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4"

    def columns(self, schema: TableSchema) -> Sequence[Column]:
        if isinstance(schema, CursorsSchema):
            cursors = schema.columns
            return [
                Column(cursors.id, _NAME, primary=True),
                Column(cursors.last_event_id, _CURSOR_TYPES[schema.cursor_type]),
                Column(cursors.updated_at, "timestamp(6)", default=_NOW),
            ]
        if isinstance(schema, ErrorsSchema):
            errors = schema.columns
            return [
                Column(errors.id, "bigint", primary=True, identity=True),
                Column(errors.consumer, _NAME),
                Column(errors.event_id, _NAME),
                Column(errors.error_msg, "mediumtext"),
                Column(errors.created_at, "timestamp(6)", default=_NOW),
                Column(errors.updated_at, "timestamp(6)", default=_NOW),
                Column(errors.error_status, "int"),
            ]
        if isinstance(schema, LeasesSchema):
            return [
                Column("id", _NAME, primary=True),
                Column("owner", _NAME),
                Column("epoch", "bigint"),
                Column("expires_at", "datetime(6)"),
            ]
        if isinstance(schema, AttemptsSchema):
            return [
                Column("consumer", _NAME),
                Column("event_id", _NAME),
                Column("attempts", "bigint"),
                Column("next_try_at", "datetime(6)"),
            ]
        events = schema.columns
        columns = [
            Column(events.id, "bigint", primary=True, identity=True),
            Column(events.type, "int"),
            Column(events.timestamp, "timestamp(6)", default=_NOW),
            Column(events.foreign_id, _FOREIGN_ID_TYPES[schema.foreign_id]),
        ]
        if schema.metadata:
            columns.append(Column(events.metadata, "longblob", nullable=True))
        if schema.trace:
            columns.append(Column(events.trace, "blob", nullable=True))
        return columns

    def _column(self, column: Column) -> str:
        parts = [f"{self._quoted(column.name)} {column.type}"]
        parts += ["NOT NULL"] * (not column.nullable) + ["AUTO_INCREMENT"] * column.identity
        parts += [] if column.default is None else [f"DEFAULT {column.default}"]
        return " ".join(parts)

    def _quoted(self, name: str) -> str:
        return f"{self.quote}{name}{self.quote}"


def _kind(table_type: str, engine: str | None) -> str:
    kind = _KINDS.get(table_type, f"relation of kind {table_type!r}")
    if kind == "table" and engine != "InnoDB":
        return f"table of the engine {engine}, which has no transactions as InnoDB has"
    return kind


def _column(row: Row, keys: Sequence[frozenset[str]]) -> FoundColumn:
    name, kind, unsigned, auto_increment, nullable, has_default = row
    kind += " unsigned" * bool(unsigned) + " auto_increment" * bool(auto_increment)
    return FoundColumn(name, kind, bool(nullable), bool(has_default), unique=frozenset({name}) in keys)


def _keys(rows: Sequence[Row]) -> list[frozenset[str]]:
    columns: dict[str, set[str]] = defaultdict(set)
    partial = set()
    for index, column, sub_part in rows:
        columns[index].add(column)
        if sub_part is not None:
            partial.add(index)
    return [frozenset(names) for index, names in columns.items() if index not in partial]


def _foreign_id(schema: EventsSchema) -> ExpectedColumn:
    name = schema.columns.foreign_id
    if schema.foreign_id == "bigint":
        return ExpectedColumn(name, (*_ANY_INTEGERS, *_TEXTS))
    if schema.foreign_id == "uuid":
        return ExpectedColumn(name, ("uuid", *_TEXTS))
    return ExpectedColumn(
        name, _TEXTS, hint="foreign_id='bigint' is for integers, foreign_id='uuid' for UUIDs"
    )
