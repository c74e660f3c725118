"""``ddl``, ``create`` and ``validate``: the tables themselves."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Protocol

import typer

from reflex_aio.cli.database import database
from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.cli.options import (
    AsJson,
    AttemptsOptions,
    CursorsOptions,
    DatabaseOptions,
    ErrorsOptions,
    EventsOptions,
    LeasesOptions,
)
from reflex_aio.cli.output import print_json, print_line, print_table
from reflex_aio.cli.running import command
from reflex_aio.errors import SchemaError, TableNotFound

__all__ = ["create", "ddl", "validate"]


class Kind(StrEnum):
    """What a table is for."""

    EVENTS = "events"
    CURSORS = "cursors"
    ERRORS = "errors"
    LEASES = "leases"
    ATTEMPTS = "attempts"


class ForeignId(StrEnum):
    """The type of foreign ids."""

    TEXT = "text"
    BIGINT = "bigint"


class CursorType(StrEnum):
    """The type of cursors."""

    INT = "int"
    STR = "str"


class Table(Protocol):
    """What all table objects have."""

    @property
    def name(self) -> str: ...
    def ddl(self, dialect: str = ...) -> str: ...
    async def create(self, connection: Any) -> None: ...
    async def validate(self, connection: Any) -> None: ...


_SHAPE = "What the tables are like"

Kinds = Annotated[list[Kind], typer.Argument(help="Which tables.", show_default="events cursors")]
EVENTS_AND_CURSORS = [Kind.EVENTS, Kind.CURSORS]


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """What tables that are made are like."""

    metadata: Annotated[bool, typer.Option(rich_help_panel=_SHAPE, help="Whether events have metadata.")] = (
        False
    )
    trace: Annotated[bool, typer.Option(rich_help_panel=_SHAPE, help="Whether events have traces.")] = False
    foreign_id: Annotated[
        ForeignId, typer.Option(rich_help_panel=_SHAPE, help="The type of foreign ids.")
    ] = ForeignId.TEXT
    trigger: Annotated[
        bool,
        typer.Option(
            "--trigger",
            rich_help_panel=_SHAPE,
            help="Let a trigger wake streams, for writers that aren't Python.",
        ),
    ] = False
    cursor_type: Annotated[CursorType, typer.Option(rich_help_panel=_SHAPE, help="The type of cursors.")] = (
        CursorType.INT
    )


@command
async def ddl(
    events: EventsOptions,
    cursors: CursorsOptions,
    errors: ErrorsOptions,
    leases: LeasesOptions,
    attempts: AttemptsOptions,
    shape: ShapeOptions,
    kinds: Kinds = EVENTS_AND_CURSORS,
    dialect: Annotated[
        str, typer.Option(help="Whose SQL: postgres, or mysql, which is also MariaDB's.")
    ] = "postgres",
    as_json: AsJson = False,
) -> None:
    """Print the statements that make the tables, for a migration. Needs no database."""
    try:
        statements = {
            table.name: table.ddl(dialect)
            for table in _tables(kinds, events, cursors, errors, leases, attempts, shape).values()
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
    shape: ShapeOptions,
    kinds: Kinds = EVENTS_AND_CURSORS,
    as_json: AsJson = False,
) -> None:
    """Make the tables that there aren't yet, and compare those that there are.

    Ends with status 1 if one that is there already isn't as it should be.
    """
    made: list[dict[str, Any]] = []
    tables = _tables(kinds, events, cursors, errors, leases, attempts, shape)
    async with database(at.dsn) as opened, opened.connection("tables") as connection:
        for kind, table in tables.items():
            try:
                await table.validate(connection)
            except TableNotFound:
                await table.create(connection)
                await table.validate(connection)
                made.append({"table": table.name, "kind": kind, "made": True})
            else:
                made.append({"table": table.name, "kind": kind, "made": False})
    if as_json:
        print_json({"tables": made})
    else:
        for each in made:
            print_line(f"{each['table']}: {'made' if each['made'] else 'is there already, as it should be'}")


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
    """Compare the tables with what is expected of them.

    Ends with status 3 if one isn't there, and with status 1 if one differs.
    """
    found: dict[str, list[str]] = {}
    status = Exit.DONE
    async with database(at.dsn) as opened, opened.connection("tables") as connection:
        for kind, table in _tables(kinds, events, cursors, errors, leases, attempts, ShapeOptions()).items():
            try:
                if kind is Kind.EVENTS:
                    table = await events.table().as_found(connection)
                elif kind is Kind.CURSORS:
                    table = await cursors.table().as_found(connection)
                await table.validate(connection)
            except SchemaError as exc:
                found[table.name] = list(exc.differences)
                missing = isinstance(exc, TableNotFound)
                status = Exit.NOT_FOUND if missing or status is Exit.NOT_FOUND else Exit.FAILED
            else:
                found[table.name] = []
    if as_json:
        print_json({"tables": [{"table": name, "differences": lines} for name, lines in found.items()]})
    else:
        print_table(("table", ""), _lines(found))
    if status:
        raise typer.Exit(status)


def _tables(
    kinds: Iterable[Kind],
    events: EventsOptions,
    cursors: CursorsOptions,
    errors: ErrorsOptions,
    leases: LeasesOptions,
    attempts: AttemptsOptions,
    shape: ShapeOptions,
) -> dict[Kind, Table]:
    """Return the tables of some kinds."""
    tables: dict[Kind, Table] = {}
    for kind in kinds:
        match kind:
            case Kind.EVENTS:
                tables[kind] = events.table().replace(
                    metadata=shape.metadata,
                    trace=shape.trace,
                    foreign_id=shape.foreign_id.value,
                    wakeups="trigger" if shape.trigger else "commit",
                )
            case Kind.CURSORS:
                tables[kind] = cursors.table().replace(cursor_type=shape.cursor_type.value)
            case Kind.ERRORS:
                tables[kind] = errors.table()
            case Kind.LEASES:
                tables[kind] = leases.table()
            case Kind.ATTEMPTS:
                tables[kind] = attempts.table()
    return tables


def _lines(found: dict[str, list[str]]) -> Iterable[tuple[str, str]]:
    for name, differences in found.items():
        for line in differences or ["as it should be"]:
            yield name, line
