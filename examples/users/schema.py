"""The tables of the users service, and the events that it tells of."""

from enum import IntEnum
from typing import Any

from examples import deliveries
from reflex_aio.sql import CursorsTable, EventsTable


class UserEvent(IntEnum):
    """How a user changed. The numbers are stored: they are never given another meaning."""

    SIGNED_UP = 1
    EMAIL_CHANGED = 2


user_events = EventsTable("user_events")
cursors = CursorsTable("cursors")

_TABLES = """
CREATE TABLE IF NOT EXISTS teams (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    free_seats integer NOT NULL CHECK (free_seats >= 0)
);
CREATE TABLE IF NOT EXISTS users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    team_id bigint NOT NULL REFERENCES teams,
    email text NOT NULL,
    version integer NOT NULL DEFAULT 1
);
CREATE TABLE IF NOT EXISTS search_index (
    user_id bigint PRIMARY KEY,
    email text NOT NULL
);
"""


async def create_tables(connection: Any) -> None:
    """Make the tables of the service if there are none. (A grown-up service puts ``ddl()`` into a migration.)"""
    await connection.execute(_TABLES)
    await user_events.create(connection)
    await cursors.create(connection)
    await deliveries.create_table(connection)
