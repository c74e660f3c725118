"""Drivers: finding the driver of a connection or pool.

A driver is imported when an object of its client library is first passed in, so that unused libraries are not loaded.
"""

from collections.abc import Awaitable
from importlib import import_module

from reflex_aio.sql.drivers.base import Driver

__all__ = ["driver_named", "driver_of_connection", "driver_of_pool"]

# The driver class of each client library. The module has the name of the library's package.
_DRIVERS = {
    "aiomysql": "AiomysqlDriver",
    "asyncmy": "AsyncmyDriver",
    "asyncpg": "AsyncpgDriver",
    "psycopg": "PsycopgDriver",
}
# The client library of each top-level package.
_PACKAGES = {**{library: library for library in _DRIVERS}, "psycopg_pool": "psycopg"}

# A cache, by the class of a connection or pool.
_by_class: dict[type, Driver | None] = {}

_LIBRARIES = "an asyncpg, psycopg, aiomysql or asyncmy"


def driver_named(library: str) -> Driver:
    """Import and return the driver of a client library."""
    driver: Driver = getattr(import_module(f"{__name__}.{library}"), _DRIVERS[library])()
    return driver


def driver_of_connection(connection: object) -> Driver:
    """Return the driver of a connection.

    :raises TypeError: if it is not a connection of a supported client library
    """
    driver = _driver_of_class(type(connection))
    if driver is not None and driver.is_connection(connection):
        return driver
    if driver is not None and driver.is_pool(connection):
        raise TypeError(
            f"{_described(connection)} is a pool: pass a connection: async with pool.acquire() as connection"
        )
    _refuse_unawaited(driver, connection)
    raise TypeError(
        f"{_described(connection)} is not a connection: accepted is {_LIBRARIES} connection, or one acquired from such"
        " a pool"
    )


def driver_of_pool(pool: object) -> Driver:
    """Return the driver of a pool.

    :raises TypeError: if it is not a pool of a supported client library
    """
    driver = _driver_of_class(type(pool))
    if driver is not None and driver.is_pool(pool):
        return driver
    if driver is not None and driver.is_connection(pool):
        raise TypeError(
            f"{_described(pool)} is a connection: pass a pool, as streams and stores outlive a connection:"
            f" await {driver.name}.create_pool(...)"
        )
    _refuse_unawaited(driver, pool)
    raise TypeError(
        f"{_described(pool)} is not a pool: accepted is {_LIBRARIES} pool, such as await asyncpg.create_pool(...)"
    )


def _refuse_unawaited(driver: Driver | None, candidate: object) -> None:
    # The results of connect(), create_pool() and acquire() before they are awaited.
    if driver is not None and isinstance(candidate, Awaitable):
        raise TypeError(f"{_described(candidate)} was not awaited: use await, or async with ... as")


def _driver_of_class(kind: type) -> Driver | None:
    if kind not in _by_class:
        packages = [base.__module__.partition(".")[0] for base in kind.__mro__]
        _by_class[kind] = next(
            (driver_named(_PACKAGES[package]) for package in packages if package in _PACKAGES), None
        )
    return _by_class[kind]


def _described(candidate: object) -> str:
    kind = type(candidate)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    # Without the value of a string: a DSN may contain a password.
    return f"a {name}" if isinstance(candidate, (str, bytes)) else f"{name} {candidate!r}"
