"""Tables and their stores, and the interface of a database for creating tables and comparing existing ones."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from reflex_aio.errors import SchemaError, TableNotFound
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection, driver_of_pool
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import Name, TableSchema

__all__ = [
    "Column",
    "ExpectedColumn",
    "FoundColumn",
    "FoundTable",
    "SchemaDialect",
    "Table",
    "TableStore",
    "differences",
    "local_time_difference",
]

Dialect = TypeVar("Dialect")
Schema = TypeVar("Schema", bound=TableSchema)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table to be created. ``type`` is the database's name of its type."""

    name: str
    type: str
    primary: bool = False
    """True if it is the primary key, and so NOT NULL."""
    identity: bool = False
    """True if the database generates its values."""
    nullable: bool = False
    default: str | None = None
    """The expression of its default."""


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column of an existing table. ``type`` is the database's name of its type."""

    name: str
    type: str
    nullable: bool
    has_default: bool
    """True if an insert may omit it, as it is an identity, generated, or has a default."""
    unique: bool
    """True if an index makes its values unique."""
    local_time: bool = False
    """True if its default is the time in the time zone of the inserting session, stored without the zone."""


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A relation with the name of a table. ``kind`` is ``"table"``, or another kind of relation."""

    kind: str
    columns: Mapping[str, FoundColumn]
    keys: Collection[frozenset[str]] = ()
    """The sets of columns with a unique index."""


@dataclass(frozen=True, slots=True)
class ExpectedColumn:
    """A column that a table must have, NOT NULL unless ``nullable``."""

    name: str
    types: Sequence[str]
    nullable: bool = False
    needs_default: bool = False
    unique: bool = False
    hint: str = ""
    """A hint for a column of another type."""


def differences(found: FoundTable, expected: Sequence[ExpectedColumn], key: Sequence[str] = ()) -> list[str]:
    """Return a line for each difference between an existing table and the expected one.

    :param key: the columns that must have a unique index together; empty if there are none
    """
    if found.kind != "table":
        return [f"it is a {found.kind}: accepted is a table"]
    lines: list[str] = []
    for needed in expected:
        column = found.columns.get(needed.name)
        lines += _missing(needed, found) if column is None else _differing(column, needed)
    names = {needed.name for needed in expected}
    for column in found.columns.values():
        if column.name not in names and not column.nullable and not column.has_default:
            lines.append(
                f'column "{column.name}" is NOT NULL and has no default: inserts leave it out, and would fail'
            )
    if key and frozenset(key) not in found.keys:
        columns = ", ".join(f'"{name}"' for name in key)
        lines.append(f"there is no unique index on ({columns})")
    return lines


def local_time_difference(column: str) -> str:
    """Return the line for a column of times with :attr:`FoundColumn.local_time`."""
    return (
        f'column "{column}" has no time zone, and its default is in the time zone of the session, but it is read as'
        " UTC: accepted is a type with time zone, or a default in UTC such as clock_timestamp() AT TIME ZONE 'UTC'"
    )


def _missing(needed: ExpectedColumn, found: FoundTable) -> list[str]:
    line = f'column "{needed.name}" is missing: expected is {_either(needed.types)}'
    for name in found.columns:
        if name.lower() == needed.name.lower():
            line += f' (there is "{name}": names are quoted, so case counts)'
    return [line]


def _differing(column: FoundColumn, needed: ExpectedColumn) -> list[str]:
    lines: list[str] = []
    if column.type not in needed.types:
        line = f'column "{column.name}" is {column.type}: accepted is {_either(needed.types)}'
        lines.append(f"{line} ({needed.hint})" if needed.hint else line)
    if column.nullable and not needed.nullable:
        lines.append(f'column "{column.name}" may be NULL: it should be NOT NULL')
    if needed.needs_default and not column.has_default:
        lines.append(f'column "{column.name}" has no default, nor is it an identity: inserts leave it out')
    if column.local_time:
        lines.append(local_time_difference(column.name))
    if needed.unique and not column.unique:
        lines.append(f'column "{column.name}" is neither the primary key nor has a unique index')
    return lines


def _either(types: Sequence[str]) -> str:
    return " or ".join([", ".join(types[:-1]), types[-1]] if len(types) > 1 else types)


class SchemaDialect(ABC):
    """The tables of one database. It has no state."""

    quote: ClassVar[str]
    """The character that quotes identifiers."""

    @abstractmethod
    def columns(self, schema: TableSchema) -> Sequence[Column]:
        """Return the columns of the table to be created, in order."""

    @abstractmethod
    def statements(self, schema: TableSchema) -> list[str]:
        """Return the statements that create the table, for a migration."""

    @abstractmethod
    def create(self, schema: TableSchema) -> str:
        """Return one statement that creates the table unless it exists. Several sessions may run it at once."""

    @abstractmethod
    def expected(self, schema: TableSchema) -> Sequence[ExpectedColumn]:
        """Return the columns that are read and written."""

    @abstractmethod
    def key(self, schema: TableSchema) -> Sequence[str]:
        """Return the columns that must have a unique index together; empty if there are none."""

    @abstractmethod
    async def found(self, driver: Driver, connection: Any, table: Name) -> FoundTable | None:
        """Return the relation named ``table``, or ``None``."""

    def drop(self, schema: TableSchema) -> str:
        """Return the statement that drops the table if it exists."""
        return f"DROP TABLE IF EXISTS {schema.table.quoted(self.quote)}"

    async def described(self, driver: Driver, connection: Any, schema: TableSchema) -> FoundTable:
        """Return the relation with the table's name.

        :raises TableNotFound: if there is none
        """
        found = await self.found(driver, connection, schema.table)
        if found is None:
            raise TableNotFound(table=str(schema.table))
        return found

    async def compare(self, driver: Driver, connection: Any, schema: TableSchema) -> list[str]:
        """Return a line for each difference between the existing table and ``schema``.

        :raises TableNotFound: if there is no such table
        """
        found = await self.described(driver, connection, schema)
        return differences(found, self.expected(schema), self.key(schema))


class Table(Generic[Schema]):
    """A table in a database. It holds settings only: one object serves any number of connections and event loops.

    :param arguments: the ``locals()`` of the subclass's constructor, from which :meth:`replace` makes another table
    """

    def __init__(self, schema: Schema, arguments: Mapping[str, Any]) -> None:
        self.schema = schema
        self._name = str(schema.table)
        # A method that calls super() has __class__ among its locals.
        self._arguments = {
            name: value for name, value in arguments.items() if name not in ("self", "__class__")
        }

    @property
    def name(self) -> str:
        """The table's name, with its schema if one was given."""
        return self._name

    @property
    def tables(self) -> Sequence["Table[Any]"]:
        """The tables that this object creates, itself first."""
        return [self]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def replace(self, **changes: Any) -> Self:
        """Return a table object like this one, except for the arguments of the constructor that are given."""
        return type(self)(**{**self._arguments, **changes})

    def ddl(self, dialect: str = "postgres") -> str:
        """Return the statements that create the table, for a migration that is a script.

        :param dialect: ``"postgres"``, or ``"mysql"`` for MySQL and MariaDB
        :raises ValueError: if there is no such dialect, or it does not support the table's kind of wake-ups
        """
        return "".join(f"{statement};\n" for statement in self.ddl_statements(dialect))

    def ddl_statements(self, dialect: str = "postgres") -> list[str]:
        """Return the statements that create the table one by one, for migration tools such as Alembic.

        A prepared statement, which asyncpg makes of each statement with arguments and SQLAlchemy of each statement on
        asyncpg, cannot contain several commands.

        :param dialect: ``"postgres"``, or ``"mysql"`` for MySQL and MariaDB
        :raises ValueError: if there is no such dialect, or it does not support the table's kind of wake-ups
        """
        return dialect_part(SchemaDialect, dialect).statements(self.schema)

    async def create(self, connection: Any) -> None:
        """Create the table unless it exists. Several services may do so at the same time.

        :raises TypeError: if ``connection`` is not a connection
        """
        driver = driver_of_connection(connection)
        await driver.fetch(connection, dialect_part(SchemaDialect, driver.dialect).create(self.schema))

    async def validate(self, connection: Any) -> None:
        """Compare the table in the database with this object.

        :raises TableNotFound: if there is no such table
        :raises SchemaError: if the table differs, with a line for each difference
        :raises TypeError: if ``connection`` is not a connection
        """
        driver = driver_of_connection(connection)
        dialect = dialect_part(SchemaDialect, driver.dialect)
        differences = await dialect.compare(driver, connection, self.schema)
        if differences:
            raise SchemaError(table=self._name, differences=differences)


class TableStore(Generic[Dialect]):
    """A store that keeps its data in a table, through a pool.

    :param abstract: the abstract class of the statements that the store needs, see
        :func:`~reflex_aio.sql.dialect.dialect_part`
    :raises TypeError: if ``pool`` is not a pool
    """

    def __init__(self, table: Table[Any], pool: Any, abstract: Callable[..., Dialect]) -> None:
        self._table = table
        self._pool = pool
        # Looked up once: a cursor store is used for every event.
        self._driver = driver_of_pool(pool)
        self._dialect = dialect_part(abstract, self._driver.dialect, table.schema)
        self._errors = self._driver.errors(table.name)

    def __repr__(self) -> str:
        return f"{self._table!r}.store({self._pool!r})"

    @asynccontextmanager
    async def _connection(self, limit: asyncio.Timeout | None = None) -> AsyncIterator[Any]:
        """Acquire a connection. Within the context, the client library's errors are translated.

        :param limit: see :meth:`Driver.acquire <reflex_aio.sql.drivers.base.Driver.acquire>`
        """
        with self._errors:
            async with self._driver.acquire(self._pool, limit=limit) as connection:
                yield connection
