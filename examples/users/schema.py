"""The tables of the users service, and the types of its events."""

from enum import IntEnum
from typing import Any

from examples import deliveries
from examples.database import fetch
from reflex_aio.sql import CursorsTable, EventsTable


class UserEvent(IntEnum):
    """The kind of a change of a user. The numbers are stored, so their meaning must never change."""

    SIGNED_UP = 1
    EMAIL_CHANGED = 2


user_events = EventsTable("user_events")
cursors = CursorsTable("cursors")

_TABLES = (
    "CREATE TABLE teams (id serial PRIMARY KEY, name varchar(255) NOT NULL UNIQUE, free_seats integer NOT NULL)",
    "CREATE TABLE users (id serial PRIMARY KEY, team_id integer NOT NULL, email text, version integer NOT NULL)",
    "CREATE TABLE search_index (user_id bigint PRIMARY KEY, email text NOT NULL)",
)


async def create_tables(connection: Any) -> None:
    """Create the tables of the service. (In production, put the output of ``ddl()`` into a migration.)"""
    for table in _TABLES:
        await fetch(connection, table)
    await user_events.create(connection)
    await cursors.create(connection)
    await deliveries.create_table(connection)
