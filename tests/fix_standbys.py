"""Streaming standbys: of the test's own server, or of the one that it shares with others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio.ext.embedded import EmbeddedPostgres
from tests.fix_servers import SETTINGS, PostgresServer, Servers
from tests.waiting import eventually


class Standby:
    """A hot standby, named ``standby`` for synchronous_standby_names."""

    def __init__(self, server: EmbeddedPostgres, primary: EmbeddedPostgres) -> None:
        self.server = server
        self._primary = primary

    @property
    def dsn(self) -> str:
        return self.server.dsn

    def dsn_for(self, database: str) -> str:
        return self.server.dsn_for(database)

    async def pause_replay(self) -> None:
        await _fetchval(self.dsn, "SELECT pg_wal_replay_pause()")
        await eventually(
            lambda: _fetchval(self.dsn, "SELECT pg_get_wal_replay_pause_state() = 'paused'"), "replay paused"
        )

    async def resume_replay(self) -> None:
        await _fetchval(self.dsn, "SELECT pg_wal_replay_resume()")

    async def catch_up(self) -> None:
        """Return when it has replayed all that has been written on the primary until now."""
        position = await _fetchval(self._primary.dsn, "SELECT pg_current_wal_lsn() - '0/0'")
        await eventually(
            lambda: _fetchval(self.dsn, f"SELECT pg_last_wal_replay_lsn() - '0/0' >= {position}"), "caught up"
        )

    async def promote(self) -> None:
        """Make it a primary, and return when it is one."""
        assert await _fetchval(self.dsn, "SELECT pg_promote()"), "the standby was not promoted"


async def _fetchval(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def standby_of(primary: EmbeddedPostgres) -> AsyncIterator[Standby]:
    """Make and start a streaming hot standby."""
    directory = primary.socket_directory / "standby"
    conninfo = f"host={primary.socket_directory} port={primary.port} user=postgres application_name=standby"
    await primary.run(
        "pg_basebackup", "--dbname", conninfo, "--pgdata", str(directory),
        "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
    )  # fmt: skip
    async with EmbeddedPostgres(directory, programs=primary.programs, settings=SETTINGS) as server:
        yield Standby(server, primary)


@pytest_asyncio.fixture
async def standby(own_server: EmbeddedPostgres) -> AsyncIterator[Standby]:
    """A streaming hot standby of ``own_server``, to stop and to promote."""
    async with standby_of(own_server) as standby:
        yield standby


@pytest.fixture(scope="session")
def _replicas() -> dict[str, Standby]:
    return {}


@pytest.fixture
def _replica(servers: Servers, postgres_server: PostgresServer, _replicas: dict[str, Standby]) -> Standby:
    if not isinstance(postgres_server, EmbeddedPostgres):
        raise pytest.UsageError("a test that needs a standby needs a server of ours: mark it suite_server")
    if postgres_server.dsn not in _replicas:
        _replicas[postgres_server.dsn] = servers.keep(standby_of(postgres_server))
    return _replicas[postgres_server.dsn]


@pytest_asyncio.fixture
async def replica(_replica: Standby) -> AsyncIterator[Standby]:
    """A hot standby of the server that this test shares with others; the test is marked ``suite_server``.

    It is shared too: its replay may be paused, and is resumed after the test.
    """
    yield _replica
    await _replica.resume_replay()
