"""A streaming standby of the test's own server."""

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from reflex_aio.ext.embedded import EmbeddedPostgres
from tests.fix_servers import SETTINGS
from tests.waiting import eventually


class Standby:
    """A hot standby, named ``standby`` for synchronous_standby_names."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server

    @property
    def dsn(self) -> str:
        return self.server.dsn

    def dsn_for(self, database: str) -> str:
        return self.server.dsn_for(database)

    async def pause_replay(self) -> None:
        await self._fetchval("SELECT pg_wal_replay_pause()")
        await eventually(
            lambda: self._fetchval("SELECT pg_get_wal_replay_pause_state() = 'paused'"), "replay paused"
        )

    async def resume_replay(self) -> None:
        await self._fetchval("SELECT pg_wal_replay_resume()")

    async def promote(self) -> None:
        """Make it a primary, and return when it is one."""
        assert await self._fetchval("SELECT pg_promote()"), "the standby was not promoted"

    async def _fetchval(self, statement: str) -> object:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()


@pytest_asyncio.fixture
async def standby(own_server: EmbeddedPostgres) -> AsyncIterator[Standby]:
    """A streaming hot standby of ``own_server``."""
    directory = own_server.socket_directory / "standby"
    primary = (
        f"host={own_server.socket_directory} port={own_server.port} user=postgres application_name=standby"
    )
    await own_server.run(
        "pg_basebackup", "--dbname", primary, "--pgdata", str(directory),
        "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
    )  # fmt: skip
    async with EmbeddedPostgres(directory, programs=own_server.programs, settings=SETTINGS) as server:
        yield Standby(server)
