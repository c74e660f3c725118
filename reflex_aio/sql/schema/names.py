"""The names of tables and columns, and the schemas of the five kinds of tables, without SQL."""

from dataclasses import astuple, dataclass, fields
from typing import Literal, TypeAlias

from reflex_aio.checks import check_instance
from reflex_aio.event import NIL_UUID, NOOP_FOREIGN_ID

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
ForeignIdType = Literal["text", "bigint", "uuid"]

# In bytes. PostgreSQL truncates longer names silently; MySQL accepts 64 characters.
_LONGEST = 63


def _check_identifier(what: str, text: str) -> None:
    check_instance(what, text, str, "a str")
    # A dollar sign could end a function's body. A leading digit is valid between quotes.
    if not text or not f"_{text.replace('-', '_')}".isidentifier():
        raise ValueError(f"{what} {text!r} is not accepted: a name has letters, digits, _ and - only")
    if len(text.encode()) > _LONGEST:
        raise ValueError(f"{what} {text!r} has {len(text.encode())} bytes: accepted are at most {_LONGEST}")


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a table in a schema, or in the connection's search path.

    Names are always quoted, so case is significant: ``Users`` is not the table that ``CREATE TABLE Users`` creates,
    which is ``users``.

    :raises TypeError: if a part is not a string
    :raises ValueError: if a part contains other characters than letters, digits, ``_`` and ``-``, or is longer than 63
        bytes
    """

    table: str
    schema: str | None = None

    def __post_init__(self) -> None:
        _check_identifier("table name", self.table)
        if self.schema is not None:
            _check_identifier("schema name", self.schema)

    @classmethod
    def parse(cls, text: str) -> "Name":
        """Return the name of ``table`` or ``schema.table``, written without quotes.

        :raises TypeError: if ``text`` is not a string
        :raises ValueError: if it is not such a name
        """
        check_instance("table name", text, str, "a str")
        schema, dot, table = text.rpartition(".")
        if "." in schema or (dot and not (schema and table)):
            raise ValueError(
                f"table name {text!r} has more than two parts, or an empty one: accepted is 'table' or 'schema.table'"
            )
        return cls(table, schema if dot else None)

    def quoted(self, quote: str) -> str:
        """Return the name as SQL, with each part between two ``quote`` characters."""
        parts = (self.table,) if self.schema is None else (self.schema, self.table)
        return ".".join(f"{quote}{part}{quote}" for part in parts)

    def __str__(self) -> str:
        return self.table if self.schema is None else f"{self.schema}.{self.table}"


def _check_columns(columns: "EventColumns | CursorColumns | ErrorColumns") -> None:
    names: tuple[str, ...] = astuple(columns)
    for field, name in zip(fields(columns), names, strict=True):
        _check_identifier(f"column name {field.name}=", name)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"column name {name!r} is given to two columns: {columns}")


@dataclass(frozen=True, slots=True)
class EventColumns:
    """The column names of an events table.

    :raises TypeError: if a name is not a string
    :raises ValueError: if a name contains characters that :class:`Name` does not accept, or is given twice
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

    :raises TypeError: if a name is not a string
    :raises ValueError: if a name contains characters that :class:`Name` does not accept, or is given twice
    """

    id: str = "id"
    last_event_id: str = "last_event_id"
    updated_at: str = "updated_at"

    def __post_init__(self) -> None:
        _check_columns(self)


@dataclass(frozen=True, slots=True)
class ErrorColumns:
    """The column names of an errors table.

    :raises TypeError: if a name is not a string
    :raises ValueError: if a name contains characters that :class:`Name` does not accept, or is given twice
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
    """The schema of an events table.

    :param foreign_id: the type of foreign ids
    :param metadata: whether there is a column for metadata
    :param trace: whether there is a column for traces
    :param trigger: whether a trigger wakes the streams, for writers in other languages
    :param partitioned: whether it is partitioned by ranges of ids
    :raises ValueError: if ``foreign_id`` is not an accepted type
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
        if self.foreign_id not in ("text", "bigint", "uuid"):
            raise ValueError(f"foreign_id {self.foreign_id!r} is not accepted: 'text', 'bigint' or 'uuid' is")
        check_instance("columns", self.columns, EventColumns, "an EventColumns, or None for the usual names")
        for name, flag in (("metadata", self.metadata), ("trace", self.trace)):
            check_instance(name, flag, bool, "a bool, whether the table has this column")

    @property
    def noop_foreign_id(self) -> str:
        """The foreign id of noops, as a text."""
        return NIL_UUID if self.foreign_id == "uuid" else NOOP_FOREIGN_ID


@dataclass(frozen=True, slots=True)
class CursorsSchema:
    """The schema of a cursors table.

    :param cursor_type: the type of cursors: integers, such as those of an events table, or opaque strings
    :raises ValueError: if ``cursor_type`` is not an accepted type
    :raises TypeError: if ``columns`` has the wrong type
    """

    table: Name
    columns: CursorColumns = CursorColumns()
    cursor_type: CursorType = "int"

    def __post_init__(self) -> None:
        if self.cursor_type not in ("int", "str"):
            raise ValueError(f"cursor_type {self.cursor_type!r} is not accepted: 'int' or 'str' is")
        check_instance("columns", self.columns, CursorColumns, "a CursorColumns, or None for the usual names")


@dataclass(frozen=True, slots=True)
class ErrorsSchema:
    """The schema of an errors table.

    :raises TypeError: if ``columns`` has the wrong type
    """

    table: Name
    columns: ErrorColumns = ErrorColumns()

    def __post_init__(self) -> None:
        check_instance("columns", self.columns, ErrorColumns, "an ErrorColumns, or None for the usual names")


@dataclass(frozen=True, slots=True)
class LeasesSchema:
    """The schema of a leases table, whose columns have fixed names."""

    table: Name


@dataclass(frozen=True, slots=True)
class AttemptsSchema:
    """The schema of an attempts table, whose columns have fixed names."""

    table: Name


TableSchema: TypeAlias = EventsSchema | CursorsSchema | ErrorsSchema | LeasesSchema | AttemptsSchema
"""The schema of a table of any kind."""
