"""What is inserted into an events table: values that are checked before the database sees them."""

import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from reflex_aio.event import check_event
from reflex_aio.sql.schema import EventsSchema

__all__ = ["NewEvent", "Values", "check_new_event", "check_new_events", "present"]

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


def check_new_event(
    schema: EventsSchema, foreign_id: str | int, type: int, metadata: bytes | None, trace: bytes | None
) -> Values:
    """Return the values of an event that is to be inserted into the table of ``schema``.

    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of its range, or belongs in a column that the table doesn't have
    """
    name = str(schema.table)
    for what, value, present in (("metadata", metadata, schema.metadata), ("trace", trace, schema.trace)):
        if value is not None and not present:
            raise ValueError(
                f"{name} has no column for {what}: EventsTable({name!r}, {what}=True) says that it has,"
                " and its ddl() makes it"
            )
    stored_id, stored_type = check_event(foreign_id, type, metadata, trace)
    if schema.foreign_id == "bigint" and not _is_bigint(stored_id):
        raise ValueError(
            f"foreign id {foreign_id!r} is out of range: {name} has foreign_id='bigint', so accepted is"
            f" {_LEAST_BIGINT} to {_GREATEST_BIGINT}, as an int or its text"
        )
    return stored_id, stored_type, metadata, trace


def check_new_events(schema: EventsSchema, events: Iterable[NewEvent]) -> list[Values]:
    """Return the values of events that are to be inserted together. See :func:`check_new_event`.

    What is raised has a note that tells which of the events is meant.
    """
    checked = []
    for index, event in enumerate(events):
        try:
            checked.append(check_new_event(schema, *_spread(event)))
        except (TypeError, ValueError) as exc:
            exc.add_note(f"That was event {index} of those given: {reprlib.repr(event)}")
            raise
    return checked


def present(schema: EventsSchema, values: Sequence[Any]) -> list[Any]:
    """Return those of foreign id, type, metadata and trace that the table of ``schema`` has columns for."""
    foreign_id, kind, metadata, trace = values
    return [foreign_id, kind, *[metadata] * schema.metadata, *[trace] * schema.trace]


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
