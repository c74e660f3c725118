"""The rules that every source of events keeps."""

import math
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import anyio

from reflex_aio.errors import CursorAhead, InvalidCursor, RemoteError, StreamClosed
from reflex_aio.event import Event
from reflex_aio.stream import EventStream, Source
from reflex_aio.testing.cancelling import cancelled_at
from reflex_aio.testing.contract import Contract, expect

__all__ = ["Insert", "MakeSource", "SourceFeature", "check_source", "source_rules"]

SourceFeature: TypeAlias = Literal["head", "integer ids", "lag", "metadata"]
"""What not every source has: ``head()``; ids that are integers, so that other cursors are refused, and those beyond
the newest event; ``lag=``; metadata."""


class Insert(Protocol):
    """Inserts an event where the source finds it, and returns the id that it gets."""

    async def __call__(self, foreign_id: str, type: int, /, *, metadata: bytes | None = None) -> str: ...


MakeSource: TypeAlias = Callable[[], AbstractAsyncContextManager[tuple[Source, Insert]]]

# How long a read may be kept waiting to see that it waits, in seconds.
_QUIET = 0.1
_LAG = 0.3
_AWAITS = 60


@dataclass(frozen=True)
class _Case:
    """A source without events."""

    source: Source
    insert: Insert
    within: float

    async def some(self, count: int) -> list[str]:
        """Insert events of the foreign ids 1 to ``count``, and return their ids."""
        return [await self.insert(str(number), 1) for number in range(1, count + 1)]

    async def next(self, stream: EventStream) -> Event:
        """Return the next event.

        :raises AssertionError: if none comes in time
        """
        with anyio.move_on_after(self.within):
            async for event in stream:
                return event
            raise AssertionError(f"expected an event after {stream.cursor!r}, but the stream ended")
        raise AssertionError(f"expected an event after {stream.cursor!r}: none came in {self.within:g} s")

    async def take(self, stream: EventStream, count: int) -> list[str]:
        """Return the ids of the next ``count`` events."""
        return [(await self.next(stream)).id for _ in range(count)]

    async def rest(self, stream: EventStream) -> list[str]:
        """Return the ids of all events to the end."""
        return [event.id for event in await self.events(stream)]

    async def events(self, stream: EventStream) -> list[Event]:
        """Return all events to the end.

        :raises AssertionError: if it doesn't come in time
        """
        events: list[Event] = []
        with anyio.move_on_after(self.within):
            async for event in stream:
                events.append(event)  # noqa: PERF401
            return events
        raise AssertionError(f"expected an end after {stream.cursor!r}: none came in {self.within:g} s")

    async def all(self, after: str = "") -> list[str]:
        """Return the ids of all events after ``after`` that there are now."""
        async with self.source.stream(after, to_head=True) as stream:
            return await self.rest(stream)


_contract: Contract[_Case] = Contract("the source", get_args(SourceFeature))


def source_rules(*, lacks: Collection[SourceFeature] = ()) -> dict[str, str]:
    """Return what each rule for sources promises, by the rule's name.

    :param lacks: what the source doesn't have; rules that need it are left out
    :raises ValueError: if there is no such feature
    """
    return _contract.promises(lacks)


async def check_source(
    make_source: MakeSource,
    *,
    lacks: Collection[SourceFeature] = (),
    rules: Iterable[str] | None = None,
    within: float = 10.0,
) -> None:
    """Check that a source keeps the rules of :class:`~reflex_aio.stream.Source`.

    Each rule is checked on a source of its own.

    :param make_source: returns an async context manager that makes a source without events, and a function that
        inserts one: ``insert(foreign_id, type, metadata=None)``, which returns the event's id
    :param lacks: what the source doesn't have; rules that need it are left out
    :param rules: the names of the rules to check; by default all
    :param within: how long to wait for an event that has to come, in seconds
    :raises ContractBroken: if any rule is broken: with each, what was expected, and what came
    :raises ValueError: if there is no such rule or feature
    """

    @asynccontextmanager
    async def case() -> AsyncIterator[_Case]:
        async with make_source() as (source, insert):
            yield _Case(source, insert, within)

    # A rule may wait more than once.
    await _contract.check(case, lacks=lacks, rules=rules, within=6 * within)


