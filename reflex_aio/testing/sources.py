"""The rules for sources of events."""

import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import anyio

from reflex_aio.errors import CursorAhead, InvalidCursor, RemoteError, StreamClosed
from reflex_aio.event import Event
from reflex_aio.stream import BEGINNING, EventStream, Source
from reflex_aio.testing.contract import Contract, cancelled_at, expect, expect_refusal, read_into

__all__ = ["Insert", "check_source"]

Feature: TypeAlias = Literal["head", "integer ids", "lag", "metadata"]
"""Features that a source may lack: ``head()``; ids that are integers, so that other cursors are refused, as are those
beyond the newest event; ``lag=``; metadata."""


class Insert(Protocol):
    """Inserts an event into the source, and returns its id."""

    async def __call__(self, foreign_id: str, type: int, /, *, metadata: bytes | None = None) -> str: ...


# The time after which a read is taken to be waiting, in seconds.
_QUIET = 0.1
_LAG = 0.3
_WAITS = 60


@dataclass(frozen=True)
class _Case:
    """A source without events."""

    source: Source
    insert: Insert
    within: float

    async def insert_some(self, count: int) -> list[str]:
        """Insert events with the foreign ids 1 to ``count``, and return their ids."""
        return [await self.insert(str(number), 1) for number in range(1, count + 1)]

    async def next(self, stream: EventStream) -> Event:
        """Return the next event, or raise AssertionError if there is none in time."""
        with anyio.move_on_after(self.within):
            async for event in stream:
                return event
            raise AssertionError(f"expected an event after {stream.cursor!r}, got the end of the stream")
        raise AssertionError(f"expected an event after {stream.cursor!r}, got none in {self.within:g} s")

    async def take(self, stream: EventStream, count: int) -> list[str]:
        """Return the ids of the next ``count`` events."""
        return [(await self.next(stream)).id for _ in range(count)]

    async def rest(self, stream: EventStream) -> list[str]:
        """Return the ids of all events up to the end."""
        return [event.id for event in await self.events(stream)]

    async def events(self, stream: EventStream) -> list[Event]:
        """Return all events up to the end, or raise AssertionError if the stream does not end in time."""
        events: list[Event] = []
        with anyio.move_on_after(self.within):
            async for event in stream:
                events.append(event)  # noqa: PERF401
            return events
        raise AssertionError(f"expected an end after {stream.cursor!r}, got none in {self.within:g} s")

    async def all(self, after: str = "") -> list[str]:
        """Return the ids of all present events after ``after``."""
        async with self.source.stream(after, to_head=True) as stream:
            return await self.rest(stream)


_contract: Contract[_Case] = Contract("the source", get_args(Feature))


@_contract.checked_by
async def check_source(
    make_source: Callable[[], AbstractAsyncContextManager[tuple[Source, Insert]]],
    *,
    lacks: Collection[Feature] = (),
    rules: Iterable[str] | None = None,
    within: float = 10.0,
) -> None:
    """Check that a source keeps the rules of :class:`~reflex_aio.stream.Source`.

    Each rule is checked on a source of its own.

    :param make_source: returns an async context manager that makes a source without events, and a function that inserts
        an event: ``insert(foreign_id, type, metadata=None)``, which returns the event's id
    :param lacks: the features that the source lacks; rules that need them are left out
    :param rules: the names of the rules to check; by default all
    :param within: time limit for each expected event, in seconds
    :raises ContractBroken: if any rule is broken; the message has the expected and the actual result of each
    :raises ValueError: if there is no such rule or feature
    """

    @asynccontextmanager
    async def case() -> AsyncIterator[_Case]:
        async with make_source() as (source, insert):
            yield _Case(source, insert, within)

    # A rule may wait several times.
    await _contract.check(case, lacks=lacks, rules=rules, within=6 * within)


@_contract.rule()
async def source_is_a_source(case: _Case) -> None:
    """A source has the methods of the protocol Source, and its streams are EventStreams."""
    if not isinstance(case.source, Source):
        raise AssertionError(f"{case.source!r} has no method stream() or head()")
    async with case.source.stream(to_head=True) as stream:
        if not isinstance(stream, EventStream):
            raise AssertionError(f"stream() returned {stream!r}, which is not an EventStream")


