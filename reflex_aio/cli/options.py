"""The options that several commands have, and the databases that they name."""

import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import typer

from reflex_aio.cli.command import CommandError, Exit
from reflex_aio.errors import SchemaError
from reflex_aio.lease import LeaseState
from reflex_aio.sql import (
    AttemptsTable,
    CursorColumns,
    CursorsTable,
    ErrorColumns,
    ErrorsTable,
    EventColumns,
    EventsTable,
    LeasesTable,
    close_notifiers,
    open_pool,
)
from reflex_aio.sql.drivers import driver_of_pool

__all__ = [
    "AsJson",
    "AttemptsOptions",
    "CursorsDatabaseOptions",
    "CursorsOptions",
    "Database",
    "DatabaseOptions",
    "DryRun",
    "ErrorsOptions",
    "EventsOptions",
    "LeasesOptions",
    "Only",
    "Yes",
    "load_object",
    "open_database",
    "open_databases",
    "parse_age",
    "parse_time_ago",
    "read_leases",
]


T = TypeVar("T")
C = TypeVar("C", EventColumns, CursorColumns, ErrorColumns)

_DATABASE = "Database"
_TABLES = "Tables"

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")
]
Only: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="PATTERN",
        show_default=False,
        help="Only consumers whose names match, such as 'mail-*'.",
    ),
]


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """The database of the events."""

    dsn: Annotated[
        str | None,
        typer.Option(
            "--dsn",
            envvar="REFLEX_DSN",
            metavar="URL",
            show_default=False,
            rich_help_panel=_DATABASE,
            help="The database: scheme://user:password@host:port/database. Set a password in the environment:"
            " other users can see the arguments of processes.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class CursorsDatabaseOptions:
    """The database of the consumers' cursors, leases and errors."""

    cursors_dsn: Annotated[
        str | None,
        typer.Option(
            "--cursors-dsn",
            envvar="REFLEX_CURSORS_DSN",
            metavar="URL",
            show_default=False,
            rich_help_panel=_DATABASE,
            help="The database of the consumers' tables, if it is not that of the events.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class EventsOptions:
    """The events table."""

    events: Annotated[
        str,
        typer.Option(
            "--events",
            envvar="REFLEX_EVENTS",
            metavar="TABLE",
            rich_help_panel=_TABLES,
            help="The events table, optionally with a schema: schema.table.",
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
            help="Its columns with custom names: id=event_id,timestamp=created_at.",
        ),
    ] = None

    def table(self) -> EventsTable:
        """Return the table.

        :raises CommandError: if a name is invalid
        """
        columns = _parse_columns(EventColumns, "--events-columns", self.events_columns)
        return _check_value("--events", lambda: EventsTable(self.events, columns=columns))


@dataclass(frozen=True, slots=True)
class CursorsOptions:
    """The cursors table."""

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
            help="Its columns with custom names: last_event_id=position.",
        ),
    ] = None

    def table(self) -> CursorsTable:
        """Return the table.

        :raises CommandError: if a name is invalid
        """
        columns = _parse_columns(CursorColumns, "--cursors-columns", self.cursors_columns)
        return _check_value("--cursors", lambda: CursorsTable(self.cursors, columns=columns))


@dataclass(frozen=True, slots=True)
class ErrorsOptions:
    """The table of consumers' errors."""

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
            help="Its columns with custom names: error_msg=message.",
        ),
    ] = None

    def table(self) -> ErrorsTable:
        """Return the table.

        :raises CommandError: if a name is invalid
        """
        columns = _parse_columns(ErrorColumns, "--errors-columns", self.errors_columns)
        return _check_value("--errors", lambda: ErrorsTable(self.errors, columns=columns))


@dataclass(frozen=True, slots=True)
class LeasesOptions:
    """The leases table, if there is one."""

    leases: Annotated[
        str | None,
        typer.Option(
            "--leases",
            envvar="REFLEX_LEASES",
            metavar="TABLE",
            show_default="leases",
            rich_help_panel=_TABLES,
            help="The leases table.",
        ),
    ] = None

    def table(self) -> LeasesTable:
        """Return the table.

        :raises CommandError: if the name is invalid
        """
        return _check_value("--leases", lambda: LeasesTable("leases" if self.leases is None else self.leases))


