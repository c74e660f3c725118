"""Waiting for the next event of a row."""

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

import anyio

from reflex_aio.checks import check_seconds
from reflex_aio.errors import StreamStopped
from reflex_aio.event import Event, check_foreign_id, check_type
from reflex_aio.stream import EventStream, Source
from reflex_aio.tasks import Group

__all__ = ["wait_for_event"]


async def wait_for_event(
    source: Source,
    foreign_id: str | int | UUID,
    *,
    types: Iterable[int] = (),
    poll: Callable[[], Awaitable[bool]] | None = None,
    every: float = 1.0,
) -> Event | None:
    """Return the next event of a row, or ``None`` once ``poll`` returns true.

    ``poll`` is first called when events can no longer be missed, so it also finds changes whose events came before.
    To limit the time, use :func:`anyio.fail_after` or :func:`asyncio.timeout`.

    :param source: the source, which is read from its head on
    :param foreign_id: the row
    :param types: the event types to wait for; empty for all
    :param poll: an async function that checks the row, and returns true if there is nothing to wait for
    :param every: period of ``poll``, in seconds
    :raises StreamStopped: if the source ended the stream
    :raises Exception: whatever the source or ``poll`` raises
    :raises TypeError: if an argument has the wrong type
    :raises ValueError: if an argument is out of range
    """
    row, wanted = check_foreign_id(foreign_id), frozenset(check_type(each) for each in types)
    check_seconds("every", every)
    async with source.stream(from_head=True) as stream:
        if poll is None:
            return await _next(stream, row, wanted)
        return await _next_or_polled(poll, every, stream, row, wanted)


async def _next(stream: EventStream, row: str, types: frozenset[int]) -> Event:
    async for event in stream:
        if event.foreign_id == row and (not types or event.type in types):
            return event
    raise StreamStopped


async def _next_or_polled(
    poll: Callable[[], Awaitable[bool]], every: float, stream: EventStream, row: str, types: frozenset[int]
) -> Event | None:
    group, done = Group(f"wait_for_event({row!r})"), anyio.Event()
    found: Event | None = None

    async def read() -> None:
        nonlocal found
        found = await _next(stream, row, types)
        done.set()

    async def poll_until_true() -> None:
        while True:
            if await poll():
                done.set()
                return
            await anyio.sleep(every)

    async def wait() -> None:
        group.start(read)
        group.start(poll_until_true)
        await done.wait()

    await group.run(wait)
    return found
