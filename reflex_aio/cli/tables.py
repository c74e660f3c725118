"""``ddl``, ``create`` and ``validate``: creation and validation of the tables."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Protocol

import typer

from reflex_aio.cli.command import CommandError, Exit, command
from reflex_aio.cli.options import (
    AsJson,
    AttemptsOptions,
    CursorsOptions,
    DatabaseOptions,
    ErrorsOptions,
    EventsOptions,
    LeasesOptions,
    open_database,
)
from reflex_aio.cli.output import print_json, print_line, print_table
from reflex_aio.errors import SchemaError, TableNotFound

__all__ = ["create", "ddl", "validate"]


class Kind(StrEnum):
    """The kind of a table, by its content."""

    EVENTS = "events"
    CURSORS = "cursors"
    ERRORS = "errors"
    LEASES = "leases"
    ATTEMPTS = "attempts"


class ForeignId(StrEnum):
    """The type of foreign ids."""

    TEXT = "text"
    BIGINT = "bigint"
    UUID = "uuid"


class CursorType(StrEnum):
    """The type of cursors."""

    INT = "int"
    STR = "str"


class Table(Protocol):
    """The methods that all table objects have."""

    @property
    def name(self) -> str: ...
    def ddl(self, dialect: str = ...) -> str: ...
    async def create(self, connection: Any) -> None: ...
    async def validate(self, connection: Any) -> None: ...


_LAYOUT = "Layout of the tables"

Kinds = Annotated[list[Kind], typer.Argument(help="The tables.", show_default="events cursors")]
EVENTS_AND_CURSORS = [Kind.EVENTS, Kind.CURSORS]


@dataclass(frozen=True, slots=True)
class LayoutOptions:
    """The layout of tables that are created."""

    metadata: Annotated[bool, typer.Option(rich_help_panel=_LAYOUT, help="Whether events have metadata.")] = (
        False
    )
    trace: Annotated[bool, typer.Option(rich_help_panel=_LAYOUT, help="Whether events have traces.")] = False
    foreign_id: Annotated[
        ForeignId, typer.Option(rich_help_panel=_LAYOUT, help="The type of foreign ids.")
    ] = ForeignId.TEXT
    trigger: Annotated[
        bool,
        typer.Option(
            "--trigger",
            rich_help_panel=_LAYOUT,
            help="Wake streams by a trigger, for writers that do not use this package.",
        ),
    ] = False
    cursor_type: Annotated[CursorType, typer.Option(rich_help_panel=_LAYOUT, help="The type of cursors.")] = (
        CursorType.INT
    )


@command
async def ddl(
    events: EventsOptions,
    cursors: CursorsOptions,
    errors: ErrorsOptions,
    leases: LeasesOptions,
    attempts: AttemptsOptions,
    layout: LayoutOptions,
    kinds: Kinds = EVENTS_AND_CURSORS,
    dialect: Annotated[
        str, typer.Option(help="The SQL dialect: postgres, or mysql for MySQL and MariaDB.")
    ] = "postgres",
    as_json: AsJson = False,
) -> None:
    """Print the statements that create the tables, for a migration. Needs no database."""
    try:
        statements = {
            table.name: table.ddl(dialect)
            for table in _make_tables(kinds, events, cursors, errors, leases, attempts, layout).values()
        }
    except ValueError as exc:
        raise CommandError(f"--dialect: {exc}", Exit.USAGE) from exc
    if as_json:
        print_json({"dialect": dialect, "tables": statements})
    else:
        print_line("\n".join(statements.values()).rstrip())


@command
async def create(
    at: DatabaseOptions,
    events: EventsOptions,
    cursors: CursorsOptions,
    errors: ErrorsOptions,
    leases: LeasesOptions,
    attempts: AttemptsOptions,
    layout: LayoutOptions,
    kinds: Kinds = EVENTS_AND_CURSORS,
    as_json: AsJson = False,
) -> None:
    """Create the tables that do not exist, and validate those that do.

    Ends with status 1 if a table that exists differs from what is expected.
    """
    outcomes: list[dict[str, Any]] = []
    tables = _make_tables(kinds, events, cursors, errors, leases, attempts, layout)
    async with open_database(at.dsn) as database, database.connection("tables") as connection:
        for kind, table in tables.items():
            try:
                await table.validate(connection)
            except TableNotFound:
                await table.create(connection)
                await table.validate(connection)
                outcomes.append({"table": table.name, "kind": kind, "created": True})
            else:
                outcomes.append({"table": table.name, "kind": kind, "created": False})
    if as_json:
        print_json({"tables": outcomes})
    else:
        for each in outcomes:
            print_line(f"{each['table']}: {'created' if each['created'] else 'exists and is valid'}")


@command
async def validate(
    at: DatabaseOptions,
    events: EventsOptions,
    cursors: CursorsOptions,
    errors: ErrorsOptions,
    leases: LeasesOptions,
    attempts: AttemptsOptions,
    kinds: Kinds = EVENTS_AND_CURSORS,
    as_json: AsJson = False,
) -> None:
    """Compare the tables with what is expected.

    Ends with status 3 if a table does not exist, and with status 1 if one differs.
    """
    differences: dict[str, list[str]] = {}
    status = Exit.DONE
    tables = _make_tables(kinds, events, cursors, errors, leases, attempts, LayoutOptions())
    async with open_database(at.dsn) as database, database.connection("tables") as connection:
        for kind, table in tables.items():
            try:
                if kind is Kind.EVENTS:
                    table = await events.table().as_found(connection)
                elif kind is Kind.CURSORS:
                    table = await cursors.table().as_found(connection)
                await table.validate(connection)
            except SchemaError as exc:
                differences[table.name] = list(exc.differences)
                missing = isinstance(exc, TableNotFound)
                status = Exit.NOT_FOUND if missing or status is Exit.NOT_FOUND else Exit.FAILED
            else:
                differences[table.name] = []
    if as_json:
        print_json({"tables": [{"table": name, "differences": lines} for name, lines in differences.items()]})
    else:
        print_table(
            ("table", "result"),
            [(name, line) for name, lines in differences.items() for line in lines or ["valid"]],
        )
    if status:
        raise typer.Exit(status)


def _make_tables(
    kinds: Iterable[Kind],
    events: EventsOptions,
    cursors: CursorsOptions,
    errors: ErrorsOptions,
    leases: LeasesOptions,
    attempts: AttemptsOptions,
    layout: LayoutOptions,
) -> dict[Kind, Table]:
    """Return the tables of the given kinds."""
    tables: dict[Kind, Table] = {}
    for kind in kinds:
        match kind:
            case Kind.EVENTS:
                tables[kind] = events.table().replace(
                    metadata=layout.metadata,
                    trace=layout.trace,
                    foreign_id=layout.foreign_id.value,
                    wakeups="trigger" if layout.trigger else "commit",
                )
            case Kind.CURSORS:
                tables[kind] = cursors.table().replace(cursor_type=layout.cursor_type.value)
            case Kind.ERRORS:
                tables[kind] = errors.table()
            case Kind.LEASES:
                tables[kind] = leases.table()
            case Kind.ATTEMPTS:
                tables[kind] = attempts.table()
    return tables
