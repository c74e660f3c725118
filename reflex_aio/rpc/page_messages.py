"""Pages, many events in one message, as columns in MessagePack; and the check of the ids that arrive.

Protobuf creates an object for each value of a repeated field when it is accessed; msgspec reads and writes whole lists.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import lt
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from reflex_aio import pb
from reflex_aio.checks import is_storable_text
from reflex_aio.cursor import is_number
from reflex_aio.errors import InvalidCursor
from reflex_aio.event import INT32_MAX, INT32_MIN, TIMESTAMP_US_MAX, TIMESTAMP_US_MIN, Event, EventBatch
from reflex_aio.rpc.protocol import MalformedMessage, parse

__all__ = ["MOST_EVENTS", "IdCheck", "decode_page", "encode_pages"]

_GREATEST_ID = len(str(2**63 - 1)), str(2**63 - 1)

# How many of the last opaque ids are remembered, to detect a repetition.
_REMEMBERED = 10_000

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


class IdCheck:
    """Checks the ids of one stream, across all of its calls.

    Integer ids must increase strictly, so that no event is repeated and no cursor moves backwards. Opaque ids have no
    order: they must not be empty, and none may be one of the last 10,000.
    """

    def __init__(self) -> None:
        # Hashes, as ids may be long. Hashes of strings can't be predicted, so that a peer can't make two ids collide.
        self._recent: deque[int] = deque()
        self._seen: set[int] = set()

    def check(self, ids: Sequence[str], *, after: str, opaque: bool | None) -> None:
        """Check that a page with these ids may be delivered.

        :param after: the cursor before the page
        :param opaque: whether ids are opaque; ``None`` if they are integers as long as they look like integers
        :raises MalformedMessage: if it may not
        :raises InvalidCursor: if ids are integers and the cursor is none
        """
        if opaque is None:
            opaque = not (is_number(after or "0") and is_number(ids[0]))
        if opaque:
            self._check_opaque(ids, after)
        else:
            _check_integers(ids, after)

    def _check_opaque(self, ids: Sequence[str], after: str) -> None:
        if not self._recent:
            self._recent.append(hash(after))
            self._seen.add(hash(after))
        keys: set[int] = set()
        for event_id in ids:
            if not is_storable_text(event_id):
                raise MalformedMessage(f"event id {event_id!r} is empty, or contains a NUL")
            key = hash(event_id)
            if key in self._seen or key in keys:
                raise MalformedMessage(f"event {event_id!r} is repeated")
            keys.add(key)
        # Only now: a page that is refused is not delivered, and its first events may come again.
        self._seen |= keys
        self._recent.extend(map(hash, ids))
        while len(self._recent) > _REMEMBERED:
            self._seen.discard(self._recent.popleft())


def _check_integers(ids: Sequence[str], after: str) -> None:
    if after and not is_number(after):
        raise InvalidCursor(after, "an integer, as are the event ids of the remote stream")
    after = after.lstrip("0")
    if not (_increase(ids) and _order(after) < _order(ids[0]) and _order(ids[-1]) <= _GREATEST_ID):
        raise MalformedMessage(_complaint(ids, after))


def _order(event_id: str) -> tuple[int, str]:
    """Return a key by which integers in their shortest form have the order of their values, with "" for 0."""
    return len(event_id), event_id


def _increase(ids: Sequence[str]) -> bool:
    """Return whether ``ids`` are decimal integers above 0, each in its shortest form and greater than the one before.

    Every event passes here: this takes a seventh of the time of converting ids to integers and back.
    """
    if not "".join(ids).encode().isdigit():
        return False
    if _have_same_length(ids):
        # Strings of the same length have the order of their numbers.
        return ids[0][:1] not in ("", "0") and all(map(lt, ids, islice(ids, 1, None)))
    keys = list(map(_order, ids))
    return not any(event_id[:1] in ("", "0") for event_id in ids) and all(
        map(lt, keys, islice(keys, 1, None))
    )


def _have_same_length(ids: Sequence[str]) -> bool:
    # Of lines of the same length, the newlines are that far apart. Digits contain none.
    lines, length, newlines = "\n".join(ids), len(ids[0]), "\n" * (len(ids) - 1)
    return len(lines) == (length + 1) * len(ids) - 1 and lines[length :: length + 1] == newlines


def _complaint(ids: Sequence[str], after: str) -> str:
    """Return what is wrong with the first of the ids that may not follow."""
    for event_id in ids:
        if not _increase([event_id]) or _order(event_id) > _GREATEST_ID:
            return (
                f"event id {event_id!r} is not an integer from 1 to {_GREATEST_ID[1]}; streams with other ids must"
                " declare opaque_ids"
            )
        if _order(event_id) <= _order(after):
            return f"event id {event_id!r} is not greater than the one before, {after or '0'!r}"
        after = event_id
    raise AssertionError
