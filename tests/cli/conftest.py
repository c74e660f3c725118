"""A database with an events table and a cursors table, which most of these tests use."""

from dataclasses import dataclass

import asyncpg
import pytest_asyncio

from reflex_aio.sql import CursorsTable, EventsTable
from tests.cli.commands import Outcome, reflex_aio
from tests.fix_databases import Connect, Database

events = EventsTable("user_events")
cursors = CursorsTable("cursors")


@dataclass(frozen=True)
class Service:
    """The database of a service, which is passed to the command in its environment."""

    dsn: str
    connection: asyncpg.Connection

    async def reflex_aio(self, *arguments: str, given: str | None = None) -> Outcome:
        return await reflex_aio(*arguments, given=given, **self.environment)

    @property
    def environment(self) -> dict[str, str]:
        return {"REFLEX_DSN": self.dsn, "REFLEX_EVENTS": events.name, "REFLEX_CURSORS": cursors.name}

    @property
    def options(self) -> list[str]:
        return ["--dsn", self.dsn, "--events", events.name]

    async def insert(self, count: int, type: int = 1) -> None:
        """Insert events whose foreign ids are equal to their ids."""
        head = (await events.extent(self.connection)).newest or "0"
        numbers = range(int(head) + 1, int(head) + 1 + count)
        await events.insert_many(self.connection, [(number, type) for number in numbers])

    async def cursors(self) -> dict[str, str]:
        return await cursors.all(self.connection)


@pytest_asyncio.fixture
async def service(database: Database, connect: Connect) -> Service:
    """A database with both tables, empty."""
    connection = await connect()
    await events.create(connection)
    await cursors.create(connection)
    return Service(database.dsn, connection)
