"""A private MariaDB: starts, restarts, is kept or removed, and never outlives its owner.

The code shared with the embedded PostgreSQL is tested there in more detail.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncmy
import pytest

from reflex_aio.ext.embedded import EmbeddedMariaDB, EmbeddedServerError
from reflex_aio.sql.drivers.dsn import mysql_arguments
from tests.ext.servers import children, ended, started_since
from tests.fix_mariadb import SETTINGS, make_mariadb
from tests.fix_processes import Spawn
from tests.fix_servers import memory
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def installed() -> None:
    make_mariadb()


@pytest.fixture
def reachable_path() -> Iterator[Path]:
    """A temporary directory that the server's account can access, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="reflex-test-", dir=memory()))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def answer(dsn: str, *statements: str) -> object:
    async with asyncmy.connect(**mysql_arguments(dsn)) as connection, connection.cursor() as cursor:
        for statement in statements or ("SELECT 1",):
            await cursor.execute(statement)
        row = await cursor.fetchone()
        return None if row is None else row[0]


def process_of(server: EmbeddedMariaDB) -> int:
    return int((server.socket_directory / "mariadb.pid").read_text())


async def test_a_temporary_server_leaves_nothing() -> None:
    before = children()
    async with make_mariadb() as server:
        assert await answer(server.dsn) == 1
        home, process = server.socket_directory, process_of(server)
    assert not home.exists()
    assert ended(process)
    assert not started_since(before)


async def test_a_given_directory_is_kept_and_reused(reachable_path: Path) -> None:
    directory = reachable_path / "deeper" / "data"
    async with EmbeddedMariaDB(directory, settings=SETTINGS) as server:
        await answer(server.dsn, "CREATE DATABASE kept", "CREATE TABLE kept.t AS SELECT 7 AS n")
    async with EmbeddedMariaDB(directory, settings=SETTINGS) as server:
        assert await answer(server.dsn_for("kept"), "SELECT n FROM t") == 7
        assert server.directory == directory


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_committed_rows_survive(own_mariadb: EmbeddedMariaDB, how: str) -> None:
    dsn, before = own_mariadb.dsn, process_of(own_mariadb)
    await answer(dsn, "CREATE DATABASE kept", "CREATE TABLE kept.t (n int)", "INSERT INTO kept.t VALUES (7)")
    if how == "restart":
        await own_mariadb.restart()
    else:
        await own_mariadb.kill()
        assert not own_mariadb.running
        await own_mariadb.start()
    assert await answer(dsn, "SELECT n FROM kept.t") == 7
    assert process_of(own_mariadb) != before


async def test_each_database_is_reached_by_socket_and_by_tcp() -> None:
    async with make_mariadb(port=0) as server:
        await answer(server.dsn, "CREATE DATABASE `a name/?&é`")
        for dsn in server.dsn_for("a name/?&é"), server.dsn_for("a name/?&é", tcp=True):
            assert await answer(dsn, "SELECT DATABASE()") == "a name/?&é"


async def test_tcp_is_refused_without_a_port(own_mariadb: EmbeddedMariaDB) -> None:
    with pytest.raises(ValueError, match="does not listen on TCP"):
        own_mariadb.dsn_for("mysql", tcp=True)
    assert await answer(own_mariadb.dsn, "SELECT @@skip_networking") == 1


async def test_settings_reach_the_server() -> None:
    async with make_mariadb(max_connections=17, innodb_autoinc_lock_mode=2, read_only=True) as server:
        assert await answer(server.dsn, "SELECT @@max_connections") == 17
        assert await answer(server.dsn, "SELECT @@innodb_autoinc_lock_mode") == 2
        assert await answer(server.dsn, "SELECT @@read_only") == 1
        assert await answer(server.dsn, "SELECT @@character_set_server") == "utf8mb4"


async def test_the_error_of_a_failed_start_contains_the_output_of_the_server() -> None:
    with pytest.raises(EmbeddedServerError, match="unknown variable 'no_such=1'"):
        async with make_mariadb(no_such=1):
            pass


async def test_without_mariadb_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(
        EmbeddedServerError, match="mariadbd was not found: install MariaDB, for example with apt-get install"
    ):
        EmbeddedMariaDB()


async def test_a_cancelled_start_leaves_nothing(reachable_path: Path) -> None:
    before = children()
    for moment in 0.0, 0.01, 0.1, 0.3:
        with pytest.raises(TimeoutError):
            async with (
                asyncio.timeout(moment),
                EmbeddedMariaDB(temporary_in=reachable_path, settings=SETTINGS),
            ):
                await asyncio.Event().wait()
        assert not list(reachable_path.iterdir())
        # uvloop kills a process that is being started, and reaps it a moment later.
        await eventually(lambda: not started_since(before), "all that was started has ended")


@pytest.mark.parametrize("own_directory", [False, True])
async def test_the_server_ends_with_its_killed_owner(
    spawn: Spawn, reachable_path: Path, own_directory: bool
) -> None:
    directory = reachable_path / "data" if own_directory else None
    child = await spawn(serve, str(directory) if directory else None)
    [line] = await child.until("ready")
    process, home = int(line.split()[0]), Path(line.split()[1])
    assert not ended(process)
    await child.kill()
    await eventually(lambda: ended(process), "the server ended")
    await eventually(lambda: not home.exists(), "the temporary directory removed")
    assert directory is None or (directory / "ibdata1").exists()


async def serve(directory: str | None) -> None:
    async with EmbeddedMariaDB(directory, temporary_in=memory(), settings=SETTINGS) as server:
        print(process_of(server), server.socket_directory)
        print("ready", flush=True)
        await asyncio.Event().wait()
