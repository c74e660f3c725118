"""Events as pages: many in one message, as columns in MessagePack.

Protobuf makes an object of each of a column's values as it is looked at; msgspec reads and writes whole lists.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Annotated

import msgspec
from google.protobuf.message import DecodeError

from reflex_aio import pb
from reflex_aio.event import INT32_MAX, INT32_MIN, Event, EventBatch
from reflex_aio.rpc.convert import MalformedMessage

__all__ = ["events_from_page", "events_to_pages"]

_Int32 = Annotated[int, msgspec.Meta(ge=INT32_MIN, le=INT32_MAX)]
_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Columns(msgspec.Struct, array_like=True, gc=False):
    """What reflexaio.v1.Page holds. The last two are ``None`` if no event has any."""

    ids: list[str]
    types: list[_Int32]
    foreign_ids: list[str]
    timestamps_us: list[_Int64]
    metadata: list[bytes | None] | None
    traces: list[bytes | None] | None


def events_to_pages(events: Sequence[Event], *, max_events: int, max_bytes: int) -> Iterator[bytes]:
    """Return ``events`` as serialized pages of at most so many events, and so many bytes if of several."""
    batch = EventBatch.of(events)
    for start in range(0, len(batch), max_events):
        yield from _cut(batch[start : start + max_events], max_bytes)


def _cut(batch: EventBatch, max_bytes: int) -> Iterator[bytes]:
    page = _page(batch)
    if len(page) <= max_bytes or len(batch) == 1:
        yield page
    else:
        half = len(batch) // 2
        yield from _cut(batch[:half], max_bytes)
        yield from _cut(batch[half:], max_bytes)


def _page(batch: EventBatch) -> bytes:
    columns = (
        batch.ids,
        batch.types,
        batch.foreign_ids,
        batch.timestamps_us,
        _values(batch.metadata),
        _values(batch.traces),
    )
    return pb.Page(columns=_encode(columns)).SerializeToString()


def _values(column: Sequence[bytes | None] | None) -> Sequence[bytes | None] | None:
    return None if column is None or column.count(None) == len(column) else column


def _plain(value: object) -> object:
    """Return what an instance of a subclass, which msgspec doesn't take, stands for."""
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case bytes():
            return bytes(value)
    raise TypeError(f"{value!r} is a {type(value).__name__}, which no event holds")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode = msgspec.msgpack.Decoder(_Columns).decode


def events_from_page(data: bytes) -> list[Event]:
    """Return the events of a serialized page.

    :raises MalformedMessage: if it is none, or its columns don't fit together
    """
    try:
        columns = pb.Page.FromString(data).columns
        if not columns:
            return []
        page = _decode(columns)
    except (DecodeError, msgspec.DecodeError) as exc:
        raise MalformedMessage(str(exc)) from exc
    count = len(page.ids)
    for column in (page.types, page.foreign_ids, page.timestamps_us, page.metadata, page.traces):
        if column is not None and len(column) != count:
            raise MalformedMessage("the columns of a page differ in length")
    return list(
        map(
            Event,
            page.ids,
            page.types,
            page.foreign_ids,
            page.timestamps_us,
            repeat(None) if page.metadata is None else page.metadata,
            repeat(None) if page.traces is None else page.traces,
        )
    )
