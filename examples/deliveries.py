"""A log of all deliveries, repeated ones too: what the demonstration judges consumers by.

A service of yours needs none.
"""

import os
from typing import Any

from examples.database import fetch
from reflex_aio import Event

_TABLE = """
CREATE TABLE deliveries (
    number serial PRIMARY KEY,
    consumer varchar(255) NOT NULL,
    process integer NOT NULL,
    event_id bigint NOT NULL,
    type integer NOT NULL,
    foreign_id varchar(255) NOT NULL
)
"""


async def create_table(connection: Any) -> None:
    """Make the table."""
    await fetch(connection, _TABLE)


async def record(connection: Any, consumer: str, event: Event) -> None:
    """Note, in the transaction that is open, that ``consumer`` got ``event`` in this process."""
    await fetch(
        connection,
        "INSERT INTO deliveries (consumer, process, event_id, type, foreign_id) VALUES (%s, %s, %s, %s, %s)",
        consumer,
        os.getpid(),
        int(event.id),
        event.type,
        event.foreign_id,
    )
