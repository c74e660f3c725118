"""The tables as SQLAlchemy tables, for Alembic. It requires the extra ``sqlalchemy``."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.checks import check_instance
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.schema.names import EventsSchema
from reflex_aio.sql.schema.table import Column, SchemaDialect, Table

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects import mysql, postgresql
    from sqlalchemy.types import TypeEngine
except ImportError as exc:
    raise ImportError(
        "tables for Alembic need SQLAlchemy: pip install 'reflex-aio[sqlalchemy]'", name=exc.name
    ) from exc

__all__ = ["add_tables"]

# By dialect and by the database's name of the type.
_TYPES: dict[str, dict[str, TypeEngine[Any]]] = {
    "postgres": {
        "bigint": sa.BigInteger(),
        "bytea": postgresql.BYTEA(),
        "integer": sa.Integer(),
        "text": sa.Text(),
        "timestamptz": postgresql.TIMESTAMP(timezone=True),
        "uuid": sa.Uuid(),
    },
    "mysql": {
        "bigint": sa.BigInteger(),
        "blob": mysql.BLOB(),
        "datetime(6)": mysql.DATETIME(fsp=6),
        "int": sa.Integer(),
        "longblob": mysql.LONGBLOB(),
        "mediumtext": mysql.MEDIUMTEXT(),
        "timestamp(6)": mysql.TIMESTAMP(fsp=6),
        "uuid": sa.Uuid(),
        "varchar(255)": mysql.VARCHAR(255),
        "varchar(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin": mysql.VARCHAR(
            255, charset="utf8mb4", collation="utf8mb4_bin"
        ),
    },
}


def add_tables(metadata: sa.MetaData, *tables: Table[Any], dialect: str = "postgres") -> list[sa.Table]:
    """Add tables to ``metadata``, so that Alembic's autogenerate creates them, and never drops them as unknown.

    They equal those that ``ddl()`` creates. A trigger, for ``wakeups="trigger"``, is not part of a SQLAlchemy table:
    execute the statements of ``ddl_statements()`` instead, and leave the table out of autogenerate or add it here too.

    :param tables: table objects. An errors table adds the table of its events too
    :param dialect: ``"postgres"``, or ``"mysql"`` for MySQL and MariaDB
    :return: the SQLAlchemy tables, in order
    :raises ValueError: if there is no such dialect
    :raises TypeError: if an argument has the wrong type
    :raises sqlalchemy.exc.InvalidRequestError: if ``metadata`` has another table of the same name
    """
    check_instance("metadata", metadata, sa.MetaData, "a sqlalchemy.MetaData")
    part = dialect_part(SchemaDialect, dialect)
    added = []
    for given in tables:
        check_instance("table", given, Table, "a table object, such as EventsTable('events')")
        for table in given.tables:
            schema = table.schema
            columns = part.columns(schema)
            key = part.key(schema)
            has_primary = any(column.primary for column in columns)
            constraint: Sequence[sa.Constraint] = ()
            if key:
                constraint = [sa.UniqueConstraint(*key) if has_primary else sa.PrimaryKeyConstraint(*key)]
            options: dict[str, Any] = {"mysql_engine": "InnoDB", "mysql_default_charset": "utf8mb4"}
            if isinstance(schema, EventsSchema) and schema.partitioned:
                options["postgresql_partition_by"] = f'RANGE ("{schema.columns.id}")'
            added.append(
                sa.Table(
                    schema.table.table,
                    metadata,
                    *(_column(column, dialect) for column in columns),
                    *constraint,
                    schema=schema.table.schema,
                    **options,
                )
            )
    return added


def _column(column: Column, dialect: str) -> sa.Column[Any]:
    generated = [sa.Identity(always=True)] if column.identity and dialect == "postgres" else []
    return sa.Column(
        column.name,
        _TYPES[dialect][column.type],
        *generated,
        primary_key=column.primary,
        autoincrement=column.identity,
        nullable=column.nullable,
        server_default=None if column.default is None else sa.text(column.default),
    )