@_contract.rule()
async def events_come_in_order(case: _Case) -> None:
    """Every event is delivered once, in the order of the inserts."""
    inserted = await case.insert_some(25)
    expect("ids, in order", await case.all(), inserted)


@_contract.rule()
async def ids_increase_unless_declared_opaque(case: _Case) -> None:
    """Ids are integers in their shortest form, each greater than the one before, unless streams have opaque_ids."""
    await case.insert_some(12)
    async with case.source.stream(to_head=True) as stream:
        ids = await case.rest(stream)
        if not stream.opaque_ids:
            integers = {int(event_id) for event_id in ids if event_id.isascii() and event_id.isdecimal()}
            expect("ids without opaque_ids", ids, [str(number) for number in sorted(integers - {0})])


@_contract.rule()
async def events_are_whole(case: _Case) -> None:
    """An event has the id, foreign id and type with which it was inserted."""
    rows = [("7", 1), ("8", 0), ("x'y\"; --", -(2**31)), ("\u00e9\u2028 \n", 2**31 - 1), ("x" * 255, 1)]
    inserted = [(await case.insert(row, kind), row, kind) for row, kind in rows]
    async with case.source.stream(to_head=True) as stream:
        received = [(event.id, event.foreign_id, event.type) for event in await case.events(stream)]
    expect("id, foreign id and type", received, inserted)


@_contract.rule("metadata")
async def events_have_their_metadata(case: _Case) -> None:
    """An event has the metadata with which it was inserted, or None."""
    for metadata in (b"\x00\xff", None):
        await case.insert("7", 1, metadata=metadata)
    async with case.source.stream(to_head=True) as stream:
        expect("metadata", [event.metadata for event in await case.events(stream)], [b"\x00\xff", None])


@_contract.rule()
async def every_cursor_starts_after_its_event(case: _Case) -> None:
    """A stream starts with the event after its cursor; "" is the beginning."""
    inserted = await case.insert_some(4)
    for position, after in enumerate(["", *inserted]):
        expect(f"ids after {after!r}", await case.all(after), inserted[position:])


@_contract.rule()
async def cursor_is_that_of_the_last_event(case: _Case) -> None:
    """A stream's cursor is the one that it starts after, and later the id of the last event read."""
    first, second = await case.insert_some(2)
    async with case.source.stream(first, to_head=True) as stream:
        expect("cursor before the first read", stream.cursor, first)
        await case.next(stream)
        expect("cursor after the first event", stream.cursor, second)


@_contract.rule()
async def pages_are_not_empty(case: _Case) -> None:
    """A page has at least one event; it is empty at the end only."""
    inserted = await case.insert_some(25)
    received: list[str] = []
    async with case.source.stream(to_head=True) as stream:
        while page := await stream.read_page():
            received += [event.id for event in page]
        expect("ids, by pages", received, inserted)
        expect("page after the end", await stream.read_page(), [])


@_contract.rule()
async def to_head_is_resolved_when_opened(case: _Case) -> None:
    """With to_head, a stream ends after the newest event at the time of opening, and stays ended."""
    inserted = await case.insert_some(2)
    async with case.source.stream(to_head=True) as stream:
        await case.insert("3", 1)
        expect("ids", await case.rest(stream), inserted)
        expect("ids after the end", await case.rest(stream), [])


@_contract.rule()
async def to_head_of_an_empty_source_ends(case: _Case) -> None:
    """With to_head, the stream of a source without events ends at once."""
    expect("ids", await case.all(), [])


@_contract.rule()
async def from_head_is_resolved_when_opened(case: _Case) -> None:
    """With from_head, a stream starts after the newest event at the time of opening, not of the first read."""
    first, _ = await case.insert_some(2)
    async with case.source.stream(first, from_head=True) as stream:
        third = await case.insert("3", 1)
        expect("ids", await case.take(stream, 1), [third])


@_contract.rule()
async def from_head_is_resolved_once(case: _Case) -> None:
    """With from_head, the head is resolved once, also if the first reads are cancelled."""
    await case.insert_some(2)
    async with case.source.stream(from_head=True) as stream:
        for _ in range(2):
            with anyio.move_on_after(_QUIET / 2):
                raise AssertionError(f"expected to wait at the head, got {await anext(stream, 'the end')!r}")
        inserted = await case.insert_some(2)
        expect("ids", await case.take(stream, 2), inserted)


