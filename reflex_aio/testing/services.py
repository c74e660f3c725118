"""For tests of services: scripted failures, waiting for consumers, and comparing inserted events."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from typing import Literal, TypeAlias

import anyio

from reflex_aio.checks import check_count
from reflex_aio.consumer import Consumer
from reflex_aio.cursor import CursorStore
from reflex_aio.errors import StreamStopped
from reflex_aio.event import Event
from reflex_aio.lease import Lease
from reflex_aio.memory import MemoryCursorStore
from reflex_aio.running.run import run, start_cursor
from reflex_aio.spec import Spec
from reflex_aio.stream import EventStream, Source, StreamOptions
from reflex_aio.testing.contract import expect

__all__ = [
    "ScriptedCursorStore",
    "ScriptedSource",
    "assert_events",
    "await_consumer",
    "await_cursor",
    "inserted_events",
    "read_events",
]

# The period of reading a cursor, in seconds.
_POLL = 0.005

Call: TypeAlias = Literal["get", "set", "flush", "all"]


class ScriptedSource:
    """A source of the events of another source, which fails as a test directs.

    ::

        events = MemoryEvents()
        source = ScriptedSource(events)
        source.fail(ConnectionLost("the cable"), after="2")

    :param source: the source of the events
    :ivar opened: the number of streams that were opened so far
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._failures: list[tuple[str | None, Exception]] = []
        self._stopped = False
        self._streams: set[_ScriptedStream] = set()
        self.opened: int = 0

    def fail(self, error: Exception, *, after: str | int | None = None) -> None:
        """Let one stream raise ``error``, once.

        :param after: the id of the last event before the error; by default the stream fails to open
        """
        self._failures.append((None if after is None else str(after), error))
        self._interrupt()

    def stop(self) -> None:
        """Let all open streams, and those that are opened, raise StreamStopped until :meth:`start` is called."""
        self._stopped = True
        self._interrupt()

    def start(self) -> None:
        """Let streams continue, and be opened, after :meth:`stop`."""
        self._stopped = False

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``. See :class:`~reflex_aio.stream.Source`."""
        return _ScriptedStream(self, after, StreamOptions(from_head, to_head, lag))

    async def head(self) -> str:
        """Return the cursor of the newest event. See :class:`~reflex_aio.stream.Source`."""
        return await self._source.head()

    def _interrupt(self) -> None:
        for stream in self._streams:
            stream.interrupt()

    def _raise_failure(self, position: str | None) -> None:
        """Raise the error that is due for a stream at ``position``, or for one that is opened."""
        if self._stopped:
            raise StreamStopped
        for number, (after, error) in enumerate(self._failures):
            if after == position:
                del self._failures[number]
                raise error

    def _count_before_failure(self, page: Sequence[Event]) -> int:
        """Return the number of events of ``page`` before the next failure."""
        planned = {after for after, _ in self._failures}
        for number, event in enumerate(page, start=1):
            if event.id in planned:
                return number
        return len(page)


class _ScriptedStream(EventStream):
    def __init__(self, script: ScriptedSource, after: str, options: StreamOptions) -> None:
        super().__init__(after)
        self._script = script
        self._options = options
        self._stream = self._make()
        self._position = after
        self._page: Sequence[Event] = ()
        self._waiting: anyio.CancelScope | None = None

    def interrupt(self) -> None:
        """Stop waiting for events, and check for failures again."""
        if self._waiting is not None:
            self._waiting.cancel()

    def _make(self) -> EventStream:
        options = self._options
        return self._script._source.stream(
            self._after, from_head=options.from_head, to_head=options.to_head, lag=options.lag
        )

    async def _open(self) -> str:
        self._script._raise_failure(None)
        try:
            await self._stream.__aenter__()
        except BaseException:
            # The stream has closed itself. This method may be called again.
            self._stream = self._make()
            raise
        self._script.opened += 1
        self._script._streams.add(self)
        self.opaque_ids = self._stream.opaque_ids
        self._position = self._stream.cursor
        return self._position

    async def _read(self) -> Sequence[Event]:
        self._script._raise_failure(self._position)
        while not self._page:
            with anyio.CancelScope() as self._waiting:
                self._page = await self._stream.read_page()
                if not self._page:
                    return ()
            self._waiting = None
            self._script._raise_failure(self._position)
        count = self._script._count_before_failure(self._page)
        page, self._page = self._page[:count], self._page[count:]
        self._position = page[-1].id
        return page

    async def _close(self) -> None:
        self._script._streams.discard(self)
        await self._stream.aclose()


class ScriptedCursorStore(MemoryCursorStore):
    """A cursor store in memory that records its calls, and fails as a test directs.

    :param cursors: initial cursors by consumer; event ids may be integers
    :ivar sets: the consumers and cursors that were set, in order
    :ivar flushes: the number of flushes
    """

    def __init__(self, cursors: Mapping[str, str | int] = {}) -> None:
        super().__init__(cursors)
        self._failures: dict[Call, list[Exception]] = {}
        self.sets: list[tuple[str, str]] = []
        self.flushes: int = 0

    def fail(self, call: Call, error: Exception) -> None:
        """Let the next call of the method ``call`` raise ``error``, once. Several errors are raised in order."""
        self._failures.setdefault(call, []).append(error)

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none."""
        self._raise_failure("get")
        return await super().get(name)

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward. See :class:`~reflex_aio.cursor.CursorStore`."""
        self._raise_failure("set")
        await super().set(name, cursor, expected=expected, fence=fence)
        self.sets.append((name, cursor))

    async def flush(self) -> None:
        """Count the flush."""
        self._raise_failure("flush")
        self.flushes += 1

    async def all(self) -> Mapping[str, str]:
        """Return the stored cursors by consumer."""
        self._raise_failure("all")
        return await super().all()

    def _raise_failure(self, call: Call) -> None:
        if failures := self._failures.get(call):
            raise failures.pop(0)


async def await_cursor(
    store: CursorStore, consumer: str | Consumer, event_id: str | int, *, within: float = 15.0
) -> None:
    """Wait until a consumer, which is running elsewhere, has consumed the event ``event_id``.

    :param store: the consumer's cursor store
    :param consumer: the consumer, or its name
    :param event_id: the event id that the cursor must reach; if ids are integers, a greater one will do
    :param within: time limit, in seconds
    :raises AssertionError: if the cursor does not reach it in time
    """
    name = consumer.name if isinstance(consumer, Consumer) else consumer
    cursor = ""
    with anyio.move_on_after(within):
        # Cursor stores have no notifications.
        while not _has_reached(cursor := await store.get(name), str(event_id)):  # noqa: ASYNC110
            await anyio.sleep(_POLL)
        return
    raise AssertionError(
        f"{name} has not consumed event {event_id} within {within:g} s: its cursor is {cursor!r}"
    )


async def await_consumer(
    spec: Spec, event_id: str | int | None = None, *, count: int | None = None, within: float = 15.0
) -> str:
    """Run ``spec`` until its consumer has consumed the event ``event_id``, or ``count`` events.

    Then the run is cancelled, which flushes its cursor. It may have consumed later events too.

    :param count: number of events that the consumer's filters accept, from its cursor on
    :param within: time limit, in seconds
    :return: the id of the last event that was waited for
    :raises AssertionError: if the consumer does not get there in time, or the run ends first
    :raises Exception: whatever the run raises
    :raises TypeError: unless exactly one of ``event_id`` and ``count`` is given
    :raises ValueError: if ``count`` is less than 1
    """
    if (event_id is None) == (count is None):
        raise TypeError("accepted is either event_id or count")
    check_count("count", count, least=1, none=True)
    error: Exception | None = None
    ended = False
    reached: str | None = None

    async def run_spec() -> None:
        nonlocal error, ended
        try:
            await run(spec)
        except Exception as exc:
            # Raised below: the task group would wrap it.
            error = exc
            group.cancel_scope.cancel()
        ended = True

    async def wait() -> str | None:
        after = await start_cursor(spec)
        group.start_soon(run_spec)
        last = str(event_id) if count is None else await _last_of(spec, after, count)
        while last is not None:
            # Before the cursor is read: the run may end in between.
            has_ended = ended
            if _has_reached(await spec.store.get(spec.consumer.name), last):
                break
            if has_ended:
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
    events = f"event {event_id}" if count is None else f"{count} events"
    reason = "before the run ended" if ended else f"within {within:g} s"
    cursor = await spec.store.get(spec.consumer.name)
    raise AssertionError(f"{spec.consumer.name} has not consumed {events} {reason}: its cursor is {cursor!r}")


async def _last_of(spec: Spec, after: str, count: int) -> str | None:
    """Return the id of the last of ``count`` events that the consumer accepts, or ``None`` if there are fewer."""
    options = spec.options
    stream = spec.source.stream(after, from_head=options.from_head, to_head=options.to_head)
    async with stream:
        async for event in stream:
            count -= spec.consumer.wants(event)
            if not count:
                return event.id
    return None


def _has_reached(cursor: str, event_id: str) -> bool:
    if cursor.isdecimal() and event_id.isdecimal():
        return int(cursor) >= int(event_id)
    return cursor == event_id


async def read_events(source: Source, after: str = "") -> list[Event]:
    """Return the events after the cursor ``after``, up to the head.

    :raises Exception: whatever the source raises
    """
    async with source.stream(after, to_head=True) as stream:
        return [event async for event in stream]


@asynccontextmanager
async def inserted_events(source: Source) -> AsyncIterator[list[Event]]:
    """Yield a list, which has the events that were inserted within the context once the context is left.

    ::

        async with inserted_events(user_events.source(pool)) as inserted:
            user_id = await sign_up("ann@example.com")
        assert_events(inserted, (user_id, UserEvent.SIGNED_UP))

    At the end, open transactions are waited for. Events that other processes insert at the same time are included: give
    each test a table of its own.

    :raises Exception: whatever the source raises
    """
    before = await source.head()
    events: list[Event] = []
    yield events
    events += await read_events(source, before)


def assert_events(events: Iterable[Event], *expected: tuple[str | int, int]) -> None:
    """Assert that ``events`` are the expected ones, each given as a foreign id and a type, in this order.

    :raises AssertionError: if they are not; the message has the first difference
    """
    actual = [(event.foreign_id, event.type) for event in events]
    wanted = [(str(foreign_id), int(kind)) for foreign_id, kind in expected]
    for place, (one, other) in enumerate(zip_longest(actual, wanted), start=1):
        expect(f"event {place} (foreign id, type), of {actual}", one, other)
