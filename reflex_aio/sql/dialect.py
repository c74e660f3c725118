"""The registry of databases, and of each database's part of every feature.

A feature describes what it needs of a database in an abstract class, such as
:class:`~reflex_aio.sql.leases.store.LeasesDialect` in ``sql/leases/``. The module beside it that is named after the
database implements that class: ``PostgresLeasesDialect`` in ``sql/leases/postgres.py``. It is imported when it is first
needed, by its name, so that this module depends on no feature.

To add a database, add its name and the prefix of its classes to ``_PREFIXES``, and implement one class in each folder
that has an abstract class: schema, events, cursors, leases, attempts, dead_letters and retention. A driver whose
``dialect`` is that name leads to them.
"""

from collections.abc import Callable, Hashable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

__all__ = ["dialect_part"]

Part = TypeVar("Part")

# By the names of the databases, which are also the names of the modules.
_PREFIXES = {"mysql": "Mysql", "postgres": "Postgres"}


# A callable rather than a type: mypy accepts no abstract class for type[Part].
def dialect_part(abstract: Callable[..., Part], dialect: str, *args: Hashable) -> Part:
    """Return a database's implementation of the abstract class ``abstract``.

    Equal arguments return the same object, so an implementation has no state but the texts of its statements.

    :param dialect: the name of the database, which is a driver's ``dialect``
    :param args: the arguments of the implementation's constructor
    :raises ValueError: if there is no such dialect
    """
    part: Part = _part(abstract, dialect, *args)
    return part


@cache
def _part(abstract: Any, dialect: str, *args: Hashable) -> Any:
    if dialect not in _PREFIXES:
        raise ValueError(f"dialect {dialect!r} is not known: accepted is {' or '.join(map(repr, _PREFIXES))}")
    package, _, _ = abstract.__module__.rpartition(".")
    module = import_module(f"{package}.{dialect}")
    return getattr(module, f"{_PREFIXES[dialect]}{abstract.__name__}")(*args)
