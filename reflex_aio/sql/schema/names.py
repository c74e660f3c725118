"""Names of tables and columns, and which of them a table has. The SQL made of them is the dialects'."""

from dataclasses import astuple, dataclass, fields
from typing import Literal, TypeAlias

__all__ = [
    "AttemptsSchema",
    "CursorColumns",
    "CursorType",
    "CursorsSchema",
    "ErrorColumns",
    "ErrorsSchema",
    "EventColumns",
    "EventsSchema",
    "ForeignIdType",
    "LeasesSchema",
    "Name",
    "TableSchema",
]

CursorType = Literal["int", "str"]
ForeignIdType = Literal["text", "bigint"]

# PostgreSQL cuts longer names in silence; MySQL takes 64 characters.
_LONGEST = 63


def _check_identifier(text: str, what: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} {text!r} is a {type(text).__name__}: accepted is a str")
    # No dollars either: they could end a function's body. A leading digit is fine between quotes.
    if not text or not f"_{text.replace('-', '_')}".isidentifier():
        raise ValueError(f"{what} {text!r} is not accepted: a name has letters, digits, _ and - only")
    if len(text.encode()) > _LONGEST:
        raise ValueError(f"{what} {text!r} has {len(text.encode())} bytes: accepted are at most {_LONGEST}")


def _check_kind(what: str, value: object, kind: type, accepted: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{what} {value!r} is a {type(value).__name__}: accepted is {accepted}")


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a table, within a schema or wherever the connection's search path finds it.

    Names are always quoted, so case counts: ``Users`` is not the table that ``CREATE TABLE Users`` makes,
    which is ``users``.

    :raises TypeError: if a part is no string
    :raises ValueError: if a part has other characters than letters, digits, ``_`` and ``-``, or is longer
        than 63 bytes
    """

    table: str
    schema: str | None = None

    def __post_init__(self) -> None:
        _check_identifier(self.table, "table name")
        if self.schema is not None:
            _check_identifier(self.schema, "schema name")

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Return the name that people write as ``table`` or ``schema.table``, without quotes.

        :raises TypeError: if it is no string
        :raises ValueError: if it isn't such a name
        """
        if not isinstance(text, str):
            raise TypeError(f"table name {text!r} is a {type(text).__name__}: accepted is a str")
        schema, dot, table = text.rpartition(".")
        if "." in schema or (dot and not (schema and table)):
            raise ValueError(
                f"table name {text!r} has more than two parts, or an empty one: accepted is 'table' or 'schema.table'"
            )
        return cls(table, schema if dot else None)

    def quoted(self, quote: str) -> str:
        """Return the name as SQL, each part between two of the dialect's ``quote`` characters."""
        parts = (self.table,) if self.schema is None else (self.schema, self.table)
        return ".".join(f"{quote}{part}{quote}" for part in parts)

    def __str__(self) -> str:
        return self.table if self.schema is None else f"{self.schema}.{self.table}"


def _check_columns(columns: "EventColumns | CursorColumns | ErrorColumns") -> None:
    names: tuple[str, ...] = astuple(columns)
    for field, name in zip(fields(columns), names, strict=True):
        _check_identifier(name, f"column name {field.name}=")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"column name {name!r} is given to two columns: {columns}")


@dataclass(frozen=True, slots=True)
class EventColumns:
    """The column names of an events table.

    :raises TypeError: if a name is no string
    :raises ValueError: if a name has characters that :class:`Name` refuses, or is given twice
    """

    id: str = "id"
    type: str = "type"
    timestamp: str = "timestamp"
    foreign_id: str = "foreign_id"
    metadata: str = "metadata"
    trace: str = "trace"

    def __post_init__(self) -> None:
        _check_columns(self)


@dataclass(frozen=True, slots=True)
class CursorColumns:
    """The column names of a cursors table.

    :raises TypeError: if a name is no string
    :raises ValueError: if a name has characters that :class:`Name` refuses, or is given twice
    """

    id: str = "id"
    last_event_id: str = "last_event_id"
    updated_at: str = "updated_at"

    def __post_init__(self) -> None:
        _check_columns(self)


@dataclass(frozen=True, slots=True)
class ErrorColumns:
    """The column names of an errors table.

    :raises TypeError: if a name is no string
    :raises ValueError: if a name has characters that :class:`Name` refuses, or is given twice
    """

    id: str = "id"
    consumer: str = "consumer"
    event_id: str = "event_id"
    error_msg: str = "error_msg"
    created_at: str = "created_at"
    updated_at: str = "updated_at"
    error_status: str = "error_status"

    def __post_init__(self) -> None:
        _check_columns(self)


@dataclass(frozen=True, slots=True)
class EventsSchema:
    """What an events table looks like.

    :param foreign_id: the type of foreign ids
    :param metadata: whether there is a column for metadata
    :param trace: whether there is a column for traces
    :param trigger: whether a trigger wakes the streams, for writers that aren't Python
    :param partitioned: whether it is partitioned by ranges of ids
    :raises ValueError: if ``foreign_id`` is none of the types accepted
    :raises TypeError: if a value has the wrong type
    """

    table: Name
    columns: EventColumns = EventColumns()
    foreign_id: ForeignIdType = "text"
    metadata: bool = False
    trace: bool = False
    trigger: bool = False
    partitioned: bool = False

    def __post_init__(self) -> None:
        if self.foreign_id not in ("text", "bigint"):
            raise ValueError(f"foreign_id {self.foreign_id!r} is not accepted: 'text' or 'bigint' is")
        _check_kind("columns", self.columns, EventColumns, "an EventColumns, or None for the usual names")
        for what, flag in (("metadata", self.metadata), ("trace", self.trace)):
            _check_kind(what, flag, bool, "a bool, which tells whether there is such a column")


@dataclass(frozen=True, slots=True)
class CursorsSchema:
    """What a cursors table looks like.

    :param cursor_type: the type of cursors: integers, as of an events table, or opaque strings
    :raises ValueError: if ``cursor_type`` is none of the types accepted
    :raises TypeError: if ``columns`` has the wrong type
    """

    table: Name
    columns: CursorColumns = CursorColumns()
    cursor_type: CursorType = "int"

    def __post_init__(self) -> None:
        if self.cursor_type not in ("int", "str"):
            raise ValueError(f"cursor_type {self.cursor_type!r} is not accepted: 'int' or 'str' is")
        _check_kind("columns", self.columns, CursorColumns, "a CursorColumns, or None for the usual names")


@dataclass(frozen=True, slots=True)
class ErrorsSchema:
    """What an errors table looks like.

    :raises TypeError: if ``columns`` has the wrong type
    """

    table: Name
    columns: ErrorColumns = ErrorColumns()

    def __post_init__(self) -> None:
        _check_kind("columns", self.columns, ErrorColumns, "an ErrorColumns, or None for the usual names")


@dataclass(frozen=True, slots=True)
class LeasesSchema:
    """The schema of a leases table, whose columns have fixed names."""

    table: Name


@dataclass(frozen=True, slots=True)
class AttemptsSchema:
    """The schema of an attempts table, whose columns have fixed names."""

    table: Name


TableSchema: TypeAlias = EventsSchema | CursorsSchema | ErrorsSchema | LeasesSchema | AttemptsSchema
"""What a table of one of the kinds that there are looks like."""
