"""Encoding of pages: many events in one message, as columns in MessagePack.

Protobuf creates an object for each value of a repeated field when it is accessed; msgspec reads and writes whole lists.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from reflex_aio import pb
from reflex_aio.event import INT32_MAX, INT32_MIN, TIMESTAMP_US_MAX, TIMESTAMP_US_MIN, Event, EventBatch
from reflex_aio.rpc.protocol import MalformedMessage, parse

__all__ = ["MOST_EVENTS", "decode_page", "encode_pages"]

MOST_EVENTS = 100_000
"""The most events in a page. Empty values take a byte in a page, and a hundred times as much when it is decoded."""

T = TypeVar("T")

_Int32: TypeAlias = Annotated[int, msgspec.Meta(ge=INT32_MIN, le=INT32_MAX)]
_Microseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=TIMESTAMP_US_MIN, le=TIMESTAMP_US_MAX)]
_Column: TypeAlias = Annotated[list[T], msgspec.Meta(max_length=MOST_EVENTS)]


class _Columns(msgspec.Struct, array_like=True, gc=False):
    """The content of a reflexaio.v1.Page. The last two columns are ``None`` if no event has a value for them."""

    ids: _Column[str]
    types: _Column[_Int32]
    foreign_ids: _Column[str]
    timestamps_us: _Column[_Microseconds]
    metadata: _Column[bytes | None] | None
    traces: _Column[bytes | None] | None


def encode_pages(events: Sequence[Event], *, max_events: int, max_bytes: int) -> Iterator[bytes]:
    """Return ``events`` as serialized pages of at most ``max_events`` events and ``max_bytes`` bytes.

    A single event that is larger than ``max_bytes`` becomes a page of its own.
    """
    batch = EventBatch.of(events)
    for start in range(0, len(batch), max_events):
        yield from _split(batch[start : start + max_events], max_bytes)


def _split(batch: EventBatch, max_bytes: int) -> Iterator[bytes]:
    page = _encode_page(batch)
    if len(page) <= max_bytes or len(batch) == 1:
        yield page
        return
    # Not kept while the halves are sent.
    del page
    half = len(batch) // 2
    yield from _split(batch[:half], max_bytes)
    yield from _split(batch[half:], max_bytes)


def _encode_page(batch: EventBatch) -> bytes:
    columns = (
        batch.ids,
        batch.types,
        batch.foreign_ids,
        batch.timestamps_us,
        _drop_empty(batch.metadata),
        _drop_empty(batch.traces),
    )
    return pb.Page(columns=_encode(columns)).SerializeToString()


def _drop_empty(column: Sequence[bytes | None] | None) -> Sequence[bytes | None] | None:
    """Return a column, or ``None`` if it contains nothing but ``None``."""
    return None if column is None or column.count(None) == len(column) else column


def _to_base_type(value: object) -> object:
    """Return an instance of a subclass, which msgspec rejects, as an instance of its base class."""
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case bytes():
            return bytes(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}, which no event holds")


_encode = msgspec.msgpack.Encoder(enc_hook=_to_base_type).encode
_decode = msgspec.msgpack.Decoder(_Columns).decode


def decode_page(data: bytes) -> EventBatch:
    """Return the events of a serialized page.

    :raises MalformedMessage: if ``data`` is not a page, its columns differ in length, or a value is out of range
    """
    columns = parse(pb.Page, data).columns
    if not columns:
        return EventBatch([], [], [], [])
    try:
        page = _decode(columns)
    except msgspec.DecodeError as exc:
        raise MalformedMessage(str(exc)) from exc
    count = len(page.ids)
    for column in (page.types, page.foreign_ids, page.timestamps_us, page.metadata, page.traces):
        if column is not None and len(column) != count:
            raise MalformedMessage("the columns of a page differ in length")
    return EventBatch(page.ids, page.types, page.foreign_ids, page.timestamps_us, page.metadata, page.traces)
