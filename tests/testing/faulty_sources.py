"""Sources with one fault each."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from reflex_aio import CursorAhead, Event, EventStream, InvalidCursor, Source, StreamOptions
from reflex_aio.memory import MemoryEvents
from reflex_aio.testing.sources import Insert

Faulty = Callable[[], AbstractAsyncContextManager[tuple[Source, Insert]]]


class Faultless:
    """A source over events in memory that leaves each step to methods, for faults to override."""

    def __init__(self) -> None:
        self.events = MemoryEvents(clock=anyio.current_time)

    async def insert(self, foreign_id: str, type: int, /, *, metadata: bytes | None = None) -> str:
        return await self.events.insert(foreign_id, type, metadata=metadata)

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        return self.make_stream(after, StreamOptions(from_head, to_head, lag))

    def make_stream(self, after: str, options: StreamOptions) -> EventStream:
        return FaultlessStream(self.events, after, options)

    async def head(self) -> str:
        return await self.events.head()


class FaultlessStream(EventStream):
    def __init__(self, events: MemoryEvents, after: str, options: StreamOptions) -> None:
        super().__init__(after)
        self.options = options
        self.stream = events.stream(
            after, from_head=options.from_head, to_head=options.to_head, lag=options.lag
        )

    async def _open(self) -> str:
        await self.stream.__aenter__()
        return self.stream.cursor

    async def _read(self) -> Sequence[Event]:
        return await self.stream.read_page()

    async def _close(self) -> None:
        await self.stream.aclose()


FAULTS: list[tuple[str, Faulty]] = []


def caught_by(rule: str) -> Callable[[Any], Any]:
    """Add a fault, a source's or its streams' class, and the rule that has to tell of it."""

    def add(kind: Any) -> Any:
        @asynccontextmanager
        async def make() -> AsyncIterator[tuple[Source, Insert]]:
            source = kind() if issubclass(kind, Faultless) else _with_streams(kind)
            yield source, source.insert

        make.__name__ = kind.__name__
        FAULTS.append((rule, make))
        return kind

    return add


def _with_streams(kind: type[FaultlessStream]) -> Faultless:
    class WithStreams(Faultless):
        def make_stream(self, after: str, options: StreamOptions) -> EventStream:
            return kind(self.events, after, options)

    return WithStreams()


@caught_by("source_is_a_source")
class StreamsAreIterators(Faultless):
    def stream(self, after: str = "", **options: Any) -> Any:
        return _Iterator(super().stream(after, **options))


class _Iterator:
    def __init__(self, stream: EventStream) -> None:
        self.stream = stream

    async def __aenter__(self) -> "_Iterator":
        await self.stream.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stream.aclose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __aiter__(self) -> EventStream:
        return self.stream


@caught_by("events_come_in_order")
class Reorders(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        return (await super()._read())[::-1]


@caught_by("events_come_in_order")
class LosesTheLastOfAPage(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        page = await super()._read()
        return page[:-1] if len(page) > 3 else page


@caught_by("events_come_in_order")
class Repeats(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        page = await super()._read()
        return [*page[:1], *page]


class PadsIds(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        return [msgspec.structs.replace(event, id=f"0{event.id}") for event in await super()._read()]


class NamesIds(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        return [msgspec.structs.replace(event, id=f"x{event.id}") for event in await super()._read()]


caught_by("ids_increase_unless_declared_opaque")(PadsIds)
caught_by("ids_increase_unless_declared_opaque")(NamesIds)


@caught_by("events_are_whole")
class KeepsTypesUnsigned(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        return [msgspec.structs.replace(event, type=event.type % 2**32) for event in await super()._read()]


@caught_by("events_are_whole")
class CutsForeignIds(Faultless):
    async def insert(self, foreign_id: str, type: int, /, *, metadata: bytes | None = None) -> str:
        return await self.events.insert(foreign_id[:100], type, metadata=metadata)


@caught_by("events_are_whole")
class ForgetsTypes(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        return [msgspec.structs.replace(event, type=1) for event in await super()._read()]


@caught_by("events_have_their_metadata")
class DropsMetadata(Faultless):
    async def insert(self, foreign_id: str, type: int, /, *, metadata: bytes | None = None) -> str:
        return await self.events.insert(foreign_id, type)


@caught_by("events_have_their_metadata")
class EmptyMetadataForNone(Faultless):
    async def insert(self, foreign_id: str, type: int, /, *, metadata: bytes | None = None) -> str:
        return await self.events.insert(foreign_id, type, metadata=metadata or b"")


@caught_by("every_cursor_starts_after_its_event")
class StartsAtItsCursor(FaultlessStream):
    def __init__(self, events: MemoryEvents, after: str, options: StreamOptions) -> None:
        super().__init__(events, str(int(after) - 1) if after not in {"", "0"} else after, options)


@caught_by("cursor_is_that_of_the_last_event")
class DoesNotTellWhereItStarts(FaultlessStream):
    async def _open(self) -> str:
        await super()._open()
        return ""


@caught_by("pages_are_not_empty")
class EndsOnceOnly(FaultlessStream):
    ended = False

    async def _read(self) -> Sequence[Event]:
        page = await super()._read()
        if not page and self.ended:
            raise RuntimeError("read after the end")
        self.ended = not page
        return page


class ResolvesTheHeadAtTheFirstRead(FaultlessStream):
    entered = False

    async def _open(self) -> str:
        return self.cursor

    async def _read(self) -> Sequence[Event]:
        if not self.entered:
            self.entered = True
            await self.stream.__aenter__()
        return await super()._read()


caught_by("to_head_is_resolved_when_opened")(ResolvesTheHeadAtTheFirstRead)
caught_by("from_head_is_resolved_when_opened")(ResolvesTheHeadAtTheFirstRead)


@caught_by("to_head_is_resolved_when_opened")
class NeverEnds(FaultlessStream):
    def __init__(self, events: MemoryEvents, after: str, options: StreamOptions) -> None:
        super().__init__(events, after, replace(options, to_head=False))


@caught_by("to_head_of_an_empty_source_ends")
class WaitsForTheFirstEvent(FaultlessStream):
    def __init__(self, events: MemoryEvents, after: str, options: StreamOptions) -> None:
        super().__init__(events, after, options)
        self.events = events

    async def _read(self) -> Sequence[Event]:
        while not await self.events.head():  # noqa: ASYNC110
            await anyio.sleep(0.01)
        return await super()._read()


@caught_by("from_head_is_resolved_when_opened")
class FromHeadIsIgnoredGivenACursor(FaultlessStream):
    def __init__(self, events: MemoryEvents, after: str, options: StreamOptions) -> None:
        super().__init__(events, after, replace(options, from_head=options.from_head and not after))


@caught_by("from_head_is_resolved_once")
class ResolvesTheHeadAnewWhenCancelled(FaultlessStream):
    anew = False

    def __init__(self, events: MemoryEvents, after: str, options: StreamOptions) -> None:
        super().__init__(events, after, options)
        self.events = events

    async def _read(self) -> Sequence[Event]:
        if self.anew:
            await self.stream.aclose()
            self.stream = await self.events.stream(from_head=self.options.from_head).__aenter__()
        self.anew = True
        page = await super()._read()
        self.anew = False
        return page


@caught_by("from_head_of_an_empty_source_starts_at_the_beginning")
class SkipsTheFirstFromHead(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        page = await super()._read()
        return await super()._read() if self.options.from_head and page and page[0].id == "1" else page


@caught_by("from_head_to_head_is_empty")
class RefusesBoth(Faultless):
    def make_stream(self, after: str, options: StreamOptions) -> EventStream:
        if options.from_head and options.to_head:
            raise ValueError("from_head and to_head")
        return super().make_stream(after, options)


@caught_by("stream_waits_for_further_events")
class EndsAtTheHead(FaultlessStream):
    def __init__(self, events: MemoryEvents, after: str, options: StreamOptions) -> None:
        super().__init__(events, after, replace(options, to_head=True))


@caught_by("stream_waits_for_further_events")
class IsNeverWoken(FaultlessStream):
    def __init__(self, events: MemoryEvents, after: str, options: StreamOptions) -> None:
        super().__init__(events, after, options)
        self.events = events

    async def _read(self) -> Sequence[Event]:
        if not self.options.to_head and self.stream.cursor == await self.events.head():
            await anyio.sleep_forever()
        return await super()._read()


@caught_by("concurrent_inserts_are_all_delivered")
class IdsAreSeenOutOfOrder(Faultless):
    """An insert takes its time, and others overtake it."""

    busy = 0

    async def insert(self, foreign_id: str, type: int, /, *, metadata: bytes | None = None) -> str:
        self.busy += 1
        await checkpoint()
        event_id = await self.events.insert(foreign_id, type, metadata=metadata)
        if self.busy > 2:
            # What was committed late was passed by.
            self.events._events[-1] = msgspec.structs.replace(self.events._events[-1], id=event_id + "0")
        self.busy -= 1
        return event_id


@caught_by("cancelled_read_loses_nothing")
class LosesAPageWhenCancelled(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        page = await super()._read()
        await checkpoint()
        return page


@caught_by("cancelled_read_loses_nothing")
class RepeatsWhenCancelled(FaultlessStream):
    before: Sequence[Event] = ()

    async def _read(self) -> Sequence[Event]:
        try:
            page = await super()._read()
            await checkpoint()
        except BaseException:
            self.failed = True
            raise
        page = [*(self.before if getattr(self, "failed", False) else ()), *page]
        self.before, self.failed = page, False
        return page


class LosesWhatArrivesWhenCancelled(FaultlessStream):
    async def _read(self) -> Sequence[Event]:
        page = await super()._read()
        if not self.options.to_head:
            await checkpoint()
        return page


caught_by("read_cancelled_as_an_event_arrives_loses_nothing")(LosesWhatArrivesWhenCancelled)


@caught_by("cancelled_opening_leaves_nothing_behind")
class KeepsAPlaceWhenItsOpeningIsCancelled(Faultless):
    def __init__(self) -> None:
        super().__init__()
        self.places = anyio.Semaphore(1)

    def make_stream(self, after: str, options: StreamOptions) -> EventStream:
        return _InAPlace(self, after, options)


class _InAPlace(FaultlessStream):
    opened = False

    def __init__(
        self, source: KeepsAPlaceWhenItsOpeningIsCancelled, after: str, options: StreamOptions
    ) -> None:
        super().__init__(source.events, after, options)
        self.places = source.places

    async def _open(self) -> str:
        self.places.acquire_nowait()
        await checkpoint()
        cursor = await super()._open()
        self.opened = True
        return cursor

    async def _close(self) -> None:
        await super()._close()
        if self.opened:
            self.places.release()


@caught_by("streams_are_independent")
class OneStreamForAll(Faultless):
    shared: EventStream | None = None

    def make_stream(self, after: str, options: StreamOptions) -> EventStream:
        if after or options != StreamOptions():
            return super().make_stream(after, options)
        if self.shared is None:
            self.shared = super().make_stream(after, options)
        return self.shared


@caught_by("closing_ends_a_read")
class EndsWhenClosed(Faultless):
    def make_stream(self, after: str, options: StreamOptions) -> EventStream:
        return _EndsWhenClosed(self.events, after, options)


class _EndsWhenClosed(FaultlessStream):
    def __anext__(self) -> Any:
        return self._next_or_end()

    async def _next_or_end(self) -> Event:
        try:
            return await super().__anext__()
        except Exception:
            raise StopAsyncIteration from None


@caught_by("closing_twice_is_no_error")
class ClosesWhatWasNeverOpened(FaultlessStream):
    opened = False

    async def _open(self) -> str:
        self.opened = True
        return await super()._open()

    async def _close(self) -> None:
        await super()._close()
        if not self.opened:
            raise RuntimeError("never opened")


@caught_by("head_of_an_empty_source_is_empty")
class HeadOfNothingIsZero(Faultless):
    async def head(self) -> str:
        return await super().head() or "0"


@caught_by("head_of_an_empty_source_precedes_all_events")
class HeadOfNothingIsOne(Faultless):
    async def head(self) -> str:
        return await super().head() or "1"


@caught_by("head_of_an_empty_source_precedes_all_events")
class ZeroIsNoCursor(Faultless):
    def make_stream(self, after: str, options: StreamOptions) -> EventStream:
        if after == "0":
            raise InvalidCursor(after, "an id from 1")
        return super().make_stream(after, options)


@caught_by("head_is_the_newest_event")
class HeadIsCached(Faultless):
    cached = ""

    async def head(self) -> str:
        self.cached = self.cached or await super().head()
        return self.cached


@caught_by("invalid_cursor_is_refused")
class TakesWhatPythonReadsAsAnInteger(Faultless):
    def make_stream(self, after: str, options: StreamOptions) -> EventStream:
        try:
            return super().make_stream(str(int(after or 0)), options)
        except ValueError:
            return super().make_stream(after, options)


@caught_by("invalid_cursor_is_refused")
class TakesAnyCursor(Faultless):
    def make_stream(self, after: str, options: StreamOptions) -> EventStream:
        return super().make_stream(after if after.isdecimal() else "", options)


@caught_by("cursor_beyond_the_newest_event_is_refused")
class WaitsInVain(FaultlessStream):
    async def _open(self) -> str:
        try:
            return await super()._open()
        except CursorAhead:
            return self.cursor

    async def _read(self) -> Sequence[Event]:
        if self.cursor.isdecimal() and int(self.cursor) > 1000:
            await anyio.sleep_forever()
        return await super()._read()


class IgnoresLag(Faultless):
    def make_stream(self, after: str, options: StreamOptions) -> EventStream:
        return super().make_stream(after, replace(options, lag=None))


caught_by("lag_delays_young_events")(IgnoresLag)
caught_by("head_has_the_age_of_the_lag")(IgnoresLag)


@caught_by("invalid_options_are_refused")
class TakesAnyOption(Faultless):
    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        return super().stream(after, from_head=from_head, to_head=to_head, lag=lag and max(lag, 0.0))
