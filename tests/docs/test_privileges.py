"""The privileges that docs/postgresql.md names are enough."""

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from reflex_aio import Consumer, Event, Spec, run
from reflex_aio.sql import CursorsTable, EventsTable
from tests.docs.documents import CHECKOUT, blocks
from tests.fix_databases import Connect, Database

user_events = EventsTable("user_events")
cursors = CursorsTable("cursors")


@pytest_asyncio.fixture
async def roles(database: Database, connect: Connect) -> AsyncIterator[dict[str, str]]:
    """Tables, and roles that were granted what the document says. Roles belong to the server, so have odd names."""
    owner = await connect()
    await user_events.create(owner)
    await cursors.create(owner)
    roles = {role: f"{role}_{secrets.token_hex(4)}" for role in ("writer", "reader")}
    [grants] = blocks(CHECKOUT / "docs/postgresql.md", "sql")
    code = grants.code
    for role, name in roles.items():
        await owner.execute(f"CREATE ROLE {name}")
        code = code.replace(f"TO {role};", f"TO {name};")
    await owner.execute(code)
    yield roles
    for name in roles.values():
        await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.asyncio
@pytest.mark.every_postgres
async def test_the_privileges_that_are_named_suffice(database: Database, roles: dict[str, str]) -> None:
    handled = []

    async def handle(event: Event) -> None:
        handled.append(event.foreign_id)

    writing, reading = {"role": roles["writer"]}, {"role": roles["reader"]}
    async with (
        asyncpg.create_pool(database.dsn, server_settings=writing) as writer,
        asyncpg.create_pool(database.dsn, server_settings=reading) as reader,
    ):
        async with writer.acquire() as connection:
            await user_events.insert(connection, 1, 1)
            transaction = connection.transaction()
            await transaction.start()
            await user_events.insert(connection, 2, 1)
            await transaction.rollback()
            await user_events.insert_many(connection, [(3, 1), (4, 1)])
        store = cursors.store(reader)
        await run(Spec(user_events.source(reader), store, Consumer("c", handle), to_head=True))
        assert handled == ["1", "3", "4"]
        assert await store.get("c") == "4"
        await store.rewind("c", "")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute("INSERT INTO user_events (type, foreign_id) VALUES (1, '5')")
