"""MySQL and MariaDB: the errors of their client libraries, told apart by the server's numbers."""

from dataclasses import dataclass

from reflex_aio.errors import ConnectionLost, DatabaseError, ReflexError, SchemaError, TableNotFound

__all__ = ["LOCK_CONFLICTS", "Library", "translated"]

# Source: https://mariadb.com/docs/server/reference/error-codes, and the reference of MySQL's server and client errors.
_NO_TABLE = frozenset(
    {
        1049,  # unknown database
        1146,  # no such table
    }
)
_SCHEMA = frozenset(
    {
        1054,  # unknown column
        1364,  # a column without a default, which the statement leaves out
        1366,  # a value that the column's type, or its character set, doesn't have
    }
)
LOCK_CONFLICTS = frozenset(
    {
        1205,  # a lock was waited for too long
        1213,  # a deadlock
    }
)
"""The numbers of the errors that say that somebody else has locked something."""

_LOST = frozenset(
    {
        1040,  # too many connections
        1053,  # the server is shutting down
        1152, 1158, 1159, 1160, 1161,  # packets that were lost or late: the server hangs up
        1203,  # too many connections of this user
        1927,  # the connection was killed
        2002, 2003,  # can't connect
        2006, 2013, 2055,  # gone away, lost
        3168,  # the server isn't available
        4031,  # disconnected for being idle
    }
)  # fmt: skip
# Galera's answer while a node isn't part of its cluster; otherwise the number of an unknown command.
_UNKNOWN_COMMAND = 1047


@dataclass(frozen=True)
class Library:
    """The exceptions of a client library."""

    error: type[Exception]
    """The base of all of them."""

    interface: type[Exception]
    """Raised for a connection that is closed."""


def translated(exc: Exception, *, library: Library, table: str, schema_only: bool) -> ReflexError | None:
    """Return the error of ours to raise instead of ``exc``, if there is one.

    See :meth:`~reflex_aio.sql.drivers.base.Driver.errors`.
    """
    if isinstance(exc, library.error):
        number, text = _parts(exc)
        if number in _NO_TABLE and _is_about(text, table):
            return TableNotFound(table=table)
        if number in _SCHEMA:
            return SchemaError(table=table, differences=[f"{text} (validate() compares the whole table)"])
        if schema_only:
            return None
        if _is_lost(exc, library, number, text):
            return _lost(table, exc, text)
        told = f"{text} (error {number})" if number is not None else text
        return DatabaseError(f"{table}: {told}", lock_conflict=number in LOCK_CONFLICTS)
    if schema_only:
        return None
    if isinstance(exc, (OSError, EOFError)):
        return _lost(table, exc, str(exc))
    if isinstance(exc, RuntimeError):
        # What both pools raise once they are being closed, and uvloop's way to say that a socket is closed.
        if "closing pool" in str(exc):
            return DatabaseError(f"{table}: the pool is closed")
        if "closed=True" in str(exc):
            return _lost(table, exc, str(exc))
    return None


def _parts(exc: Exception) -> tuple[int | None, str]:
    number = exc.args[0] if exc.args and isinstance(exc.args[0], int) else None
    return number, str(exc.args[-1]) if exc.args else ""


def _is_about(text: str, table: str) -> bool:
    # Not about a table that a trigger is after, say. Some servers keep all names in lower case.
    schema, _, name = table.rpartition(".")
    return f".{name}'".casefold() in text.casefold() or (bool(schema) and f"'{schema}'" in text)


def _is_lost(exc: Exception, library: Library, number: int | None, text: str) -> bool:
    return (
        number in _LOST
        or isinstance(exc, library.interface)
        or (number == _UNKNOWN_COMMAND and "WSREP" in text)
    )


def _lost(table: str, exc: Exception, text: str) -> ConnectionLost:
    return ConnectionLost(f"{table}: the database can't be reached: {text or type(exc).__name__}")
