"""PgBouncer before a server of the suite.

Without PgBouncer its tests are skipped with a reason, and fail under CI.
"""

import asyncio
import contextlib
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from reflex_aio.ext.embedded import EmbeddedPostgres
from tests.fix_databases import Database
from tests.fix_servers import CI
from tests.waiting import eventually

Mode = Literal["session", "transaction"]

_CONFIGURATION = """\
[databases]
* = host={upstream} port={port} user=postgres
[pgbouncer]
pool_mode = {mode}
default_pool_size = 5
auth_type = any
listen_addr =
unix_socket_dir = {directory}
logfile = {directory}/pgbouncer.log
"""


class Pgbouncer:
    """A PgBouncer on a unix socket, as an async context manager."""

    def __init__(self, server: EmbeddedPostgres, mode: Mode) -> None:
        self._server, self._mode = server, mode
        self._directory = Path()
        self._process: asyncio.subprocess.Process | None = None

    def dsn_for(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?{urlencode({'host': self._directory, 'port': 6432})}"

    async def __aenter__(self) -> Self:
        program = _program()
        self._directory = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        configuration = self._directory / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                upstream=self._server.socket_directory,
                port=self._server.port,
                mode=self._mode,
                directory=self._directory,
            )
        )
        # It refuses to be root, and has to reach the server's socket. (It becomes another account by itself, as
        # the user= of subprocesses makes them fork, which gRPC does not survive.)
        owner = self._server.socket_directory.stat()
        for path in (self._directory, configuration):
            os.chown(path, owner.st_uid, owner.st_gid)
        account = ["--user", pwd.getpwuid(owner.st_uid).pw_name] if os.getuid() == 0 else []
        with (self._directory / "output").open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                program, *account, str(configuration), cwd=self._directory, stdout=output, stderr=output
            )
        await eventually(self._accepts, self._said)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        shutil.rmtree(self._directory)

    async def _accepts(self) -> bool:
        # The socket is there a moment before it listens.
        try:
            _, writer = await asyncio.open_unix_connection(self._directory / ".s.PGSQL.6432")
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    def _said(self) -> str:
        return f"PgBouncer started: {(self._directory / 'output').read_text()}"


def _program() -> str:
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is not None:
        return program
    reason = "no pgbouncer: apt-get install pgbouncer"
    if CI:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest_asyncio.fixture
async def pgbouncer(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[str]:
    """The test's database through PgBouncer, as a DSN. Its parameter is the mode."""
    assert isinstance(database.server, EmbeddedPostgres), "mark the test suite_server"
    async with Pgbouncer(database.server, request.param) as pooler:
        yield pooler.dsn_for(database.name)
