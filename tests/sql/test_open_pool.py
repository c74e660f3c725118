"""Pools of a DSN: the client library that its scheme stands for, and the errors of a wrong DSN."""

import asyncio
import sys
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from reflex_aio import ConnectionLost, DatabaseError
from reflex_aio.sql import open_pool
from tests.fix_databases import Connect, Database
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


async def message_of(dsn: str, error: type[Exception]) -> str:
    """Return the error message of opening a pool, with those of its causes."""
    with pytest.raises(error) as caught:
        async with open_pool(dsn):
            pass
    causes = []
    exc: BaseException | None = caught.value
    while exc is not None:
        causes.append(str(exc))
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return " <- ".join(causes)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "PostgreSQL", "postgresql+asyncpg"])
async def test_the_scheme_decides_on_the_client_library(database: Database, scheme: str) -> None:
    dsn = f"{scheme}://{database.dsn.partition('://')[2]}"
    async with open_pool(dsn, size=2) as pool:
        assert isinstance(pool, asyncpg.Pool)
        assert pool.get_max_size() == 2
        assert await pool.fetchval("SELECT current_database()") == database.name


async def test_a_pool_is_closed_with_its_context_though_a_connection_is_in_use(
    database: Database, connect: Connect
) -> None:
    watcher = await connect()

    async def connections() -> int:
        found: int = await watcher.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            database.name,
        )
        return found

    async with open_pool(database.dsn) as pool:
        await pool.acquire()
        assert await connections() > 0

    async def none() -> bool:
        return await connections() == 0

    await eventually(none, "the pool's connections are closed")


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("localhost/app", "has no scheme: accepted is scheme://user:password@host:port/database"),
        ("host=localhost password=s3cret", "has no scheme"),
        ("oracle://me:s3cret@localhost/app", "scheme 'oracle' is not known: accepted is postgresql, postgres"),
        ("postgresql+psycopg2://localhost/app", "scheme 'postgresql+psycopg2' is not known"),
        ("postgresql://me:s3cret@local:port/app", "the DSN's port or one of its parameters can't be read"),
        ("postgresql://me:s3cret@localhost/app?sslmode", "the DSN's port or one of its parameters"),
        ("postgresql://me:s3cret@localhost/app?sslmode=perhaps", "the DSN is not accepted: `sslmode`"),
        ("postgresql://me:s3cret@[::1/app", "the DSN can't be read"),
    ],
)  # fmt: skip
async def test_a_dsn_that_is_wrong_is_reported_with_what_is_accepted(dsn: str, reason: str) -> None:
    message = await message_of(dsn, ValueError)
    assert reason in message
    assert "s3cret" not in message


@pytest.mark.parametrize(
    "password", ["s3@cret", "s3/cret", "s3#cret", "33/cret@x", "s3?cret", "s3:cret", "s3%cret"]
)
async def test_a_password_with_characters_of_urls_is_never_reported(
    password: str, unused_tcp_port: int
) -> None:
    with pytest.raises((ValueError, ConnectionLost)) as caught:
        async with open_pool(f"postgresql://me:{password}@127.0.0.1:{unused_tcp_port}/app"):
            pass
    assert "cret" not in str(caught.value)


async def test_a_server_that_is_down_is_a_lost_connection(unused_tcp_port: int) -> None:
    place = f"127.0.0.1:{unused_tcp_port}/app"
    message = await message_of(f"postgresql://me:s3cret@{place}", ConnectionLost)
    assert message.startswith(f"{place}: the database can't be reached: ")
    assert "s3cret" not in message


async def test_a_host_that_does_not_exist_is_reported() -> None:
    message = await message_of("postgresql://me:s3cret@nobody.invalid/app", ConnectionLost)
    assert message.startswith("nobody.invalid/app: the database can't be reached: ")


async def test_what_the_server_refuses_is_reported_without_the_password(
    database: Database, connect: Connect
) -> None:
    refused = database.server.dsn_for("no_such_database")
    assert 'database "no_such_database" does not exist' in await message_of(refused, DatabaseError)
    admin = await connect()
    role = f"r_{database.name[:20]}"
    await admin.execute(f"CREATE ROLE \"{role}\" LOGIN CONNECTION LIMIT 0 PASSWORD 's3cret'")
    try:
        parts = urlsplit(database.dsn)
        host = parts.netloc.rpartition("@")[2]
        message = await message_of(
            parts._replace(netloc=f"{quote(role)}:s3cret@{host}").geturl(), ConnectionLost
        )
        assert f'too many connections for role "{role}"' in message
        assert "s3cret" not in message
    finally:
        await admin.execute(f'DROP ROLE "{role}"')


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ("postgres", "needs asyncpg or psycopg: pip install 'reflex-aio[psycopg]'"),
        ("postgresql+asyncpg", "needs asyncpg: pip install 'reflex-aio'"),
        ("postgresql+psycopg", "needs psycopg: pip install 'reflex-aio[psycopg]'"),
    ],
)
async def test_a_missing_client_library_is_reported_with_its_requirement(
    monkeypatch: pytest.MonkeyPatch, scheme: str, reason: str
) -> None:
    for library in ("asyncpg", "psycopg"):
        monkeypatch.setitem(sys.modules, library, None)
    message = await message_of(f"{scheme}://me:s3cret@localhost/app", ModuleNotFoundError)
    assert message == f"{scheme}:// {reason}"


@pytest.mark.parametrize("size", [0, -1])
async def test_a_size_without_connections_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size {size} is out of range"):
        async with open_pool("postgresql://localhost/app", size=size):
            pass


async def test_what_is_no_dsn_or_size_is_a_type_error_that_shows_no_dsn() -> None:
    with pytest.raises(TypeError, match="the DSN is a bytes"):
        async with open_pool(b"postgresql://me:s3cret@localhost/app"):  # type: ignore[arg-type]
            pass
    with pytest.raises(TypeError, match="size '3' is a str"):
        async with open_pool("postgresql://localhost/app", size="3"):  # type: ignore[arg-type]
            pass


async def test_cancelling_the_opening_leaves_no_connection(database: Database) -> None:
    async def opening() -> None:
        async with open_pool(database.dsn):
            await asyncio.Event().wait()

    for delay in (0.0, 0.001, 0.01):
        task = asyncio.create_task(opening())
        await asyncio.wait([task], timeout=delay)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
