"""The PostgreSQL servers that tests run on.

A test runs on PostgreSQL 18 (embedded); marked ``every_postgres`` it runs on the distribution's too, which
is 15 on Debian 12. With REFLEX_TEST_DSN set, tests run on that server instead, in databases that they make
there; those marked ``suite_server``, or using ``own_server``, still run on servers that the suite starts.

Without the distribution's server its tests are skipped with a reason, and fail under CI.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pytest
import pytest_asyncio

from reflex_aio.ext.embedded import EmbeddedPostgres
from tests.waiting import deadline

T = TypeVar("T")

DSN = os.environ.get("REFLEX_TEST_DSN")
CI = bool(os.environ.get("CI"))

EMBEDDED = "pg18"
DISTRIBUTION = "pg15"
GIVEN = "given"

SETTINGS: dict[str, str | int | bool] = {
    "max_connections": 300,
    "max_prepared_transactions": 64,
    "wal_level": "logical",
    "max_wal_senders": 10,
    "fsync": False,
    # The data may be in memory.
    "max_wal_size": "256MB",
    "log_line_prefix": "%m [%p] %q%d %a ",
}


class PostgresServer(Protocol):
    """What tests need of a server, be it ours or given."""

    @property
    def dsn(self) -> str: ...
    def dsn_for(self, database: str) -> str: ...


@dataclass(frozen=True)
class GivenServer:
    """The server of REFLEX_TEST_DSN; its account must be allowed to create databases."""

    dsn: str

    def dsn_for(self, database: str) -> str:
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{database}"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.definition.get_closest_marker("every_postgres") is not None
    ours = [EMBEDDED, DISTRIBUTION] if every else [EMBEDDED]
    if "postgres_server" in metafunc.fixturenames:
        given = DSN and not metafunc.definition.get_closest_marker("suite_server")
        metafunc.parametrize("postgres_server", [GIVEN] if given else ours, indirect=True)
    if "own_server" in metafunc.fixturenames:
        metafunc.parametrize("own_server", ours, indirect=True)


def make_server(name: str) -> EmbeddedPostgres:
    """A server of ours, not yet started."""
    programs = None if name == EMBEDDED else distribution_programs()
    return EmbeddedPostgres(
        programs=programs, settings=SETTINGS, temporary_in=memory(), start_timeout=deadline(60)
    )


def memory() -> Path | None:
    """A file system in memory with room for servers, or None. A database is made there in a tenth of the time."""
    path = Path("/dev/shm")
    # Containers have 64 MB of it, where programs may not be run.
    if (
        path.is_dir()
        and shutil.disk_usage(path).free > 4 << 30
        and not os.statvfs(path).f_flag & os.ST_NOEXEC
    ):
        return path
    return None


def distribution_programs() -> Path:
    """Where the distribution's PostgreSQL is: 15, or else the oldest one found."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    for program in sorted(found, key=lambda path: path.parts[-3] != "15"):
        return program.parent
    reason = "no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql-15"
    if CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@dataclass
class Servers:
    """The servers of this test process, each started when it is first needed."""

    _runner: asyncio.Runner
    _stack: AsyncExitStack
    _started: dict[str, EmbeddedPostgres] = field(default_factory=dict)

    def get(self, name: str) -> PostgresServer:
        if name == GIVEN:
            assert DSN
            return GivenServer(DSN)
        if name not in self._started:
            self._started[name] = self.keep(make_server(name))
        return self._started[name]

    def keep(self, server: AbstractAsyncContextManager[T]) -> T:
        """Enter ``server``, until all tests have ended."""
        # In a loop of its own: a test's loop ends with the test.
        return self._runner.run(self._stack.enter_async_context(server))


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            yield Servers(runner, stack)
        finally:
            runner.run(stack.aclose())


@pytest.fixture
def postgres_server(request: pytest.FixtureRequest, servers: Servers) -> PostgresServer:
    """The server that this test runs on, shared with other tests: no restarts, no settings."""
    # No parameter where it is asked for by way of another fixture's choice.
    return servers.get(getattr(request, "param", GIVEN if DSN else EMBEDDED))


@pytest_asyncio.fixture
async def own_server(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddedPostgres]:
    """A started server that this test alone owns, to stop, kill and restart."""
    async with make_server(request.param) as server:
        yield server
