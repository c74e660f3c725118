"""A pytest plugin with fixtures for tests of services; pytest loads it where this package is installed.

A fixture runs only if a test requests it. All are plain fixtures, and work with any plugin for asynchronous tests.
"""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from reflex_aio.memory import MemoryCursorStore, MemoryEvents

if TYPE_CHECKING:
    from reflex_aio.ext.embedded import EmbeddedPostgres

__all__ = [
    "reflex_cursors",
    "reflex_database",
    "reflex_events",
    "reflex_postgres",
    "reflex_postgres_settings",
]

_numbers = itertools.count(1)


@pytest.fixture
def reflex_events() -> MemoryEvents:
    """Events in memory, which are also the source of their stream."""
    return MemoryEvents()


@pytest.fixture
def reflex_cursors() -> MemoryCursorStore:
    """Cursors in memory."""
    return MemoryCursorStore()


@pytest.fixture(scope="session")
def reflex_postgres_settings() -> dict[str, str | int | float | bool]:
    """Settings of the server of ``reflex_postgres``. Override this fixture to change them."""
    # The data of tests need not survive a crash of the machine.
    return {"fsync": False, "max_connections": 200}


@pytest.fixture(scope="session")
def _reflex_portal() -> Iterator[BlockingPortal]:
    """An event loop in a thread of its own, which outlives the event loops of the tests."""
    with start_blocking_portal("asyncio") as portal:
        yield portal


@pytest.fixture(scope="session")
def reflex_postgres(
    _reflex_portal: BlockingPortal, reflex_postgres_settings: dict[str, str | int | float | bool]
) -> "Iterator[EmbeddedPostgres]":
    """A PostgreSQL server, started when a test first requests it, one for each process that runs tests.

    Requires the extra ``embedded``. Tests must not call its async methods: it belongs to an event loop of its own.
    """
    from reflex_aio.ext.embedded import EmbeddedPostgres

    server = EmbeddedPostgres(settings=reflex_postgres_settings)
    with _reflex_portal.wrap_async_context_manager(server):
        yield server


@pytest.fixture
def reflex_database(_reflex_portal: BlockingPortal, reflex_postgres: "EmbeddedPostgres") -> Iterator[str]:
    """The DSN of an empty database, on the server of ``reflex_postgres``; dropped after the test."""
    name = f"test_{next(_numbers)}"
    admin = f"--maintenance-db={reflex_postgres.dsn}"
    _reflex_portal.call(reflex_postgres.run, "createdb", admin, name)
    yield reflex_postgres.dsn_for(name)
    # --force: the test may have left connections open.
    _reflex_portal.call(reflex_postgres.run, "dropdb", "--force", admin, name)
