"""The values of new events: checked, and converted to the form in which they are stored."""

import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from types import NoneType
from typing import Any, NamedTuple, Self, TypeAlias
from uuid import UUID

import msgspec

from reflex_aio.event import INT32_MAX, INT32_MIN, NOOP_TYPE, check_event
from reflex_aio.metadata import MetadataCodec
from reflex_aio.sql.schema.names import EventsSchema

__all__ = [
    "Joined",
    "NewEvent",
    "NewEvents",
    "Values",
    "check_new_event",
    "check_new_events",
    "column_picker",
]

NewEvent: TypeAlias = (
    tuple[str | int | UUID, int]
    | tuple[str | int | UUID, int, object]
    | tuple[str | int | UUID, int, object, bytes | None]
)
"""An event for ``insert_many``: foreign id, type, and optionally metadata and trace."""

Values: TypeAlias = tuple[str, int, bytes | None, bytes | None]
"""Foreign id, type, metadata and trace, as they are stored."""

_LEAST_BIGINT, _GREATEST_BIGINT = -(2**63), 2**63 - 1

# Other texts of integers, such as "007", would be returned as the text of another id.
_is_integer = re.compile("0|-?[1-9][0-9]{0,18}").fullmatch
_is_uuid = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


class Joined(NamedTuple):
    """Several texts as one, with a separator that occurs in none of them."""

    text: str
    separator: str

    def split(self) -> list[str]:
        """Return the texts, of which there must be at least one."""
        return self.text.split(self.separator)


def _join(texts: Sequence[str]) -> Joined:
    """Join texts without NUL, which databases do not store, so that it cannot be the separator."""
    together = "".join(texts)
    separator = next(
        character for character in map(chr, range(1, sys.maxunicode)) if character not in together
    )
    return Joined(separator.join(texts), separator)


@dataclass(frozen=True, slots=True)
class NewEvents:
    """Events to be inserted together, as columns of stored values.

    :param metadata: ``None`` if no event has metadata; ``traces`` likewise
    """

    foreign_ids: Joined
    types: list[int]
    metadata: list[bytes | None] | None
    traces: list[bytes | None] | None

    def __len__(self) -> int:
        return len(self.types)

    def rows(self) -> Iterator[Values]:
        """Return the events one by one."""
        nothing = [None] * len(self)
        return zip(
            self.foreign_ids.split() if self.types else (),
            self.types,
            nothing if self.metadata is None else self.metadata,
            nothing if self.traces is None else self.traces,
            strict=True,
        )

    def with_default_trace(self, trace: bytes) -> Self:
        """Return the same events, with ``trace`` as the trace of those without one."""
        traces = [None] * len(self) if self.traces is None else self.traces
        return replace(self, traces=[trace if own is None else own for own in traces])


def check_new_event(
    schema: EventsSchema, foreign_id: str | int | UUID, type: int, metadata: bytes | None, trace: bytes | None
) -> Values:
    """Return the stored values of an event to be inserted into the table of ``schema``.

    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of range, or the table does not have its column
    """
    if metadata is not None and not schema.metadata:
        raise _no_column(schema, "metadata")
    if trace is not None and not schema.trace:
        raise _no_column(schema, "trace")
    stored_id, stored_type = check_event(foreign_id, type, metadata, trace)
    if schema.foreign_id == "bigint" and not _is_bigint(stored_id):
        raise ValueError(
            f"foreign id {foreign_id!r} is out of range: {schema.table} has foreign_id='bigint', so accepted is"
            f" {_LEAST_BIGINT} to {_GREATEST_BIGINT}, as an int or its text"
        )
    if schema.foreign_id == "uuid" and not _is_uuid(stored_id):
        raise ValueError(
            f"foreign id {foreign_id!r} is not a UUID: {schema.table} has foreign_id='uuid', so accepted is a"
            " uuid.UUID, or its text as 8-4-4-4-12 hexadecimal digits"
        )
    return stored_id, stored_type, metadata, trace


def _no_column(schema: EventsSchema, column: str) -> ValueError:
    name = str(schema.table)
    return ValueError(
        f"{name} has no column for {column}: EventsTable({name!r}, {column}=True) expects one, and its ddl() creates it"
    )


def encoded_events(codec: MetadataCodec[Any], events: Iterable[NewEvent]) -> list[NewEvent]:
    """Return events whose metadata is encoded. An error has a note with the index of the event."""
    encoded: list[NewEvent] = []
    for index, event in enumerate(events):
        try:
            foreign_id, kind, metadata, trace = _unpack(event)
            encoded.append((foreign_id, kind, None if metadata is None else codec.encode(metadata), trace))
        except (TypeError, ValueError) as exc:
            _add_index(exc, index, event)
            raise
    return encoded


