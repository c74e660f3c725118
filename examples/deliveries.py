"""A log of all deliveries, repeated ones included, from which the demonstration evaluates the consumers.

A real service needs none.
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
    """Create the table."""
    await fetch(connection, _TABLE)


async def record(connection: Any, consumer: str, event: Event) -> None:
    """Record the delivery of ``event`` to ``consumer`` in this process, in the current transaction."""
    await fetch(
        connection,
        "INSERT INTO deliveries (consumer, process, event_id, type, foreign_id) VALUES (%s, %s, %s, %s, %s)",
        consumer,
        os.getpid(),
        int(event.id),
        event.type,
        event.foreign_id,
    )
