"""MySQL and MariaDB: what a DSN says, as the arguments of a connection."""

import ssl
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["arguments_of"]

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
