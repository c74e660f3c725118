"""The base classes of the table objects, and of the stores that use a table through a pool."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, Self, TypeVar

from reflex_aio.errors import SchemaError
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection, driver_of_pool
from reflex_aio.sql.schema.dialect import SchemaDialect
from reflex_aio.sql.schema.names import TableSchema

__all__ = ["Table", "TableStore"]

Dialect = TypeVar("Dialect")
Schema = TypeVar("Schema", bound=TableSchema)


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
