"""Where asyncpg's connections are connected, and connections of our own beside them."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from typing import Any, Literal

import asyncpg
import pytest
import pytest_asyncio
import trustme

from reflex_aio.ext.embedded import EmbeddedPostgres
from reflex_aio.sql.drivers.asyncpg import AsyncpgDriver
from tests.fix_databases import Connect, Database
from tests.fix_servers import distribution_programs

pytestmark = pytest.mark.asyncio

driver = AsyncpgDriver()


async def test_a_connection_keeps_its_server_over_acquires_and_is_queried_once(database: Database) -> None:
    statements: list[object] = []
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            server = await driver.server(connection)
        async with pool.acquire() as connection, connection.transaction():
            connection.add_query_logger(statements.append)
            assert await driver.server(connection) == server
            await asyncio.sleep(0)
            assert statements == []


async def test_connections_to_the_same_database_as_the_same_user_have_one_server(
    database: Database, connect: Connect
) -> None:
    await (await connect()).execute("CREATE ROLE other_user LOGIN")
    try:
        one, two = await connect(), await connect()
        other_user = await connect(user="other_user")
        other_database = await connect(database="postgres")
        assert await driver.server(one) == await driver.server(two)
        assert await driver.server(one) != await driver.server(other_user)
        assert await driver.server(one) != await driver.server(other_database)
        await other_user.close()
    finally:
        await one.execute("DROP ROLE other_user")


async def test_the_query_for_the_server_starts_nothing_in_the_callers_transaction(connect: Connect) -> None:
    connection = await connect()
    async with connection.transaction():
        await driver.server(connection)
        # Refused after any query.
        await connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")


async def test_the_server_is_known_in_an_aborted_transaction_too(connect: Connect) -> None:
    connection, other = await connect(), await connect()
    await connection.execute("BEGIN")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.execute("SELECT 1/0")
    assert await driver.server(connection) == await driver.server(other)
    assert connection.is_in_transaction()


async def test_a_connector_outlives_its_connection_and_names_itself(connect: Connect) -> None:
    connection = await connect(server_settings={"application_name": "billing", "search_path": "elsewhere"})
    connector = await driver.connector(connection)
    await connection.close()
    ours = await connector()
    try:
        assert await ours.fetchval("SHOW application_name") == "billing reflex_aio"
        assert await ours.fetchval("SHOW search_path") == "elsewhere"
    finally:
        await ours.close()


async def test_a_link_takes_no_connection_of_a_pool(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        with pytest.raises(TypeError, match=r"asyncpg\.connect"):
            await driver.listen_connection(connection)


async def test_a_proxys_connection_has_the_private_name_that_we_rely_on(pool: asyncpg.Pool) -> None:
    connection: Any
    async with pool.acquire() as connection:
        assert isinstance(connection._con, asyncpg.Connection)


async def _password() -> str:
    return "of this minute"


@pytest.mark.suite_server
@pytest.mark.parametrize("password", ["plain", _password])
async def test_a_connector_gives_the_password_that_its_connection_was_given(
    connect: Connect, password: Any
) -> None:
    """The suite's servers require none, so asyncpg's arguments are checked."""
    connection = await connect(password=password)
    statements: list[Any] = []
    ours = await (await driver.connector(connection))()
    ours.add_query_logger(statements.append)
    await ours.execute("SELECT 1")
    await asyncio.sleep(0)
    await ours.close()
    assert [statement.conn_params.password for statement in statements] == [password]


@pytest_asyncio.fixture
async def tls_server() -> AsyncIterator[tuple[EmbeddedPostgres, ssl.SSLContext]]:
    """A server that takes TCP connections with TLS alone, and a context that trusts it."""
    # The embedded server is built without TLS.
    programs = distribution_programs()
    authority, context = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(context)
    certificate = authority.issue_cert("127.0.0.1")
    async with EmbeddedPostgres(programs=programs, port=0, settings={"fsync": False}) as server:
        owner = server.directory.stat()
        for name, content in (
            ("server.key", certificate.private_key_pem.bytes()),
            ("server.crt", certificate.cert_chain_pems[0].bytes()),
            ("pg_hba.conf", b"local all all trust\nhostssl all all 127.0.0.1/32 trust\n"),
        ):
            path = server.directory / name
            path.write_bytes(content)
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("ALTER SYSTEM SET ssl = on")
        await connection.close()
        await server.restart()
        yield server, context


@pytest.mark.parametrize("mode", ["prefer", "require", None])
async def test_a_connector_uses_tls_as_its_connection_does(
    tls_server: tuple[EmbeddedPostgres, ssl.SSLContext], mode: Literal["prefer", "require"] | None
) -> None:
    server, context = tls_server
    connection = await asyncpg.connect(
        server.dsn_for("postgres", tcp=True), ssl=context if mode is None else mode
    )
    ours = await (await driver.connector(connection))()
    assert await ours.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await ours.close()
    await connection.close()


async def test_a_connector_does_without_tls_as_its_connection_does(
    tls_server: tuple[EmbeddedPostgres, ssl.SSLContext],
) -> None:
    server, _ = tls_server
    connection = await asyncpg.connect(server.dsn, ssl=False)
    ours = await (await driver.connector(connection))()
    assert not await ours.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await ours.close()
    await connection.close()
