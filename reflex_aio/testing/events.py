"""Which events a piece of code inserts."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import zip_longest

from reflex_aio.event import Event
from reflex_aio.stream import Source
from reflex_aio.testing.contract import expect

__all__ = ["assert_events", "inserted_events", "read_events"]


async def read_events(source: Source, after: str = "") -> list[Event]:
    """Return the events after the cursor ``after``, to the head.

    :raises Exception: what the source raises
    """
    async with source.stream(after, to_head=True) as stream:
        return [event async for event in stream]


@asynccontextmanager
async def inserted_events(source: Source) -> AsyncIterator[list[Event]]:
    """Find out which events are inserted while this is entered.

    ::

        async with inserted_events(user_events.source(pool)) as inserted:
            user_id = await sign_up("ann@example.com")
        assert_events(inserted, (user_id, UserEvent.SIGNED_UP))

    The list is empty until the ``async with`` is left. Transactions that are open by then are waited for. Events of
    others who insert at the same time are in it too: give each test a table of its own.

    :raises Exception: what the source raises
    """
    before = await source.head()
    events: list[Event] = []
    yield events
    events += await read_events(source, before)


def assert_events(events: Iterable[Event], *expected: tuple[str | int, int]) -> None:
    """Assert that ``events`` are those expected, each a foreign id and a type, in this order.

    :raises AssertionError: if not, with the first that differs
    """
    came = [(event.foreign_id, event.type) for event in events]
    wanted = [(str(foreign_id), int(kind)) for foreign_id, kind in expected]
    for place, (one, other) in enumerate(zip_longest(came, wanted), start=1):
        expect(f"event {place} (foreign id, type), of {came}", one, other)