@_contract.rule()
async def from_head_of_an_empty_source_starts_at_the_beginning(case: _Case) -> None:
    """With from_head, the stream of a source without events starts with the first event inserted later."""
    async with case.source.stream(from_head=True) as stream:
        first = await case.insert("1", 1)
        expect("ids", await case.take(stream, 1), [first])


@_contract.rule()
async def from_head_to_head_is_empty(case: _Case) -> None:
    """With from_head and to_head, a stream ends without an event."""
    await case.insert_some(2)
    async with case.source.stream(from_head=True, to_head=True) as stream:
        expect("ids", await case.rest(stream), [])


@_contract.rule()
async def stream_waits_for_further_events(case: _Case) -> None:
    """Without to_head, a stream does not end: a read at the head waits for the next event, and returns it."""
    inserted = await case.insert_some(1)

    async def insert_later() -> None:
        await anyio.wait_all_tasks_blocked()
        inserted.append(await case.insert("2", 1))

    async with case.source.stream() as stream:
        received = await case.take(stream, 1)
        with anyio.move_on_after(_QUIET):
            raise AssertionError(f"expected to wait at the head, got {await anext(stream, 'the end')!r}")
        for _ in range(2):
            async with anyio.create_task_group() as group:
                group.start_soon(insert_later)
                received += await case.take(stream, 1)
    expect("ids", received, inserted)


@_contract.rule()
async def concurrent_inserts_are_all_delivered(case: _Case) -> None:
    """Events that are inserted at the same time are delivered once each, and in the same order to all streams."""
    inserted: list[str] = []

    async def insert(writer: int) -> None:
        for number in range(5):
            inserted.append(await case.insert(str(10 * writer + number + 1), 1))  # noqa: PERF401

    async with case.source.stream() as stream, anyio.create_task_group() as group:
        for writer in range(4):
            group.start_soon(insert, writer)
        received = await case.take(stream, 20)
    expect("ids, sorted", sorted(received), sorted(inserted))
    expect("ids of a later stream", await case.all(), received)


@_contract.rule()
async def cancelled_read_loses_nothing(case: _Case) -> None:
    """A read that is cancelled, at any wait, neither loses nor repeats an event."""
    inserted = await case.insert_some(25)
    for step in range(1, _WAITS):
        stream = case.source.stream(to_head=True)
        received: list[str] = []
        try:
            cancelled = await cancelled_at(step, read_into(received, stream))
            received += await case.rest(stream)
        finally:
            await stream.aclose()
        expect(f"ids, with a read cancelled at wait {step}", received, inserted)
        if not cancelled:
            return


@_contract.rule()
async def read_cancelled_as_an_event_arrives_loses_nothing(case: _Case) -> None:
    """A read at the head that is cancelled while an event arrives leaves the event to the next read."""
    async with case.source.stream() as stream:
        for step in range(1, _WAITS):
            before = stream.cursor
            received: list[str] = []
            cancelled: list[bool] = []

            async def read(
                step: int = step, received: list[str] = received, cancelled: list[bool] = cancelled
            ) -> None:
                cancelled.append(await cancelled_at(step, read_into(received, stream, count=1)))

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                event_id = await case.insert("7", 1)
            if not received:
                received = await case.take(stream, 1)
            expect(f"the id after {before!r}, with a read cancelled at wait {step}", received, [event_id])
            if cancelled == [False]:
                return


@_contract.rule()
async def cancelled_opening_leaves_nothing_behind(case: _Case) -> None:
    """After an opening that is cancelled, at any wait, the source works as before."""
    first, second = await case.insert_some(2)
    for step in range(1, _WAITS):
        stream = case.source.stream(first)
        cancelled = await cancelled_at(step, stream.__aenter__())
        await stream.aclose()
        expect(f"ids, after an opening cancelled at wait {step}", await case.all(first), [second])
        if not cancelled:
            return


