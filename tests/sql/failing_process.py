"""A process with a consumer that fails, and stores its attempts in a table."""

from reflex_aio import Backoff, Event, Spec, run_forever
from reflex_aio.memory import MemoryEvents
from reflex_aio.patterns import DeadLetterConsumer
from reflex_aio.sql import AttemptsTable, CursorsTable, ErrorsTable, open_pool

__all__ = ["NAME", "RETRIES", "attempts", "cursors", "errors", "failing"]

NAME, RETRIES = "billing", 3
cursors, attempts, errors = CursorsTable("cursors"), AttemptsTable(), ErrorsTable(events=False)


async def failing(dsn: str) -> None:
    """Consume three events and fail at the second one, until killed. The next attempt is due in an hour."""
    events = MemoryEvents()
    for number in range(3):
        await events.insert(number, 1)

    async def handle(event: Event) -> None:
        print(f"event {event.id}", flush=True)
        if event.id == "2":
            raise ValueError("no such account")

    async with open_pool(dsn, size=2) as pool:
        consumer = DeadLetterConsumer(NAME, handle, errors.recorder(pool), retries=RETRIES)
        await run_forever(
            Spec(
                events,
                cursors.store(pool),
                consumer,
                attempts=attempts.store(pool),
                retry_backoff=Backoff(initial=3600.0, maximum=3600.0),
            ),
            backoff=Backoff(initial=0.01, maximum=0.01),
        )