def check_new_events(schema: EventsSchema, events: Iterable[NewEvent]) -> NewEvents:
    """Return the stored values of events to be inserted together. See :func:`check_new_event`.

    An error has a note with the index of the event.
    """
    events = list(events)
    if (checked_columns := _check_columns(schema, events)) is not None:
        return checked_columns
    checked = []
    for index, event in enumerate(events):
        try:
            checked.append(check_new_event(schema, *_unpack(event)))
        except (TypeError, ValueError) as exc:
            _add_index(exc, index, event)
            raise
    foreign_ids, types, metadata, traces = zip(*checked, strict=True) if checked else ((), (), (), ())
    return NewEvents(_join(foreign_ids), list(types), _unless_empty(metadata), _unless_empty(traces))


def _add_index(error: Exception, index: int, event: object) -> None:
    error.add_note(f"This is event {index} of the argument: {reprlib.repr(event)}")


def _unless_empty(column: Sequence[bytes | None]) -> list[bytes | None] | None:
    return None if set(map(type, column)) <= {NoneType} else list(column)


def _check_columns(schema: EventsSchema, events: Sequence[NewEvent]) -> NewEvents | None:
    """Return the stored values of events whose values are all of the usual kind; otherwise ``None``.

    Checking column by column takes an eighth of the time of checking event by event, which is most of the client's time
    for ``insert_many``.
    """
    if (
        set(map(type, events)) != {tuple}
        or len(sizes := set(map(len, events))) != 1
        or not sizes <= {2, 3, 4}
    ):
        return None
    # Not zip(*events): it creates an iterator for each event, so many that the garbage collector runs.
    foreign_ids, types, *more = (list(map(itemgetter(place), events)) for place in range(*sizes))
    stored_ids = _check_foreign_ids(schema, foreign_ids)
    classes = set(map(type, types))
    if stored_ids is None or not all(issubclass(kind, int) and kind is not bool for kind in classes):
        return None
    # An event of type 0 may be a noop.
    kinds = set(types)
    if not INT32_MIN <= min(kinds) <= max(kinds) <= INT32_MAX or NOOP_TYPE in kinds:
        return None
    rest: list[list[bytes | None] | None] = []
    for column, exists in zip(more, (schema.metadata, schema.trace), strict=False):
        if not set(map(type, column)) <= ({bytes, NoneType} if exists else {NoneType}):
            return None
        rest.append(_unless_empty(column))
    metadata, traces = [*rest, None, None][:2]
    # The members of an IntEnum are stored as plain integers.
    return NewEvents(stored_ids, types if classes == {int} else list(map(int, types)), metadata, traces)


def _check_foreign_ids(schema: EventsSchema, foreign_ids: list[Any]) -> Joined | None:
    match [*set(map(type, foreign_ids))]:
        case [kind] if kind is UUID and schema.foreign_id != "bigint":
            return Joined(",".join(map(str, foreign_ids)), ",")
        case [kind] if kind is int and schema.foreign_id != "uuid":
            if schema.foreign_id == "bigint" and not (
                _LEAST_BIGINT <= min(foreign_ids) <= max(foreign_ids) <= _GREATEST_BIGINT
            ):
                return None
            try:
                # A tenth of the time of calling str() for each.
                text = msgspec.json.encode(foreign_ids)[1:-1].decode()
            except OverflowError:
                # One of them does not fit in 64 bits.
                return None
            return Joined(text, ",")
        case [kind] if kind is str and schema.foreign_id == "text":
            together = "".join(foreign_ids)
            # A text that is not ASCII may contain a lone surrogate.
            usual = all(foreign_ids) and "\0" not in together and together.isascii()
            return _join(foreign_ids) if usual else None
    return None


def column_picker(schema: EventsSchema) -> Callable[[Values], tuple[Any, ...]]:
    """Return a function that picks those of an event's values for which the table of ``schema`` has columns."""
    places = [0, 1] + [2] * schema.metadata + [3] * schema.trace
    picked: Callable[[Values], tuple[Any, ...]] = itemgetter(*places)
    return picked


def _unpack(event: Any) -> tuple[Any, Any, Any, Any]:
    try:
        foreign_id, kind, *more = event
        metadata, trace = more + [None] * (2 - len(more))
    except (TypeError, ValueError):
        accepted = "a tuple (foreign_id, type[, metadata[, trace]])"
        raise TypeError(f"{event!r} is not an event: accepted is {accepted}") from None
    return foreign_id, kind, metadata, trace


def _is_bigint(text: str) -> bool:
    return bool(_is_integer(text)) and _LEAST_BIGINT <= int(text) <= _GREATEST_BIGINT
