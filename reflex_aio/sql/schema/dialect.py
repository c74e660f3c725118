"""What a dialect has to do to make tables, and to look at those there are."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from reflex_aio.errors import TableNotFound
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import ExpectedColumn, FoundTable, Name, TableSchema, differences

__all__ = ["SchemaDialect"]


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
