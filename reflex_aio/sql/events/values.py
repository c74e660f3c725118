"""What is inserted into an events table: values that are checked before the database sees them."""

import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from types import NoneType
from typing import Any, NamedTuple, Self, TypeAlias

import msgspec

from reflex_aio.event import INT32_MAX, INT32_MIN, NOOP_TYPE, check_event
from reflex_aio.sql.schema.names import EventsSchema

__all__ = ["Joined", "NewEvent", "NewEvents", "Values", "check_new_event", "check_new_events", "presenter"]

NewEvent: TypeAlias = (
    tuple[str | int, int]
    | tuple[str | int, int, bytes | None]
    | tuple[str | int, int, bytes | None, bytes | None]
)
"""Foreign id, type, and if need be metadata and trace."""

Values: TypeAlias = tuple[str, int, bytes | None, bytes | None]
"""Foreign id, type, metadata and trace, as they are stored."""

_LEAST_BIGINT, _GREATEST_BIGINT = -(2**63), 2**63 - 1

# Others, such as "007", would come back as the text of another id.
_is_integer = re.compile("0|-?[1-9][0-9]{0,18}").fullmatch


class Joined(NamedTuple):
    """Texts as one, in which a character that is in none of them stands between them."""

    text: str
    separator: str

    def apart(self) -> list[str]:
        """Return the texts, of which there is one at least."""
        return self.text.split(self.separator)


def _joined(texts: Sequence[str]) -> Joined:
    """Join texts that hold no NUL, as databases don't store it."""
    together = "".join(texts)
    separator = next(
        character for character in map(chr, range(1, sys.maxunicode)) if character not in together
    )
    return Joined(separator.join(texts), separator)


@dataclass(frozen=True, slots=True)
class NewEvents:
    """Events that are to be inserted together, as they are stored, column by column.

    :param metadata: ``None`` if no event has any; ``traces`` likewise
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
            self.foreign_ids.apart() if self.types else (),
            self.types,
            nothing if self.metadata is None else self.metadata,
            nothing if self.traces is None else self.traces,
            strict=True,
        )

    def traced(self, trace: bytes) -> Self:
        """Return the same events, of which those without a trace have this one."""
        given = [None] * len(self) if self.traces is None else self.traces
        return replace(self, traces=[trace if own is None else own for own in given])


def check_new_event(
    schema: EventsSchema, foreign_id: str | int, type: int, metadata: bytes | None, trace: bytes | None
) -> Values:
    """Return the values of an event that is to be inserted into the table of ``schema``.

    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of its range, or belongs in a column that the table doesn't have
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
    return stored_id, stored_type, metadata, trace


def _no_column(schema: EventsSchema, what: str) -> ValueError:
    name = str(schema.table)
    return ValueError(
        f"{name} has no column for {what}: EventsTable({name!r}, {what}=True) says that it has,"
        " and its ddl() makes it"
    )


def check_new_events(schema: EventsSchema, events: Iterable[NewEvent]) -> NewEvents:
    """Return the values of events that are to be inserted together. See :func:`check_new_event`.

    What is raised has a note that tells which of the events is meant.
    """
    events = list(events)
    if (plain := _check_columns(schema, events)) is not None:
        return plain
    checked = []
    for index, event in enumerate(events):
        try:
            checked.append(check_new_event(schema, *_spread(event)))
        except (TypeError, ValueError) as exc:
            exc.add_note(f"That was event {index} of those given: {reprlib.repr(event)}")
            raise
    foreign_ids, types, metadata, traces = zip(*checked, strict=True) if checked else ((), (), (), ())
    return NewEvents(_joined(foreign_ids), list(types), _unless_empty(metadata), _unless_empty(traces))


def _unless_empty(column: Sequence[bytes | None]) -> list[bytes | None] | None:
    return None if set(map(type, column)) <= {NoneType} else list(column)


def _check_columns(schema: EventsSchema, events: Sequence[NewEvent]) -> NewEvents | None:
    """Return events among which there is nothing unusual; otherwise ``None``.

    Column by column this takes an eighth of the time that it takes event by event, which is most of what the client
    does for ``insert_many``.
    """
    if (
        set(map(type, events)) != {tuple}
        or len(sizes := set(map(len, events))) != 1
        or not sizes <= {2, 3, 4}
    ):
        return None
    # Not by zip(*events), which makes an iterator of each event, so many that the garbage collector is called.
    foreign_ids, types, *more = (list(map(itemgetter(place), events)) for place in range(*sizes))
    stored_ids = _check_foreign_ids(schema, foreign_ids)
    classes = set(map(type, types))
    if stored_ids is None or not all(issubclass(kind, int) and kind is not bool for kind in classes):
        return None
    # What has type 0 may be a noop.
    kinds = set(types)
    if not INT32_MIN <= min(kinds) <= max(kinds) <= INT32_MAX or NOOP_TYPE in kinds:
        return None
    rest: list[list[bytes | None] | None] = []
    for column, there in zip(more, (schema.metadata, schema.trace), strict=False):
        if not set(map(type, column)) <= ({bytes, NoneType} if there else {NoneType}):
            return None
        rest.append(_unless_empty(column))
    metadata, traces = [*rest, None, None][:2]
    # An IntEnum's are stored as plain ones.
    return NewEvents(stored_ids, types if classes == {int} else list(map(int, types)), metadata, traces)


def _check_foreign_ids(schema: EventsSchema, foreign_ids: list[Any]) -> Joined | None:
    match [*set(map(type, foreign_ids))]:
        case [kind] if kind is int:
            if schema.foreign_id == "bigint" and not (
                _LEAST_BIGINT <= min(foreign_ids) <= max(foreign_ids) <= _GREATEST_BIGINT
            ):
                return None
            try:
                # In a tenth of the time that str() of each would take.
                text = msgspec.json.encode(foreign_ids)[1:-1].decode()
            except OverflowError:
                # There is one that doesn't fit in 64 bits.
                return None
            return Joined(text, ",")
        case [kind] if kind is str and schema.foreign_id != "bigint":
            together = "".join(foreign_ids)
            # Others may hold half a surrogate pair.
            plain = all(foreign_ids) and "\0" not in together and together.isascii()
            return _joined(foreign_ids) if plain else None
    return None


def presenter(schema: EventsSchema) -> Callable[[Values], tuple[Any, ...]]:
    """Return what picks those of an event's values that the table of ``schema`` has columns for."""
    places = [0, 1] + [2] * schema.metadata + [3] * schema.trace
    picked: Callable[[Values], tuple[Any, ...]] = itemgetter(*places)
    return picked


def _spread(event: Any) -> tuple[Any, Any, Any, Any]:
    try:
        foreign_id, kind, *more = event
        metadata, trace = more + [None] * (2 - len(more))
    except (TypeError, ValueError):
        accepted = "a tuple (foreign_id, type[, metadata[, trace]])"
        raise TypeError(f"{event!r} is no event: accepted is {accepted}") from None
    return foreign_id, kind, metadata, trace


def _is_bigint(text: str) -> bool:
    return bool(_is_integer(text)) and _LEAST_BIGINT <= int(text) <= _GREATEST_BIGINT
