"""Drivers: which client library a connection or pool belongs to.

A driver is imported when an object of its library is first met, so that no library is loaded that isn't used.
"""

from functools import cache
from importlib import import_module
from typing import Any

from reflex_aio.sql.drivers.base import Driver

__all__ = ["driver_of_connection", "driver_of_pool"]

# The client library's top-level package, and our driver for it.
_DRIVERS = {"asyncpg": "AsyncpgDriver"}

_ACCEPTED = "an asyncpg connection, or one acquired from an asyncpg pool"


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
    raise TypeError(f"{_named(connection)} is no connection: accepted is {_ACCEPTED}")


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
            " asyncpg.create_pool(dsn)"
        )
    raise TypeError(f"{_named(pool)} is no pool: accepted is an asyncpg pool")


@cache
def _driver(kind: type[Any]) -> Driver | None:
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package in _DRIVERS:
            module = import_module(f"{__name__}.{package}")
            driver: Driver = getattr(module, _DRIVERS[package])()
            return driver
    return None


def _named(candidate: object) -> str:
    return f"{type(candidate).__module__}.{type(candidate).__qualname__} {candidate!r}"
