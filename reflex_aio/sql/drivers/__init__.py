"""Drivers: which client library a connection or pool belongs to.

A driver is imported when an object of its library is first met, so that no library is loaded that isn't used.
"""

from collections.abc import Awaitable
from importlib import import_module

from reflex_aio.sql.drivers.base import Driver

__all__ = ["driver_named", "driver_of_connection", "driver_of_pool"]

# The client library's top-level package, and our driver for it.
_DRIVERS = {"aiomysql": "AiomysqlDriver", "asyncmy": "AsyncmyDriver", "asyncpg": "AsyncpgDriver"}

# By the classes that were met.
_found: dict[type, Driver | None] = {}

_LIBRARIES = "an asyncpg, aiomysql or asyncmy"


def driver_named(library: str) -> Driver:
    """Return the driver of a client library, which is imported now."""
    driver: Driver = getattr(import_module(f"{__name__}.{library}"), _DRIVERS[library])()
    return driver


def driver_of_connection(connection: object) -> Driver:
    """Return the driver of a connection.

    :raises TypeError: if it isn't a connection of a client library that is known
    """
    driver = _driver(type(connection))
    if driver is not None and driver.is_connection(connection):
        return driver
    if driver is not None and driver.is_pool(connection):
        raise TypeError(
            f"{_named(connection)} is a pool: pass a connection: async with pool.acquire() as connection"
        )
    _refuse_unawaited(driver, connection)
    raise TypeError(
        f"{_named(connection)} is no connection: accepted is {_LIBRARIES} connection, or one acquired from such a pool"
    )


def driver_of_pool(pool: object) -> Driver:
    """Return the driver of a pool.

    :raises TypeError: if it isn't a pool of a client library that is known
    """
    driver = _driver(type(pool))
    if driver is not None and driver.is_pool(pool):
        return driver
    if driver is not None and driver.is_connection(pool):
        raise TypeError(
            f"{_named(pool)} is a connection: pass a pool, as streams and stores outlive a connection:"
            f" await {driver.name}.create_pool(...)"
        )
    _refuse_unawaited(driver, pool)
    raise TypeError(
        f"{_named(pool)} is no pool: accepted is {_LIBRARIES} pool, as of await asyncpg.create_pool(...)"
    )


def _refuse_unawaited(driver: Driver | None, candidate: object) -> None:
    # What connect(), create_pool() and acquire() return, before it is awaited.
    if driver is not None and isinstance(candidate, Awaitable):
        raise TypeError(
            f"{_named(candidate)} is still to be awaited: write await before it, or async with ... as"
        )


def _driver(kind: type) -> Driver | None:
    if kind not in _found:
        packages = [base.__module__.partition(".")[0] for base in kind.__mro__]
        _found[kind] = next((driver_named(package) for package in packages if package in _DRIVERS), None)
    return _found[kind]


def _named(candidate: object) -> str:
    kind = type(candidate)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    # Not the value of a string: a DSN may hold a password.
    return f"a {name}" if isinstance(candidate, (str, bytes)) else f"{name} {candidate!r}"
