"""The leases table: which replica of a service runs a consumer, beside the table of its cursors."""

from typing import Any, TypedDict, Unpack

from reflex_aio.errors import SchemaError
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.sql.leases.store import TableLeaseStore
from reflex_aio.sql.schema.dialect import SchemaDialect
from reflex_aio.sql.schema.names import LeaseColumns, LeasesSchema, Name

__all__ = ["LeasesTable"]


class _Options(TypedDict, total=False):
    name: str
    columns: LeaseColumns | None


class LeasesTable:
    """A table with a row for each name that was ever leased: its owner, its epoch, and when it expires.

    It belongs into the database that the cursors are in: there, a statement that moves a cursor can compare the lease.

    :param name: ``table`` or ``schema.table``; case counts
    :param columns: what its columns are called
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if a name isn't accepted
    """

    def __init__(self, name: str, *, columns: LeaseColumns | None = None) -> None:
        self._schema = LeasesSchema(Name.parse(name), LeaseColumns() if columns is None else columns)

    @property
    def name(self) -> str:
        """The table's name, with its schema if one was given."""
        return str(self._schema.table)

    @property
    def columns(self) -> LeaseColumns:
        """What its columns are called."""
        return self._schema.columns

    def __repr__(self) -> str:
        return f"LeasesTable({self.name!r})"

    def replace(self, **changes: Unpack[_Options]) -> "LeasesTable":
        """Return a table like this one but for the changes, which are those that the constructor takes."""
        options: _Options = {"name": self.name, "columns": self.columns}
        options.update(changes)
        return LeasesTable(**options)

    def ddl(self, dialect: str = "postgres") -> str:
        """Return the statements that make the table, for a migration.

        :raises ValueError: if there is no such dialect
        """
        return dialect_part(SchemaDialect, dialect).ddl(self._schema)

    async def create(self, connection: Any) -> None:
        """Make the table if there is none. Several services may do so at once.

        :raises TypeError: if it isn't a connection
        """
        driver = driver_of_connection(connection)
        await driver.fetch(connection, dialect_part(SchemaDialect, driver.dialect).create(self._schema))

    async def validate(self, connection: Any) -> None:
        """Compare the table with what is expected of it.

        :raises TypeError: if it isn't a connection
        :raises TableNotFound: if there is no such table
        :raises SchemaError: if it differs, with all the differences
        """
        driver = driver_of_connection(connection)
        differences = await dialect_part(SchemaDialect, driver.dialect).compare(
            driver, connection, self._schema
        )
        if differences:
            raise SchemaError(table=self.name, differences=differences)

    def store(self, pool: Any) -> TableLeaseStore:
        """Return the store that lends the leases of this table, through a pool.

        :raises TypeError: if it isn't a pool
        """
        return TableLeaseStore(self._schema, pool)
