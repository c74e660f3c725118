"""A consumer within the users service: keeps the search index in step with the users."""

import asyncpg

from examples.deliveries import record
from examples.users.schema import cursors, user_events
from reflex_aio import Consumer, Event, Spec


def search_spec(pool: asyncpg.Pool) -> Spec:
    """Return what runs the consumer ``search``."""

    async def index(event: Event) -> None:
        async with pool.acquire() as connection, connection.transaction():
            # An event only points to the user: what the user is now, the row tells. So an event that comes
            # a second time does no harm.
            await connection.execute(
                "INSERT INTO search_index (user_id, email) SELECT id, email FROM users WHERE id = $1"
                " ON CONFLICT (user_id) DO UPDATE SET email = excluded.email",
                event.foreign_id_int,
            )
            await record(connection, "search", event)

    return Spec(user_events.source(pool), cursors.store(pool), Consumer("search", index))
