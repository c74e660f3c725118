"""Pools made of a DSN alone, for programs that are told their database by an option or the environment."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import SplitResult, parse_qs, parse_qsl, unquote, urlsplit

from reflex_aio.sql.drivers import driver_named
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.tasks import shielded

__all__ = ["arguments_of", "open_pool"]


@dataclass(frozen=True, slots=True)
class _Database:
    """What DSNs of a database look like, and which client libraries serve it: the first that is installed does."""

    schemes: tuple[str, ...]
    libraries: Mapping[str, str]
    """With what is to be installed to have each."""


_DATABASES = (
    _Database(("postgresql", "postgres"), {"asyncpg": "reflex-aio"}),
    _Database(("mysql", "mariadb"), {"asyncmy": "reflex-aio[asyncmy]", "aiomysql": "reflex-aio[mysql]"}),
)

_FORM = "scheme://user:password@host:port/database"


@asynccontextmanager
async def open_pool(dsn: str, *, size: int = 10) -> AsyncIterator[Any]:
    """Open a pool on the database that ``dsn`` names, by the client library that its scheme stands for.

    The pool is that library's own, has connected once when it is handed out, and is closed with the context. No
    message of an error has the password in it.

    :param dsn: ``postgresql://user:password@host:port/database``, or ``mysql://`` likewise; ``mysql+aiomysql://`` says
        which library
    :param size: at most so many connections
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if the DSN can't be read or its scheme isn't known, or ``size`` is less than 1
    :raises ModuleNotFoundError: if the client library isn't installed
    :raises ConnectionLost: if the server can't be reached
    :raises DatabaseError: if it refuses the user, the password or the database
    """
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"size {size!r} is a {type(size).__name__}: accepted is a number of connections")
    if size < 1:
        raise ValueError(f"size {size} is out of range: accepted is a number of connections from 1")
    parts, driver = _read(dsn)
    with driver.errors(_place(parts)):
        pool = await driver.open_pool(parts.geturl(), size=size)
    try:
        yield pool
    finally:
        await shielded(driver.close_pool(pool))


def _read(dsn: str) -> tuple[SplitResult, Driver]:
    """Return the DSN with a plain scheme, and the driver that the scheme stands for."""
    if not isinstance(dsn, str):
        raise TypeError(f"the DSN is a {type(dsn).__name__}: accepted is a str, {_FORM}")
    scheme, found, _ = dsn.partition("://")
    if not found:
        raise ValueError(f"the DSN has no scheme: accepted is {_FORM}, where scheme is {_accepted()}")
    database, libraries = _asked_for(scheme)
    try:
        parts = urlsplit(dsn)._replace(scheme=database.schemes[0])
    except ValueError:
        raise _unreadable() from None
    # Where the password ends can't be told then: a part of it would be taken for a host, and be told in messages.
    if parts.netloc.count("@") > 1 or "@" in parts.path or parts.fragment:
        raise _unreadable()
    library = next((library for library in libraries if find_spec(library) is not None), None)
    if library is None:
        raise ModuleNotFoundError(
            f"{scheme}:// needs {' or '.join(libraries)}: pip install '{database.libraries[libraries[-1]]}'",
            name=libraries[0],
        )
    return parts, driver_named(library)


def _asked_for(scheme: str) -> tuple[_Database, tuple[str, ...]]:
    name, plus, library = scheme.lower().partition("+")
    for database in _DATABASES:
        if name in database.schemes and (not plus or library in database.libraries):
            return database, (library,) if plus else tuple(database.libraries)
    raise ValueError(f"the DSN's scheme {scheme!r} is not known: accepted is {_accepted()}")


def _accepted() -> str:
    names = [scheme for database in _DATABASES for scheme in database.schemes]
    names += [f"{database.schemes[0]}+{each}" for database in _DATABASES for each in database.libraries]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _unreadable() -> ValueError:
    return ValueError(
        f"the DSN can't be read: accepted is {_FORM}; of a user and password that have such characters, / : @ ? #"
        " and % are written as %2F %3A %40 %3F %23 and %25"
    )


def _place(parts: SplitResult) -> str:
    """Return which server and database that is, for messages."""
    host = parts.netloc.rpartition("@")[2] or ",".join(
        parse_qs(parts.query).get("host", ["the local server"])
    )
    return f"{host}{parts.path}"


_DEFAULT_PORT = 3306
_PARAMETERS = ("unix_socket", "ssl", "ssl_ca")


def arguments_of(dsn: str) -> dict[str, Any]:
    """Return the arguments of ``connect()`` that ``mysql://user:password@host:port/database?...`` stands for.

    Parameters: ``unix_socket`` is the path of a socket; ``ssl=true`` asks for TLS, and checks the server's certificate
    by the system's authorities, ``ssl_ca`` by those in a file.

    :raises ValueError: if it can't be read; without the password
    """
    try:
        parts = urlsplit(dsn)
        port = parts.port
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        # What it says may be a part of the password.
        raise ValueError("the DSN's port or its parameters can't be read") from None
    unknown = sorted(set(parameters) - set(_PARAMETERS))
    if unknown:
        raise ValueError(
            f"the DSN's parameter {unknown[0]!r} is not known: accepted is {', '.join(_PARAMETERS)}"
        )
    arguments: dict[str, Any] = {
        "host": unquote(parts.hostname or "localhost"),
        "port": _DEFAULT_PORT if port is None else port,
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
    if (context := _tls(parameters)) is not None:
        arguments["ssl"] = context
    return arguments


def _tls(parameters: dict[str, str]) -> ssl.SSLContext | None:
    wanted = parameters.get("ssl", "true" if "ssl_ca" in parameters else "false")
    if wanted not in ("true", "false"):
        raise ValueError(f"the DSN's parameter ssl={wanted!r} is not accepted: 'true' or 'false' is")
    if wanted == "false":
        return None
    try:
        return ssl.create_default_context(cafile=parameters.get("ssl_ca"))
    except (OSError, ssl.SSLError) as exc:
        raise ValueError(f"the DSN's ssl_ca={parameters.get('ssl_ca')!r} can't be read: {exc}") from None
