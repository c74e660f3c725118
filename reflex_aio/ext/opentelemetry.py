"""Traces that go on from the code that inserts an event to the consumers that handle it.

The one home of OpenTelemetry (extra ``opentelemetry``). A trace is stored in the form of luno/reflex, so that either
side may be written in Go.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TracerProvider
    from opentelemetry.util.types import AttributeValue
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "traces need opentelemetry-api: pip install 'reflex-aio[opentelemetry]'", name=exc.name
    ) from exc

from google.protobuf.message import DecodeError

from reflex_aio import pb
from reflex_aio.event import Event
from reflex_aio.hooks import Hooks

__all__ = ["OpenTelemetryHooks", "decode_trace", "encode_trace"]

# int() also reads spaces, underscores and "0x".
_is_hex = re.compile("[0-9a-fA-F]+").fullmatch


class OpenTelemetryHooks(Hooks):
    """Stores the current span with the events inserted, and opens a span for each event handled.

    Events get a trace if their table has a column for it, ``EventsTable(..., trace=True)``, and if the current span is
    sampled: what is stored can't tell, so that consumers take it for sampled. A consumer's span is a child of the one
    stored with its event, as with luno/reflex; that of a batch is linked to each.

    :param tracer_provider: by default the one that is set for the process
    :param link: begin a new trace for each event, linked to the one stored, for those that are handled much later
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, *, link: bool = False) -> None:
        self._tracer = trace.get_tracer("reflex_aio", tracer_provider=tracer_provider)
        self._link = link

    def current_trace(self) -> bytes | None:
        context = trace.get_current_span().get_span_context()
        return encode_trace(context) if context.is_valid and context.trace_flags.sampled else None

    def handling(self, consumer: str, events: Sequence[Event]) -> AbstractContextManager[object]:
        origins = [decode_trace(event.trace) for event in events]
        first = origins[0]
        # An empty context rather than that of the task: what happens to be current there isn't the cause.
        parent, links = Context(), [Link(origin) for origin in origins if origin is not None]
        if len(events) == 1 and first is not None and not self._link:
            parent, links = trace.set_span_in_context(NonRecordingSpan(first), parent), []
        return self._tracer.start_as_current_span(
            f"consume {consumer}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=_attributes(consumer, events),
            links=links,
        )


def encode_trace(context: SpanContext) -> bytes:
    """Return a span's context as it is stored with an event."""
    message = pb.Trace(
        trace_id=trace.format_trace_id(context.trace_id), span_id=trace.format_span_id(context.span_id)
    )
    return message.SerializeToString()


def decode_trace(stored: bytes | None) -> SpanContext | None:
    """Return the span's context that was stored with an event; ``None`` if there is none, or it can't be read."""
    if not stored:
        return None
    try:
        message = pb.Trace.FromString(stored)
        context = SpanContext(
            trace_id=_number(message.trace_id, 32),
            span_id=_number(message.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
    except (DecodeError, ValueError):
        # Anybody may have stored anything: an event isn't to fail for its trace.
        return None
    return context if context.is_valid else None


def _number(digits: str, length: int) -> int:
    if not _is_hex(digits) or len(digits) != length:
        raise ValueError(f"{digits!r} is not accepted: {length} hexadecimal digits are")
    return int(digits, 16)


def _attributes(consumer: str, events: Sequence[Event]) -> dict[str, AttributeValue]:
    first = events[0]
    attributes: dict[str, AttributeValue] = {
        "reflex.consumer": consumer,
        "reflex.event.id": first.id,
        "reflex.event.type": first.type,
        "reflex.event.foreign_id": first.foreign_id,
    }
    if len(events) > 1:
        attributes["reflex.batch.size"] = len(events)
    return attributes