@dataclass(frozen=True, slots=True)
class AttemptsOptions:
    """The table of failed attempts."""

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

        :raises CommandError: if the name is invalid
        """
        return _check_value("--attempts", lambda: AttemptsTable(self.attempts))


def _parse_columns(kind: type[C], option: str, text: str | None) -> C:
    """Return the column names in a text such as ``id=event_id,type=kind``.

    :raises CommandError: if it contains an unknown column or an invalid name
    """
    accepted = [field.name for field in fields(kind)]
    names: dict[str, str] = {}
    for pair in text.split(",") if text else ():
        column, _, name = (part.strip() for part in pair.partition("="))
        if column not in accepted or not name:
            raise CommandError(
                f"{option} {text!r} is not accepted: accepted is column=name,... with the columns"
                f" {', '.join(accepted)}",
                Exit.USAGE,
            )
        names[column] = name
    return _check_value(option, lambda: kind(**names))


def _check_value(option: str, make: Callable[[], T]) -> T:
    """Return an object made from the value of an option.

    :raises CommandError: if it raises ValueError
    """
    try:
        return make()
    except ValueError as exc:
        raise CommandError(f"{option}: {exc}", Exit.USAGE) from exc


_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_age(option: str, text: str) -> float:
    """Return the seconds in an age such as ``90s``, ``30m``, ``2h`` or ``7d``.

    :raises CommandError: if it is not an age
    """
    if match := _AGE.fullmatch(text):
        return float(match[1]) * _UNIT_SECONDS[match[2]]
    raise CommandError(f"{option} {text!r} is not accepted: accepted is 90s, 30m, 2h or 7d", Exit.USAGE)


def parse_time_ago(option: str, text: str) -> float:
    """Return the seconds since a time in the past, given as an age or in ISO 8601, by default in UTC.

    :raises CommandError: if it is neither, or in the future
    """
    if _AGE.fullmatch(text):
        return parse_age(option, text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{option} {text!r} is not accepted: accepted is 90s, 30m, 2h or 7d, or a time such as"
            " 2026-01-31T12:00",
            Exit.USAGE,
        ) from None
    seconds = (datetime.now(UTC) - (time if time.tzinfo else time.replace(tzinfo=UTC))).total_seconds()
    if seconds < 0:
        raise CommandError(f"{option} {text!r} is in the future", Exit.USAGE)
    return seconds


def load_object(option: str, name: str) -> Any:
    """Import an object of a user's module. The current directory is searched first.

    :param option: the name of the option or command, for messages
    :param name: ``package.module:object``, or ``package.module:object.attribute``
    :raises CommandError: if it cannot be imported
    """
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise CommandError(f"{option} {name!r} is not accepted: accepted is module:object", Exit.USAGE)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = import_module(module_name)
    except ModuleNotFoundError as exc:
        # The missing module may be one that the user's module imports.
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise CommandError(f"{option} {name!r} can't be imported: {exc}") from exc
        raise CommandError(f"{option} {name!r}: there is no module {exc.name}", Exit.USAGE) from exc
    except Exception as exc:
        raise CommandError(f"{option} {name!r} can't be imported: {type(exc).__name__}: {exc}") from exc
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise CommandError(f"{option} {name!r}: {module_name} has no attribute {path}", Exit.USAGE)
        found = getattr(found, attribute)
    return found


class Database:
    """A pool of connections, of any client library."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self._driver = driver_of_pool(pool)

    @asynccontextmanager
    async def connection(self, table: str) -> AsyncIterator[Any]:
        """Acquire a connection. Errors raised in the context begin with the name of ``table``."""
        with self._driver.errors(table):
            async with self._driver.acquire(self.pool) as connection:
                yield connection

    def transaction(self, connection: Any) -> AbstractAsyncContextManager[None]:
        """Return a context manager for a transaction."""
        return self._driver.transaction(connection)


@asynccontextmanager
async def open_database(dsn: str | None, *, size: int = 4, option: str = "--dsn") -> AsyncIterator[Database]:
    """Open the database of an option.

    :param size: the maximum number of connections
    :raises CommandError: if the DSN is missing or invalid
    """
    if not dsn:
        variable = "REFLEX_" + option.lstrip("-").upper().replace("-", "_")
        raise CommandError(f"no database is given: use {option}, or set {variable}", Exit.USAGE)
    async with AsyncExitStack() as stack:
        try:
            pool = await stack.enter_async_context(open_pool(dsn, size=size))
        except ValueError as exc:
            raise CommandError(f"{option}: {exc}", Exit.USAGE) from exc
        stack.push_async_callback(close_notifiers)
        yield Database(pool)


@asynccontextmanager
async def open_databases(
    dsn: str | None, cursors_dsn: str | None
) -> AsyncIterator[tuple[Database, Database]]:
    """Open the database of the events and that of the consumers' tables, which may be the same.

    :raises CommandError: if a DSN is missing or invalid
    """
    async with open_database(dsn) as events_database:
        if cursors_dsn is None:
            yield events_database, events_database
            return
        async with open_database(cursors_dsn, option="--cursors-dsn") as cursors_database:
            yield events_database, cursors_database


async def read_leases(database: Database, options: LeasesOptions) -> Mapping[str, LeaseState]:
    """Return the leases by consumer. Without ``--leases``, a missing or foreign table counts as empty.

    :raises SchemaError: if ``--leases`` names a table that is missing or not a leases table
    """
    try:
        return await options.table().store(database.pool).all()
    except SchemaError:
        if options.leases is None:
            # A table of the default name may have any other purpose.
            return {}
        raise
