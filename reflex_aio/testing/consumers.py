"""Waiting for consumers."""

import anyio

from reflex_aio.consumer import Consumer
from reflex_aio.cursor import CursorStore
from reflex_aio.running.run import run
from reflex_aio.spec import Spec

__all__ = ["await_consumer", "await_cursor"]

# How often to look, in seconds.
_POLL = 0.005


async def await_cursor(
    store: CursorStore, consumer: str | Consumer, event_id: str | int, *, within: float = 15.0
) -> None:
    """Wait until a consumer, which is running elsewhere, has consumed the event ``event_id``.

    :param store: where the consumer's cursor is kept
    :param consumer: the consumer, or its name
    :param event_id: the id of the event, at which its cursor has to arrive, or to be past if ids are integers
    :param within: how long to wait, in seconds
    :raises AssertionError: if it doesn't get there in time
    """
    name = consumer.name if isinstance(consumer, Consumer) else consumer
    cursor = ""
    with anyio.move_on_after(within):
        # Stores tell nobody that a cursor has moved.
        while not _reached(cursor := await store.get(name), str(event_id)):  # noqa: ASYNC110
            await anyio.sleep(_POLL)
        return
    raise AssertionError(
        f"{name} has not consumed event {event_id} within {within:g} s: its cursor is {cursor!r}"
    )


async def await_consumer(
    spec: Spec, event_id: str | int | None = None, *, count: int | None = None, within: float = 15.0
) -> str:
    """Run ``spec`` until its consumer has consumed the event ``event_id``, or as many as ``count`` events.

    Then the run is cancelled, so that it flushes its cursor; it may have consumed later events too.

    :param count: how many events that the consumer's filters let through, from where its cursor is
    :param within: how long to wait, in seconds
    :return: the id of the last event that was waited for
    :raises AssertionError: if it doesn't get there in time, or the run ends before
    :raises Exception: what the run raises
    :raises TypeError: unless one of ``event_id`` and ``count`` is given
    :raises ValueError: if ``count`` is less than 1
    """
    if (event_id is None) == (count is None):
        raise TypeError("give either event_id or count")
    if count is not None and count < 1:
        raise ValueError(f"count {count} is out of range: accepted is a number from 1")
    error: Exception | None = None
    ended = False
    reached: str | None = None

    async def run_it() -> None:
        nonlocal error, ended
        try:
            await run(spec)
        except Exception as exc:
            # Raised below, as the group would wrap it.
            error = exc
            group.cancel_scope.cancel()
        ended = True

    async def wait() -> str | None:
        after = await spec.store.get(spec.consumer.name)
        group.start_soon(run_it)
        last = str(event_id) if count is None else await _last_of(spec, after, count)
        while last is not None:
            # Before the look, as the run may end in between.
            no_more = ended
            if _reached(await spec.store.get(spec.consumer.name), last):
                break
            if no_more:
                return None
            await anyio.sleep(_POLL)
        return last

    with anyio.move_on_after(within):
        async with anyio.create_task_group() as group:
            reached = await wait()
            group.cancel_scope.cancel()
    if error is not None:
        raise error
    if reached is not None:
        return reached
    what = f"event {event_id}" if count is None else f"{count} events"
    why = "before the run ended" if ended else f"within {within:g} s"
    cursor = await spec.store.get(spec.consumer.name)
    raise AssertionError(f"{spec.consumer.name} has not consumed {what} {why}: its cursor is {cursor!r}")


async def _last_of(spec: Spec, after: str, count: int) -> str | None:
    """Return the id of the last of ``count`` events that the consumer wants, or None if there aren't as many."""
    options = spec.options
    stream = spec.source.stream(after, from_head=options.from_head, to_head=options.to_head)
    async with stream:
        async for event in stream:
            count -= spec.consumer.wants(event)
            if not count:
                return event.id
    return None


def _reached(cursor: str, event_id: str) -> bool:
    if cursor.isdecimal() and event_id.isdecimal():
        return int(cursor) >= int(event_id)
    return cursor == event_id
