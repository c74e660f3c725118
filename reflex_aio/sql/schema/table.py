"""The base class of the table objects: a table's name, the statements that create it, and its validation."""

from collections.abc import Mapping
from typing import Any, Generic, Self, TypeVar

from reflex_aio.errors import SchemaError
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.sql.schema.dialect import SchemaDialect
from reflex_aio.sql.schema.names import TableSchema

__all__ = ["Table"]

Schema = TypeVar("Schema", bound=TableSchema)


class Table(Generic[Schema]):
    """A table in a database. It holds settings only: one object serves any number of connections and event loops.

    :param arguments: the ``locals()`` of the subclass's constructor, from which :meth:`replace` makes another table
    """

    def __init__(self, schema: Schema, arguments: Mapping[str, Any]) -> None:
        self._schema = schema
        # A method that calls super() has __class__ among its locals.
        self._arguments = {
            name: value for name, value in arguments.items() if name not in ("self", "__class__")
        }

    @property
    def name(self) -> str:
        """The table's name, with its schema if one was given."""
        return str(self._schema.table)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def replace(self, **changes: Any) -> Self:
        """Return a table object like this one, except for the arguments of the constructor that are given."""
        return type(self)(**{**self._arguments, **changes})

    def ddl(self, dialect: str = "postgres") -> str:
        """Return the statements that create the table, for a migration.

        :raises ValueError: if there is no such dialect
        """
        return dialect_part(SchemaDialect, dialect).ddl(self._schema)

    async def create(self, connection: Any) -> None:
        """Create the table unless it exists. Several services may do so at the same time.

        :raises TypeError: if ``connection`` is not a connection
        """
        driver = driver_of_connection(connection)
        await driver.fetch(connection, dialect_part(SchemaDialect, driver.dialect).create(self._schema))

    async def validate(self, connection: Any) -> None:
        """Compare the table in the database with this object.

        :raises TableNotFound: if there is no such table
        :raises SchemaError: if the table differs, with a line for each difference
        :raises TypeError: if ``connection`` is not a connection
        """
        driver = driver_of_connection(connection)
        dialect = dialect_part(SchemaDialect, driver.dialect)
        differences = await dialect.compare(driver, connection, self._schema)
        if differences:
            raise SchemaError(table=self.name, differences=differences)