@_contract.rule()
async def source_is_a_source(case: _Case) -> None:
    """A source has the methods of the protocol Source, and its streams are EventStreams."""
    if not isinstance(case.source, Source):
        raise AssertionError(f"{case.source!r} has no stream() or no head()")
    async with case.source.stream(to_head=True) as stream:
        if not isinstance(stream, EventStream):
            raise AssertionError(f"stream() returned {stream!r}, which is no EventStream")


@_contract.rule()
async def events_come_in_order(case: _Case) -> None:
    """Every event comes, once, in the order of the inserts."""
    inserted = await case.some(25)
    expect("ids, in order", await case.all(), inserted)


@_contract.rule()
async def events_are_whole(case: _Case) -> None:
    """An event comes with the id, foreign id and type that it was inserted with."""
    rows = [("7", 1), ("8", 0), ("x'y\"; --", -(2**31)), ("\u00e9\u2028 \n", 2**31 - 1), ("x" * 255, 1)]
    inserted = [(await case.insert(row, kind), row, kind) for row, kind in rows]
    async with case.source.stream(to_head=True) as stream:
        came = [(event.id, event.foreign_id, event.type) for event in await case.events(stream)]
    expect("id, foreign id and type", came, inserted)


@_contract.rule("metadata")
async def metadata_comes_along(case: _Case) -> None:
    """An event comes with the bytes of metadata that it was inserted with, or None."""
    for metadata in (b"\x00\xff", None):
        await case.insert("7", 1, metadata=metadata)
    async with case.source.stream(to_head=True) as stream:
        expect("metadata", [event.metadata for event in await case.events(stream)], [b"\x00\xff", None])


@_contract.rule()
async def every_cursor_starts_after_its_event(case: _Case) -> None:
    """A stream starts with the event after its cursor, "" being the beginning."""
    inserted = await case.some(4)
    for position, after in enumerate(["", *inserted]):
        expect(f"ids after {after!r}", await case.all(after), inserted[position:])


@_contract.rule()
async def cursor_stands_after_the_last_event(case: _Case) -> None:
    """A stream's cursor is the one it starts after, and then the id of the last event handed out."""
    first, second = await case.some(2)
    async with case.source.stream(first, to_head=True) as stream:
        expect("cursor before the first read", stream.cursor, first)
        await case.next(stream)
        expect("cursor after the first event", stream.cursor, second)


@_contract.rule()
async def pages_are_what_is_ready(case: _Case) -> None:
    """A page has one event or more; only after the end it is empty."""
    inserted = await case.some(25)
    came: list[str] = []
    async with case.source.stream(to_head=True) as stream:
        while page := await stream.read_page():
            came += [event.id for event in page]
        expect("ids, by pages", came, inserted)
        expect("page after the end", await stream.read_page(), [])


@_contract.rule()
async def to_head_ends_at_the_head_of_when_it_was_opened(case: _Case) -> None:
    """With to_head a stream ends after the event that was the newest when it was opened, and stays ended."""
    inserted = await case.some(2)
    async with case.source.stream(to_head=True) as stream:
        await case.insert("3", 1)
        expect("ids", await case.rest(stream), inserted)
        expect("ids after the end", await case.rest(stream), [])


@_contract.rule()
async def to_head_of_an_empty_source_ends(case: _Case) -> None:
    """With to_head the stream of a source without events ends at once."""
    expect("ids", await case.all(), [])


@_contract.rule()
async def from_head_is_resolved_when_opened(case: _Case) -> None:
    """With from_head a stream starts after the event that was the newest when it was opened, not first read."""
    first, _ = await case.some(2)
    async with case.source.stream(first, from_head=True) as stream:
        third = await case.insert("3", 1)
        expect("ids", await case.take(stream, 1), [third])


