"""A consumer within the users service: keeps the search index in step with the users."""

from typing import Any

from examples.database import fetch
from examples.deliveries import record
from examples.users.schema import cursors, user_events
from reflex_aio import Consumer, Event, Spec
from reflex_aio.sql import transaction


def search_spec(pool: Any) -> Spec:
    """Return what runs the consumer ``search``."""

    async def index(event: Event) -> None:
        user_id = event.foreign_id_int
        async with pool.acquire() as connection, transaction(connection):
            # An event only points to the user: what the user is now, the row tells. So an event that comes
            # a second time does no harm.
            await fetch(connection, "DELETE FROM search_index WHERE user_id = %s", user_id)
            await fetch(
                connection,
                "INSERT INTO search_index (user_id, email) SELECT id, email FROM users WHERE id = %s",
                user_id,
            )
            await record(connection, "search", event)

    return Spec(user_events.source(pool), cursors.store(pool), Consumer("search", index))
