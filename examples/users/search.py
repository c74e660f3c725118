"""A consumer in the users service, which keeps the search index up to date."""

from typing import Any

from examples.database import fetch
from examples.deliveries import record
from examples.users.schema import cursors, user_events
from reflex_aio import Consumer, Event, Spec
from reflex_aio.sql import transaction


def search_spec(pool: Any) -> Spec:
    """Return the spec of the consumer ``search``."""

    async def index(event: Event) -> None:
        user_id = event.foreign_id_int
        async with pool.acquire() as connection, transaction(connection):
            # The event only refers to the user, whose current state is read from its row. So the handler is
            # idempotent: an event that is delivered again changes nothing.
            await fetch(connection, "DELETE FROM search_index WHERE user_id = %s", user_id)
            await fetch(
                connection,
                "INSERT INTO search_index (user_id, email) SELECT id, email FROM users WHERE id = %s",
                user_id,
            )
            await record(connection, "search", event)

    return Spec(user_events.source(pool), cursors.store(pool), Consumer("search", index))
