"""The mailer, a separate service: consumes users' events over gRPC, with a cursor in its own database.

::

    python -m examples.mailer --users 127.0.0.1:50051 --database postgresql://localhost/mailer
"""

import argparse
import asyncio
import signal
import sys
from contextlib import suppress
from typing import Any

import grpc

from examples import deliveries
from examples.database import fetch
from examples.users.schema import UserEvent
from reflex_aio import Consumer, Event, Spec, run_forever
from reflex_aio.rpc import RemoteSource, channel_options
from reflex_aio.sql import CursorsTable, open_pool, transaction

cursors = CursorsTable("cursors")

_MAILS = """
CREATE TABLE mails (
    event_id bigint PRIMARY KEY,
    user_id bigint NOT NULL,
    subject text NOT NULL
)
"""
_SUBJECTS = {
    UserEvent.SIGNED_UP: "Welcome!",
    UserEvent.EMAIL_CHANGED: "Your address was changed",
}


async def create_tables(connection: Any) -> None:
    """Create the tables of the service."""
    await fetch(connection, _MAILS)
    await cursors.create(connection)
    await deliveries.create_table(connection)


def mailer_spec(channel: grpc.aio.Channel, pool: Any) -> Spec:
    """Return the spec of the consumer ``mailer``: events from ``channel``, cursor and mails in ``pool``."""

    async def put_into_outbox(event: Event) -> None:
        async with pool.acquire() as connection, transaction(connection):
            # Events are delivered at least once. The primary key ensures one mail for each.
            if not await fetch(connection, "SELECT 1 FROM mails WHERE event_id = %s", int(event.id)):
                await fetch(
                    connection,
                    "INSERT INTO mails (event_id, user_id, subject) VALUES (%s, %s, %s)",
                    int(event.id),
                    event.foreign_id_int,
                    _SUBJECTS[UserEvent(event.type)],
                )
            await deliveries.record(connection, "mailer", event)

    # The cursor is stored twice a second rather than after each event. That is faster; after a crash, the events of
    # the last half second are delivered again.
    store = cursors.store(pool, flush_every=0.5)
    return Spec(RemoteSource(channel, "users"), store, Consumer("mailer", put_into_outbox))


async def serve(users: str, database: str) -> None:
    """Consume events until cancelled.

    :param users: the address of the users service
    :param database: the DSN of the mailer's own database, which contains its tables
    """
    async with (
        open_pool(database, size=5) as pool,
        grpc.aio.insecure_channel(users, channel_options()) as channel,
    ):
        await run_forever(mailer_spec(channel, pool))


async def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.mailer", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--users", required=True, metavar="ADDRESS", help="the address of the users service")
    parser.add_argument("--database", required=True, metavar="DSN", help="the mailer's own database")
    parser.add_argument("--tethered", action="store_true", help="end when standard input is closed")
    arguments = parser.parse_args()
    serving = asyncio.create_task(serve(arguments.users, arguments.database))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, serving.cancel)
    if arguments.tethered:
        loop.add_reader(sys.stdin, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    asyncio.run(main())