@_contract.rule()
async def streams_are_independent(case: _Case) -> None:
    """Streams of one source are read and closed independently."""
    inserted = await case.insert_some(4)
    first, second = case.source.stream(), case.source.stream()
    try:
        expect("ids of one stream", await case.take(first, 2), inserted[:2])
        expect("ids of another stream", await case.take(second, 3), inserted[:3])
        await first.aclose()
        expect("ids, with the first closed", await case.take(second, 1), inserted[3:])
    finally:
        await first.aclose()
        await second.aclose()


@_contract.rule()
async def closing_ends_a_read(case: _Case) -> None:
    """A read that waits while the stream is closed raises StreamClosed, as does every later one."""
    results: list[object] = []

    async def read(stream: EventStream) -> None:
        try:
            results.append(await anext(stream, "the end"))
        except Exception as exc:
            results.append(type(exc))

    async with case.source.stream() as stream:
        async with anyio.create_task_group() as group:
            group.start_soon(read, stream)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
        await read(stream)
    expect("results of the reads", results, [StreamClosed, StreamClosed])


@_contract.rule()
async def closing_twice_is_no_error(case: _Case) -> None:
    """A stream can be closed twice, whether it was opened or not."""
    opened, never_opened = case.source.stream(), case.source.stream()
    await opened.__aenter__()
    for stream in (opened, never_opened, opened, never_opened):
        await stream.aclose()


@_contract.rule("head")
async def head_is_the_newest_event(case: _Case) -> None:
    """head() returns the id of the newest event."""
    for number in ("1", "2"):
        event_id = await case.insert(number, 1)
        expect("head", await case.source.head(), event_id)


@_contract.rule("head", "integer ids")
async def head_of_an_empty_source_is_empty(case: _Case) -> None:
    """head() returns "" if there is no event."""
    expect("head of an empty source", await case.source.head(), "")


@_contract.rule("head")
async def head_of_an_empty_source_precedes_all_events(case: _Case) -> None:
    """The cursor that head() returns without events, or "0" if that is "", is a cursor before all later events."""
    head = await case.source.head() or BEGINNING
    inserted = await case.insert_some(2)
    expect(f"ids after {head!r}", await case.all(head), inserted)


@_contract.rule("integer ids")
async def invalid_cursor_is_refused(case: _Case) -> None:
    """An invalid cursor raises InvalidCursor when the stream is made, opened or first read."""
    for cursor in ("x", "-1", "1.0", " 1", "1_000", "\0", "1'", "9" * 5000):
        await expect_refusal(case.source, case.within, cursor, InvalidCursor)


@_contract.rule("integer ids")
async def cursor_beyond_the_newest_event_is_refused(case: _Case) -> None:
    """A cursor beyond the newest event raises CursorAhead, or RemoteError from a server, and does not wait."""
    last = (await case.insert_some(2))[-1]
    await expect_refusal(case.source, case.within, str(int(last) + 1000), CursorAhead, RemoteError)


@_contract.rule("lag")
async def lag_delays_young_events(case: _Case) -> None:
    """With lag, an event is delivered when it has that age, and not before."""
    began = anyio.current_time()
    event_id = await case.insert("1", 1)
    async with case.source.stream(lag=_LAG) as stream:
        expect("ids", await case.take(stream, 1), [event_id])
    waited = anyio.current_time() - began
    # The source may use another clock.
    if waited < 0.9 * _LAG:
        raise AssertionError(f"age of the event: expected {_LAG:g} s, got at most {waited:.3f} s")


@_contract.rule("lag")
async def head_has_the_age_of_the_lag(case: _Case) -> None:
    """With lag, the head is the newest event that has that age."""
    inserted = await case.insert_some(2)
    for lag, expected in ((3600.0, []), (0.0, inserted)):
        async with case.source.stream(to_head=True, lag=lag) as stream:
            expect(f"ids to the head, with a lag of {lag:g} s", await case.rest(stream), expected)


@_contract.rule()
async def invalid_options_are_refused(case: _Case) -> None:
    """A negative lag, or NaN, raises ValueError when the stream is made."""
    for lag in (-1.0, math.nan):
        try:
            stream = case.source.stream(lag=lag)
        except ValueError:
            continue
        await stream.aclose()
        raise AssertionError(f"lag={lag}: expected ValueError, got a stream")