@_contract.rule()
async def from_head_is_resolved_once(case: _Case) -> None:
    """With from_head a stream starts where it started, also if its first reads were cancelled."""
    await case.some(2)
    async with case.source.stream(from_head=True) as stream:
        for _ in range(2):
            with anyio.move_on_after(_QUIET / 2):
                raise AssertionError(f"expected to wait at the head, came {await anext(stream, 'the end')!r}")
        inserted = await case.some(2)
        expect("ids", await case.take(stream, 2), inserted)


@_contract.rule()
async def from_head_of_an_empty_source_starts_at_the_beginning(case: _Case) -> None:
    """With from_head the stream of a source without events starts with the first event inserted later."""
    async with case.source.stream(from_head=True) as stream:
        first = await case.insert("1", 1)
        expect("ids", await case.take(stream, 1), [first])


@_contract.rule()
async def from_head_to_head_is_empty(case: _Case) -> None:
    """With from_head and to_head a stream ends without an event."""
    await case.some(2)
    async with case.source.stream(from_head=True, to_head=True) as stream:
        expect("ids", await case.rest(stream), [])


@_contract.rule()
async def stream_waits_for_further_events(case: _Case) -> None:
    """Without to_head a stream never ends: a read at the head waits for the next event, and is woken by it."""
    inserted = await case.some(1)

    async def insert_later() -> None:
        await anyio.wait_all_tasks_blocked()
        inserted.append(await case.insert("2", 1))

    async with case.source.stream() as stream:
        came = await case.take(stream, 1)
        with anyio.move_on_after(_QUIET):
            raise AssertionError(f"expected to wait at the head, came {await anext(stream, 'the end')!r}")
        for _ in range(2):
            async with anyio.create_task_group() as group:
                group.start_soon(insert_later)
                came += await case.take(stream, 1)
    expect("ids", came, inserted)


@_contract.rule()
async def concurrent_inserts_all_come(case: _Case) -> None:
    """Of events that are inserted at the same time, each comes once, and in the same order to all."""
    inserted: list[str] = []

    async def insert(writer: int) -> None:
        for number in range(5):
            inserted.append(await case.insert(str(10 * writer + number + 1), 1))  # noqa: PERF401

    async with case.source.stream() as stream, anyio.create_task_group() as group:
        for writer in range(4):
            group.start_soon(insert, writer)
        came = await case.take(stream, 20)
    expect("ids, sorted", sorted(came), sorted(inserted))
    expect("ids, to who came later", await case.all(), came)


@_contract.rule()
async def cancelled_read_loses_nothing(case: _Case) -> None:
    """A read that is cancelled, wherever it waits, loses no event and repeats none."""
    inserted = await case.some(25)
    for step in range(1, _AWAITS):
        stream = case.source.stream(to_head=True)
        came: list[str] = []
        try:
            cancelled = await cancelled_at(step, _read_into(came, stream))
            came += await case.rest(stream)
        finally:
            await stream.aclose()
        expect(f"ids, with a read cancelled at its wait number {step}", came, inserted)
        if not cancelled:
            return


@_contract.rule()
async def read_cancelled_as_an_event_arrives_loses_nothing(case: _Case) -> None:
    """A read that waits at the head, and is cancelled while an event arrives, leaves it to the next read."""
    async with case.source.stream() as stream:
        for step in range(1, _AWAITS):
            before = stream.cursor
            came: list[str] = []
            cancelled: list[bool] = []

            async def read(
                step: int = step, came: list[str] = came, cancelled: list[bool] = cancelled
            ) -> None:
                cancelled.append(await cancelled_at(step, _read_into(came, stream, count=1)))

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                event_id = await case.insert("7", 1)
            if not came:
                came = await case.take(stream, 1)
            expect(
                f"the id after {before!r}, with a read cancelled at its wait number {step}", came, [event_id]
            )
            if cancelled == [False]:
                return


@_contract.rule()
async def cancelled_opening_leaves_nothing_behind(case: _Case) -> None:
    """After an opening that is cancelled, wherever it waits, the source works as before."""
    first, second = await case.some(2)
    for step in range(1, _AWAITS):
        stream = case.source.stream(first)
        cancelled = await cancelled_at(step, stream.__aenter__())
        await stream.aclose()
        expect(f"ids, after an opening cancelled at its wait number {step}", await case.all(first), [second])
        if not cancelled:
            return


