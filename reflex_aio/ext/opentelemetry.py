"""Propagation of traces from the code that inserts an event to the consumers that handle it.

Requires opentelemetry-api (extra ``opentelemetry``). A trace is stored in the format of luno/reflex, so that either
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

# int() would also accept spaces, underscores and "0x".
_is_hex = re.compile("[0-9a-fA-F]+").fullmatch


class OpenTelemetryHooks(Hooks):
    """Stores the current span with inserted events, and opens a span for each handled event.

    An event gets a trace if its table has a column for it, ``EventsTable(..., trace=True)``, and the current span is
    sampled. The stored format has no flag for sampling, so consumers treat every stored trace as sampled. A consumer's
    span is a child of the span stored with its event, as in luno/reflex. The span of a batch is linked to each stored
    span.

    :param tracer_provider: the provider of the tracer; by default that of the process
    :param link: start a new trace for each event, linked to the stored one, for events that are handled much later
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
        # An empty context, not that of the task: a span that is current there did not cause the event.
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
    """Return a span's context in the format stored with an event."""
    message = pb.Trace(
        trace_id=trace.format_trace_id(context.trace_id), span_id=trace.format_span_id(context.span_id)
    )
    return message.SerializeToString()


def decode_trace(stored: bytes | None) -> SpanContext | None:
    """Return the span's context stored with an event, or ``None`` if there is none or it is invalid."""
    if not stored:
        return None
    try:
        message = pb.Trace.FromString(stored)
        context = SpanContext(
            trace_id=_parse_hex(message.trace_id, 32),
            span_id=_parse_hex(message.span_id, 16),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
    except (DecodeError, ValueError):
        # An invalid trace must not prevent its event from being handled.
        return None
    return context if context.is_valid else None


def _parse_hex(digits: str, length: int) -> int:
    if not _is_hex(digits) or len(digits) != length:
        raise ValueError(f"{digits!r} is not accepted: a number of {length} hexadecimal digits is")
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
