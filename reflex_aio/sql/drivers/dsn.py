"""Pools from a DSN, for programs that receive their database as an option or an environment variable."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import SplitResult, parse_qs, parse_qsl, unquote, urlsplit

from reflex_aio.checks import check_count
from reflex_aio.sql.drivers import driver_named
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.tasks import shielded

__all__ = ["mysql_arguments", "open_pool"]


@dataclass(frozen=True, slots=True)
class _Database:
    """The DSN schemes of a database, and its client libraries, of which the first installed one is used."""

    schemes: tuple[str, ...]
    libraries: Mapping[str, str]
    """By their names: the requirement to install for each."""


_DATABASES = (
    _Database(("postgresql", "postgres"), {"asyncpg": "reflex-aio", "psycopg": "reflex-aio[psycopg]"}),
    _Database(("mysql", "mariadb"), {"asyncmy": "reflex-aio[asyncmy]", "aiomysql": "reflex-aio[mysql]"}),
)

_FORM = "scheme://user:password@host:port/database"

_MYSQL_PORT = 3306
_MYSQL_PARAMETERS = ("unix_socket", "ssl", "ssl_ca")


@asynccontextmanager
async def open_pool(dsn: str, *, size: int = 10) -> AsyncIterator[Any]:
    """Open a pool on the database of ``dsn``, with the client library that its scheme stands for.

    The pool is an object of that library. It has connected once on entry, and is closed on exit. No error message
    contains the password.

    :param dsn: ``postgresql://user:password@host:port/database``, or ``mysql://...``; ``mysql+aiomysql://`` names the
        client library
    :param size: the greatest number of connections
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if the DSN cannot be read or its scheme is unknown, or ``size`` is less than 1
    :raises ModuleNotFoundError: if the client library is not installed
    :raises ConnectionLost: if the server cannot be reached
    :raises DatabaseError: if the server refuses the user, the password or the database
    """
    check_count("size", size, least=1)
    parts, driver = _read(dsn)
    with driver.errors(_location(parts)):
        pool = await driver.open_pool(parts.geturl(), size=size)
    try:
        yield pool
    finally:
        await shielded(driver.close_pool(pool))


def mysql_arguments(dsn: str) -> dict[str, Any]:
    """Return the arguments of ``connect()`` for ``mysql://user:password@host:port/database?...``.

    Parameters: ``unix_socket`` is the path of a socket. ``ssl=true`` requires TLS and verifies the server's certificate
    with the system's authorities; ``ssl_ca`` is a file with other authorities.

    :raises ValueError: if it cannot be read; the message does not contain the password
    """
    try:
        parts = urlsplit(dsn)
        port = parts.port
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        # The original message may contain a part of the password.
        raise ValueError("the DSN's port or its parameters can't be read") from None
    unknown = sorted(set(parameters) - set(_MYSQL_PARAMETERS))
    if unknown:
        raise ValueError(
            f"the DSN's parameter {unknown[0]!r} is not known: accepted is {', '.join(_MYSQL_PARAMETERS)}"
        )
    arguments: dict[str, Any] = {
        "host": unquote(parts.hostname or "localhost"),
        "port": _MYSQL_PORT if port is None else port,
        "password": unquote(parts.password or ""),
        "charset": "utf8mb4",
        "autocommit": True,
    }
    if parts.username:
        arguments["user"] = unquote(parts.username)
    if database := unquote(parts.path.removeprefix("/")):
        arguments["db"] = database
    if "unix_socket" in parameters:
        arguments["unix_socket"] = parameters["unix_socket"]
    if (context := _ssl_context(parameters)) is not None:
        arguments["ssl"] = context
    return arguments


def _ssl_context(parameters: dict[str, str]) -> ssl.SSLContext | None:
    value = parameters.get("ssl", "true" if "ssl_ca" in parameters else "false")
    if value not in ("true", "false"):
        raise ValueError(f"the DSN's parameter ssl={value!r} is not accepted: 'true' or 'false' is")
    if value == "false":
        return None
    try:
        return ssl.create_default_context(cafile=parameters.get("ssl_ca"))
    except (OSError, ssl.SSLError) as exc:
        raise ValueError(f"the DSN's ssl_ca={parameters.get('ssl_ca')!r} can't be read: {exc}") from None


def _read(dsn: str) -> tuple[SplitResult, Driver]:
    """Return the DSN with a plain scheme, and the driver that its scheme stands for."""
    if not isinstance(dsn, str):
        # Without the value: it may contain a password.
        raise TypeError(f"the DSN is a {type(dsn).__name__}: accepted is a str, {_FORM}")
    scheme, separator, _ = dsn.partition("://")
    if not separator:
        raise ValueError(f"the DSN has no scheme: accepted is {_FORM}, where scheme is {_accepted_schemes()}")
    database, libraries = _database_of(scheme)
    try:
        parts = urlsplit(dsn)._replace(scheme=database.schemes[0])
    except ValueError:
        raise _unreadable() from None
    # The end of the password is ambiguous then: a part of it would be taken for a host, and appear in messages.
    if parts.netloc.count("@") > 1 or "@" in parts.path or parts.fragment:
        raise _unreadable()
    library = next((library for library in libraries if find_spec(library) is not None), None)
    if library is None:
        raise ModuleNotFoundError(
            f"{scheme}:// needs {' or '.join(libraries)}: pip install '{database.libraries[libraries[-1]]}'",
            name=libraries[0],
        )
    return parts, driver_named(library)


def _database_of(scheme: str) -> tuple[_Database, tuple[str, ...]]:
    """Return the database of a DSN's scheme, and the client libraries that may be used."""
    name, plus, library = scheme.lower().partition("+")
    for database in _DATABASES:
        if name in database.schemes and (not plus or library in database.libraries):
            return database, (library,) if plus else tuple(database.libraries)
    raise ValueError(f"the DSN's scheme {scheme!r} is not known: accepted is {_accepted_schemes()}")


def _accepted_schemes() -> str:
    names = [scheme for database in _DATABASES for scheme in database.schemes]
    names += [f"{database.schemes[0]}+{each}" for database in _DATABASES for each in database.libraries]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _unreadable() -> ValueError:
    return ValueError(
        f"the DSN can't be read: accepted is {_FORM}; in the user and the password, the characters / : @ ? # and % are"
        " written as %2F %3A %40 %3F %23 and %25"
    )


def _location(parts: SplitResult) -> str:
    """Return the server and database of a DSN, for messages."""
    host = parts.netloc.rpartition("@")[2] or ",".join(
        parse_qs(parts.query).get("host", ["the local server"])
    )
    return f"{host}{parts.path}"