@_contract.rule()
async def streams_are_apart(case: _Case) -> None:
    """Streams of one source go on, and are closed, each for itself."""
    inserted = await case.some(4)
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
    """A read that waits while the stream is closed raises StreamClosed, as every later one does."""
    met: list[object] = []

    async def read(stream: EventStream) -> None:
        try:
            met.append(await anext(stream, "the end"))
        except Exception as exc:
            met.append(type(exc))

    async with case.source.stream() as stream:
        async with anyio.create_task_group() as group:
            group.start_soon(read, stream)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
        await read(stream)
    expect("what reads met", met, [StreamClosed, StreamClosed])


@_contract.rule()
async def closing_twice_is_fine(case: _Case) -> None:
    """A stream can be closed twice, whether it was opened or not."""
    opened, never_opened = case.source.stream(), case.source.stream()
    await opened.__aenter__()
    for stream in (opened, never_opened, opened, never_opened):
        await stream.aclose()


@_contract.rule("head")
async def head_is_the_newest_event(case: _Case) -> None:
    """head() is the id of the newest event, or "" if there is none."""
    expect("head of an empty source", await case.source.head(), "")
    for number in ("1", "2"):
        event_id = await case.insert(number, 1)
        expect("head", await case.source.head(), event_id)


@_contract.rule("integer ids")
async def what_is_no_cursor_is_refused(case: _Case) -> None:
    """A cursor that isn't one raises InvalidCursor, when the stream is made, opened or first read."""
    for cursor in ("x", "-1", "1.0", " 1", "1_000", "\0", "1'"):
        await _refused(case, cursor, InvalidCursor)


@_contract.rule("integer ids")
async def cursor_beyond_the_newest_event_is_refused(case: _Case) -> None:
    """A cursor beyond the newest event raises CursorAhead, or from afar RemoteError, rather than wait in vain."""
    last = (await case.some(2))[-1]
    await _refused(case, str(int(last) + 1000), CursorAhead, RemoteError)


@_contract.rule("lag")
async def lag_keeps_young_events_back(case: _Case) -> None:
    """With lag an event comes once it is that old, and not before."""
    began = anyio.current_time()
    event_id = await case.insert("1", 1)
    async with case.source.stream(lag=_LAG) as stream:
        expect("ids", await case.take(stream, 1), [event_id])
    waited = anyio.current_time() - began
    # The source may go by another clock than we do.
    if waited < 0.9 * _LAG:
        raise AssertionError(f"expected an event {_LAG:g} s old, came one of {waited:.3f} s at most")


@_contract.rule("lag")
async def head_is_an_event_as_old_as_the_lag(case: _Case) -> None:
    """With lag the head is the newest event that is already that old."""
    inserted = await case.some(2)
    for lag, expected in ((3600.0, []), (0.0, inserted)):
        async with case.source.stream(to_head=True, lag=lag) as stream:
            expect(f"ids to the head, with a lag of {lag:g} s", await case.rest(stream), expected)


@_contract.rule()
async def wrong_options_are_refused(case: _Case) -> None:
    """A lag below zero, or that is no number, raises ValueError when the stream is made."""
    for lag in (-1.0, math.nan):
        try:
            stream = case.source.stream(lag=lag)
        except ValueError:
            continue
        await stream.aclose()
        raise AssertionError(f"expected ValueError for lag={lag}, came a stream")


async def _read_into(came: list[str], stream: EventStream, count: int | None = None) -> None:
    async for event in stream:
        came.append(event.id)
        if len(came) == count:
            return


async def _refused(case: _Case, cursor: str, *kinds: type[Exception]) -> None:
    expected = f"expected {' or '.join(kind.__name__ for kind in kinds)} for the cursor {cursor!r}"
    try:
        async with case.source.stream(cursor) as stream:
            with anyio.move_on_after(case.within):
                raise AssertionError(f"{expected}, came {await anext(stream, 'the end')!r}")
    except kinds:
        return
    raise AssertionError(f"{expected}, but the stream waits")
