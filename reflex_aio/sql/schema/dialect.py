"""What a dialect has to do to make tables, and to look at those there are."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from reflex_aio.errors import TableNotFound
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import Name, TableSchema

__all__ = ["ExpectedColumn", "FoundColumn", "FoundTable", "SchemaDialect", "differences"]


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column that a table has. ``type`` is named as the database names it."""

    name: str
    type: str
    nullable: bool
    has_default: bool
    """Whether an insert may leave it out: it is an identity, generated, or has a default."""
    unique: bool
    """Whether an index keeps its values unique."""


@dataclass(frozen=True, slots=True)
class FoundTable:
    """What the database has under a table's name. ``kind`` is ``"table"``, or what it is instead."""

    kind: str
    columns: Mapping[str, FoundColumn]
    keys: Collection[frozenset[str]] = ()
    """The sets of columns whose values an index keeps unique."""


@dataclass(frozen=True, slots=True)
class ExpectedColumn:
    """A column that a table should have, NOT NULL unless ``nullable``."""

    name: str
    types: Sequence[str]
    nullable: bool = False
    needs_default: bool = False
    unique: bool = False
    otherwise: str = ""
    """What else may be done about a column of another type."""


def differences(found: FoundTable, expected: Sequence[ExpectedColumn], key: Sequence[str] = ()) -> list[str]:
    """Return a line for each way in which a table isn't what is expected.

    :param key: the columns that one index should keep unique together; none if empty
    """
    if found.kind != "table":
        return [f"it is a {found.kind}: accepted is a table"]
    lines: list[str] = []
    for wanted in expected:
        column = found.columns.get(wanted.name)
        lines += _missing(wanted, found) if column is None else _differing(column, wanted)
    names = {wanted.name for wanted in expected}
    for column in found.columns.values():
        if column.name not in names and not column.nullable and not column.has_default:
            lines.append(
                f'column "{column.name}" is NOT NULL and has no default: inserts leave it out, and would fail'
            )
    if key and frozenset(key) not in found.keys:
        columns = ", ".join(f'"{name}"' for name in key)
        lines.append(f"there is no unique index on ({columns})")
    return lines


def _missing(wanted: ExpectedColumn, found: FoundTable) -> list[str]:
    line = f'column "{wanted.name}" is missing: expected is {_either(wanted.types)}'
    for name in found.columns:
        if name.lower() == wanted.name.lower():
            line += f' (there is "{name}": names are quoted, so case counts)'
    return [line]


def _differing(column: FoundColumn, wanted: ExpectedColumn) -> list[str]:
    lines: list[str] = []
    if column.type not in wanted.types:
        line = f'column "{column.name}" is {column.type}: accepted is {_either(wanted.types)}'
        lines.append(f"{line} ({wanted.otherwise})" if wanted.otherwise else line)
    if column.nullable and not wanted.nullable:
        lines.append(f'column "{column.name}" may be NULL: it should be NOT NULL')
    if wanted.needs_default and not column.has_default:
        lines.append(f'column "{column.name}" has no default, nor is it an identity: inserts leave it out')
    if wanted.unique and not column.unique:
        lines.append(f'column "{column.name}" is neither the primary key nor has a unique index')
    return lines


def _either(types: Sequence[str]) -> str:
    return " or ".join([", ".join(types[:-1]), types[-1]] if len(types) > 1 else types)


class SchemaDialect(ABC):
    """The tables of one dialect. Has no state."""

    quote: ClassVar[str]
    """What stands around a quoted identifier."""

    @abstractmethod
    def ddl(self, schema: TableSchema) -> str:
        """Return the statements that make the table, for a migration."""

    @abstractmethod
    def create(self, schema: TableSchema) -> str:
        """Return one statement that makes the table if there is none. Several may run it at once."""

    @abstractmethod
    def expected(self, schema: TableSchema) -> Sequence[ExpectedColumn]:
        """Return the columns that are read and written."""

    @abstractmethod
    def key(self, schema: TableSchema) -> Sequence[str]:
        """Return the columns that one index has to keep unique together; none if there is no such index."""

    @abstractmethod
    async def found(self, driver: Driver, connection: Any, table: Name) -> FoundTable | None:
        """Return what the database has under the name ``table``, or ``None``."""

    def drop(self, schema: TableSchema) -> str:
        """Return the statement that removes the table, if there is one."""
        return f"DROP TABLE IF EXISTS {schema.table.quoted(self.quote)}"

    async def described(self, driver: Driver, connection: Any, schema: TableSchema) -> FoundTable:
        """Return what the database has under the table's name.

        :raises TableNotFound: if there is nothing
        """
        found = await self.found(driver, connection, schema.table)
        if found is None:
            raise TableNotFound(table=str(schema.table))
        return found

    async def compare(self, driver: Driver, connection: Any, schema: TableSchema) -> list[str]:
        """Return a line for each way in which the table isn't what ``schema`` says.

        :raises TableNotFound: if there is no such table
        """
        found = await self.described(driver, connection, schema)
        return differences(found, self.expected(schema), self.key(schema))
