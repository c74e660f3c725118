"""Traces propagate from the code that inserts an event to the consumers that handle it."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from reflex_aio import Consumer, Event, Hooks, Source, Spec, run
from reflex_aio.consumer import BaseConsumer
from reflex_aio.ext.opentelemetry import OpenTelemetryHooks, decode_trace, encode_trace
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.patterns import BatchConsumer
from reflex_aio.rpc import RemoteSource, StreamServer
from reflex_aio.sql import EventsTable
from tests.fix_databases import Connect
from tests.rpc.serving import serving

# As Go writes it: field 1, 32 digits; field 2, 16 digits.
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FROM_GO = b"\x0a\x20" + TRACE_ID.encode() + b"\x12\x10" + SPAN_ID.encode()


class Spans:
    """A tracer provider that keeps its spans."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.provider = TracerProvider() if provider is None else provider
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")
        self.hooks = OpenTelemetryHooks(self.provider)

    def finished(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    yield spans
    spans.provider.shutdown()


async def ignore(item: Any) -> None: ...


async def consume(source: Source, hooks: Hooks, consumer: BaseConsumer[Any] | None = None) -> None:
    consumer = Consumer("c", ignore) if consumer is None else consumer
    await run(Spec(source, MemoryCursorStore(), consumer, to_head=True, hooks=hooks))


async def traced_events(*traces: bytes | None) -> MemoryEvents:
    events = MemoryEvents()
    for stored in traces:
        await events.insert(7, 1, trace=stored)
    return events


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


# The stored form.


def test_a_trace_is_stored_as_go_stores_it() -> None:
    stored = SpanContext(int(TRACE_ID, 16), int(SPAN_ID, 16), is_remote=False)
    assert encode_trace(stored) == FROM_GO


def test_a_trace_stored_by_go_is_read() -> None:
    found = decode_trace(FROM_GO)
    assert found is not None
    assert (trace.format_trace_id(found.trace_id), trace.format_span_id(found.span_id)) == (TRACE_ID, SPAN_ID)
    assert found.is_remote
    assert found.trace_flags.sampled


@pytest.mark.parametrize(
    "stored",
    [
        None,
        b"",
        b"\xff\xff",
        b"\x0a\x05short\x12\x10" + SPAN_ID.encode(),
        b"\x0a\x20" + b"0" * 32 + b"\x12\x10" + SPAN_ID.encode(),
        b"\x0a\x20" + b"0x" + b"1" * 30 + b"\x12\x10" + SPAN_ID.encode(),
        FROM_GO[:34],
    ],
    ids=["none", "empty", "no message", "short", "zero", "prefix", "half"],
)
def test_an_invalid_trace_is_none(stored: bytes | None) -> None:
    assert decode_trace(stored) is None


# Inserting.


@pytest.mark.asyncio
@pytest.mark.every_postgres
async def test_the_current_span_is_stored_with_events(
    connect: Connect, pool: asyncpg.Pool, spans: Spans
) -> None:
    events = EventsTable("user_events", trace=True, hooks=spans.hooks)
    connection = await connect()
    await events.create(connection)
    await events.insert(connection, 1, 1)
    with spans.tracer.start_as_current_span("writer") as writer:
        await events.insert(connection, 2, 1)
        await events.insert_many(connection, [(3, 1), (4, 1, None, b"own")])
        await events.insert(connection, 5, 1, trace=b"own")
    current = encode_trace(writer.get_span_context())
    async with events.stream(pool, to_head=True) as stream:
        stored = [event.trace async for event in stream]
    assert stored == [None, current, current, b"own", b"own"]


@pytest.mark.asyncio
async def test_a_table_without_a_column_for_traces_stores_none(
    connect: Connect, pool: asyncpg.Pool, spans: Spans
) -> None:
    events = EventsTable("user_events", hooks=spans.hooks)
    connection = await connect()
    await events.create(connection)
    with spans.tracer.start_as_current_span("writer"):
        await events.insert(connection, 1, 1)
    async with events.stream(pool, to_head=True) as stream:
        assert [event.trace async for event in stream] == [None]


def test_a_span_that_is_not_sampled_is_not_stored() -> None:
    spans = Spans(TracerProvider(sampler=ALWAYS_OFF))
    assert spans.hooks.current_trace() is None
    with spans.tracer.start_as_current_span("writer"):
        assert spans.hooks.current_trace() is None
    spans.provider.shutdown()


# Consuming.


@pytest.mark.asyncio
async def test_a_consumers_span_is_a_child_of_the_one_that_inserted_the_event(spans: Spans) -> None:
    await consume(await traced_events(FROM_GO), spans.hooks)
    [span] = spans.finished()
    assert (span.name, span.kind) == ("consume c", SpanKind.CONSUMER)
    assert span.attributes == {
        "reflex.consumer": "c",
        "reflex.event.id": "1",
        "reflex.event.type": 1,
        "reflex.event.foreign_id": "7",
    }
    assert span.parent is not None
    assert span.parent.is_remote
    assert trace.format_span_id(span.parent.span_id) == SPAN_ID
    assert trace.format_trace_id(context(span).trace_id) == TRACE_ID


@pytest.mark.asyncio
async def test_spans_of_the_handler_are_children_of_its_span(spans: Spans) -> None:
    async def handle(event: Event) -> None:
        spans.tracer.start_span("inner").end()

    await consume(await traced_events(FROM_GO), spans.hooks, Consumer("c", handle))
    inner, outer = spans.finished()
    assert inner.parent is not None
    assert inner.parent.span_id == context(outer).span_id
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.asyncio
@pytest.mark.parametrize("stored", [None, b"\xff"])
async def test_an_event_without_a_trace_starts_one(spans: Spans, stored: bytes | None) -> None:
    with spans.tracer.start_as_current_span("main"):
        await consume(await traced_events(stored), spans.hooks)
    span = spans.finished()[0]
    assert (span.name, span.parent) == ("consume c", None)
    assert not span.links


@pytest.mark.asyncio
async def test_a_span_may_be_linked_rather_than_a_child(spans: Spans) -> None:
    await consume(await traced_events(FROM_GO), OpenTelemetryHooks(spans.provider, link=True))
    [span] = spans.finished()
    assert span.parent is None
    assert [trace.format_span_id(link.context.span_id) for link in span.links] == [SPAN_ID]
    assert trace.format_trace_id(context(span).trace_id) != TRACE_ID


@pytest.mark.asyncio
async def test_the_span_of_a_batch_is_linked_to_each_of_its_events(spans: Spans) -> None:
    other = encode_trace(SpanContext(1, 2, is_remote=False))
    events = await traced_events(FROM_GO, None, other)
    await consume(events, spans.hooks, BatchConsumer("c", ignore, size=3))
    [span] = spans.finished()
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [int(SPAN_ID, 16), 2]
    assert (span.attributes or {})["reflex.batch.size"] == 3


@pytest.mark.asyncio
async def test_an_error_is_recorded_on_the_span(spans: Spans) -> None:
    async def fail(event: Event) -> None:
        raise ValueError("bad luck")

    with pytest.raises(ValueError, match="bad luck"):
        await consume(await traced_events(FROM_GO), spans.hooks, Consumer("c", fail))
    [span] = spans.finished()
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["pages", "single events"])
async def test_traces_propagate_over_grpc(spans: Spans, method: str) -> None:
    async with serving(StreamServer(await traced_events(FROM_GO))) as channel:
        source = (
            RemoteSource(channel)
            if method == "pages"
            else RemoteSource(channel, method="/reflexpb.Reflex/Stream")
        )
        await consume(source, spans.hooks)
    [span] = spans.finished()
    assert trace.format_trace_id(context(span).trace_id) == TRACE_ID
