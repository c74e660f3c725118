"""The options that several commands share, in groups, and the tables that they stand for."""

from dataclasses import dataclass, fields
from typing import Annotated, TypeAlias, TypeVar

import typer

from reflex_aio.cli.exits import CommandError, Exit
from reflex_aio.sql import (
    AttemptsTable,
    CursorColumns,
    CursorsTable,
    ErrorColumns,
    ErrorsTable,
    EventColumns,
    EventsTable,
    LeasesTable,
)

__all__ = [
    "AsJson",
    "AttemptsOptions",
    "CursorsDatabaseOptions",
    "CursorsOptions",
    "DatabaseOptions",
    "DryRun",
    "ErrorsOptions",
    "EventsOptions",
    "LeasesOptions",
    "Yes",
]

C = TypeVar("C", EventColumns, CursorColumns, ErrorColumns)

_DATABASE = "Database"
_TABLES = "Tables"

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Go on without asking.")]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Tell what would be done, and change nothing.")
]


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """Which database."""

    dsn: Annotated[
        str | None,
        typer.Option(
            "--dsn",
            envvar="REFLEX_DSN",
            metavar="URL",
            show_default=False,
            rich_help_panel=_DATABASE,
            help="The database: scheme://user:password@host:port/database. A password is better set in the"
            " environment, as others see the arguments of processes.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class CursorsDatabaseOptions:
    """Which database the cursors, leases and errors of consumers are in."""

    cursors_dsn: Annotated[
        str | None,
        typer.Option(
            "--cursors-dsn",
            envvar="REFLEX_CURSORS_DSN",
            metavar="URL",
            show_default=False,
            rich_help_panel=_DATABASE,
            help="The database of the consumers' own tables, if it isn't that of the events.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class EventsOptions:
    """Which events table."""

    events: Annotated[
        str,
        typer.Option(
            "--events",
            envvar="REFLEX_EVENTS",
            metavar="TABLE",
            rich_help_panel=_TABLES,
            help="The events table; with a schema: schema.table.",
        ),
    ] = "events"
    events_columns: Annotated[
        str | None,
        typer.Option(
            "--events-columns",
            envvar="REFLEX_EVENTS_COLUMNS",
            metavar="NAMES",
            show_default=False,
            rich_help_panel=_TABLES,
            help="Its columns, where they are called otherwise: id=event_id,timestamp=created_at.",
        ),
    ] = None

    def table(self) -> EventsTable:
        """Return the table.

        :raises CommandError: if a name isn't accepted
        """
        columns = _columns(EventColumns, "--events-columns", self.events_columns)
        try:
            return EventsTable(self.events, columns=columns)
        except ValueError as exc:
            raise CommandError(f"--events: {exc}", Exit.USAGE) from exc


@dataclass(frozen=True, slots=True)
class CursorsOptions:
    """Which cursors table."""

    cursors: Annotated[
        str,
        typer.Option(
            "--cursors",
            envvar="REFLEX_CURSORS",
            metavar="TABLE",
            rich_help_panel=_TABLES,
            help="The cursors table.",
        ),
    ] = "cursors"
    cursors_columns: Annotated[
        str | None,
        typer.Option(
            "--cursors-columns",
            envvar="REFLEX_CURSORS_COLUMNS",
            metavar="NAMES",
            show_default=False,
            rich_help_panel=_TABLES,
            help="Its columns: last_event_id=position.",
        ),
    ] = None

    def table(self) -> CursorsTable:
        """Return the table.

        :raises CommandError: if a name isn't accepted
        """
        columns = _columns(CursorColumns, "--cursors-columns", self.cursors_columns)
        try:
            return CursorsTable(self.cursors, columns=columns)
        except ValueError as exc:
            raise CommandError(f"--cursors: {exc}", Exit.USAGE) from exc


@dataclass(frozen=True, slots=True)
class ErrorsOptions:
    """Which table of consumers' errors."""

    errors: Annotated[
        str,
        typer.Option(
            "--errors",
            envvar="REFLEX_ERRORS",
            metavar="TABLE",
            rich_help_panel=_TABLES,
            help="The table of consumers' errors.",
        ),
    ] = "consumer_errors"
    errors_columns: Annotated[
        str | None,
        typer.Option(
            "--errors-columns",
            envvar="REFLEX_ERRORS_COLUMNS",
            metavar="NAMES",
            show_default=False,
            rich_help_panel=_TABLES,
            help="Its columns: error_msg=message.",
        ),
    ] = None

    def table(self) -> ErrorsTable:
        """Return the table, with that of its events.

        :raises CommandError: if a name isn't accepted
        """
        columns = _columns(ErrorColumns, "--errors-columns", self.errors_columns)
        try:
            return ErrorsTable(self.errors, columns=columns)
        except ValueError as exc:
            raise CommandError(f"--errors: {exc}", Exit.USAGE) from exc


@dataclass(frozen=True, slots=True)
class LeasesOptions:
    """Which leases table, if any."""

    leases: Annotated[
        str | None,
        typer.Option(
            "--leases",
            envvar="REFLEX_LEASES",
            metavar="TABLE",
            show_default="leases",
            rich_help_panel=_TABLES,
            help="The table of leases.",
        ),
    ] = None

    def table(self) -> LeasesTable:
        """Return the table.

        :raises CommandError: if a name isn't accepted
        """
        try:
            return LeasesTable("leases" if self.leases is None else self.leases)
        except ValueError as exc:
            raise CommandError(f"--leases: {exc}", Exit.USAGE) from exc


@dataclass(frozen=True, slots=True)
class AttemptsOptions:
    """Which table of failed attempts."""

    attempts: Annotated[
        str,
        typer.Option(
            "--attempts",
            envvar="REFLEX_ATTEMPTS",
            metavar="TABLE",
            rich_help_panel=_TABLES,
            help="The table of failed attempts.",
        ),
    ] = "consumer_attempts"

    def table(self) -> AttemptsTable:
        """Return the table.

        :raises CommandError: if a name isn't accepted
        """
        try:
            return AttemptsTable(self.attempts)
        except ValueError as exc:
            raise CommandError(f"--attempts: {exc}", Exit.USAGE) from exc


def _columns(kind: type[C], option: str, text: str | None) -> C:
    """Return the column names that a text such as ``id=event_id,type=kind`` tells."""
    accepted = [field.name for field in fields(kind)]
    names: dict[str, str] = {}
    for pair in text.split(",") if text else ():
        column, _, name = (part.strip() for part in pair.partition("="))
        if column not in accepted or not name:
            raise CommandError(
                f"{option} {text!r} is not accepted: it is column=name,..., of the columns {', '.join(accepted)}",
                Exit.USAGE,
            )
        names[column] = name
    try:
        return kind(**names)
    except ValueError as exc:
        raise CommandError(f"{option}: {exc}", Exit.USAGE) from exc
