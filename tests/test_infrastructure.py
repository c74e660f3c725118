"""The test infrastructure keeps its own promises."""

import asyncio
import contextlib
import gc
import socket

import asyncpg
import pytest

from reflex_aio.ext.embedded import EmbeddedPostgres
from tests.fix_databases import Connect, Database
from tests.fix_processes import Spawn
from tests.fix_proxy import Proxy
from tests.fix_standbys import Standby
from tests.fix_statements import Statements
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio


@pytest.mark.every_postgres
async def test_each_test_has_a_database_of_its_own(database: Database, pool: asyncpg.Pool) -> None:
    assert await pool.fetchval("SELECT current_database()") == database.name
    await pool.execute("CREATE TABLE only_here ()")


@pytest.mark.every_postgres
async def test_the_servers_are_the_versions_they_are_named_for(
    request: pytest.FixtureRequest, own_server: EmbeddedPostgres
) -> None:
    connection = await asyncpg.connect(own_server.dsn)
    assert await connection.fetchval("SHOW wal_level") == "logical"
    version = connection.get_server_version().major
    await connection.close()
    assert f"pg{version}" in request.node.name


@pytest.mark.suite_server
async def test_statements_are_counted_once_each(pool: asyncpg.Pool, statements: Statements) -> None:
    async with pool.acquire() as connection:
        statements.taken()
        for _ in range(3):
            await connection.fetch("SELECT $1::int,\n 2", 1)
        assert [statement.text for statement in statements.taken()] == ["SELECT $1::int,\n 2"] * 3
        async with connection.transaction():
            await connection.execute("CREATE TABLE t ()")
        assert [statement.text for statement in statements.taken()] == [
            "BEGIN;",
            "CREATE TABLE t ()",
            "COMMIT;",
        ]


async def test_a_stalled_proxy_passes_on_later_what_it_held_back(proxy: Proxy, connect: Connect) -> None:
    connection = await connect(dsn=proxy.dsn)
    proxy.stall()
    answer = asyncio.create_task(connection.fetchval("SELECT 7"))
    done, _ = await asyncio.wait([answer], timeout=0.2)
    assert not done
    proxy.resume()
    assert await answer == 7


@pytest.mark.parametrize("turns", range(4))
async def test_a_proxy_that_is_stopped_leaves_nothing_open_that_it_has_just_accepted(
    proxy: Proxy, turns: int
) -> None:
    client = socket.create_connection((proxy.host, proxy.port))
    for _ in range(turns):
        await asyncio.sleep(0)
    await proxy.stop()
    # Who collects what was left open is warned of it, and the warning is an error.
    gc.collect()
    client.settimeout(deadline(10.0))
    with client, contextlib.suppress(ConnectionResetError):
        assert client.recv(1) == b""


async def test_a_stopped_proxy_cuts_and_refuses_until_it_is_started(proxy: Proxy, connect: Connect) -> None:
    connection = await connect(dsn=proxy.dsn)
    await proxy.stop()
    await eventually(connection.is_closed, "the connection cut")
    with pytest.raises(ConnectionRefusedError):
        await connect(dsn=proxy.dsn)
    await proxy.start()
    connection = await connect(dsn=proxy.dsn)
    await proxy.drop_connections()
    await eventually(connection.is_closed, "the connection cut")


@pytest.mark.every_postgres
async def test_a_standby_follows_pauses_and_is_promoted(
    own_server: EmbeddedPostgres, standby: Standby
) -> None:
    primary = await asyncpg.connect(own_server.dsn)
    replica = await asyncpg.connect(standby.dsn)
    try:
        await primary.execute("CREATE TABLE t AS SELECT 1 AS id")

        async def rows() -> int:
            return await replica.fetchval("SELECT count(*) FROM t") if await known() else 0

        async def known() -> object:
            return await replica.fetchval("SELECT to_regclass('t')")

        await eventually(rows, "the row replayed")
        await standby.pause_replay()
        await primary.execute("INSERT INTO t VALUES (2)")
        assert await rows() == 1
        await standby.resume_replay()

        async def both() -> bool:
            return await rows() == 2

        await eventually(both, "the second row replayed")
        await standby.promote()
        await replica.execute("INSERT INTO t VALUES (3)")
    finally:
        await primary.close()
        await replica.close()


async def test_a_child_says_when_it_is_ready_and_can_be_killed(spawn: Spawn) -> None:
    child = await spawn(_echo, "hello", {"n": 1})
    assert await child.until("ready") == ["hello {'n': 1}"]
    await child.write_line("again")
    assert await child.line() == "again"
    await child.kill()
    assert child.returncode == -9


def _echo(text: str, other: object) -> None:
    print(text, other)
    print("ready", flush=True)
    while True:
        print(input(), flush=True)
