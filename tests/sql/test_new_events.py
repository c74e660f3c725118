"""Events given together are checked as each of them would be by itself."""

from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_aio.sql.events.values import check_new_events
from reflex_aio.sql.schema.names import EventsSchema, ForeignIdType, Name


class Kind(IntEnum):
    NOTHING = 0
    CREATED = 1


class Text(str):
    __slots__ = ()


class Bytes(bytes):
    pass


_FOREIGN_IDS: list[st.SearchStrategy[Any]] = [
    st.integers(-(2**64), 2**64),
    st.sampled_from(["0", "7", "007", "", "a\0b", "\ud800", "ü", Text("x"), str(2**63)]),
    st.text(max_size=5),
    st.sampled_from([None, 1.5, True, Kind.CREATED, 10**5000]),
]
_TYPES: list[st.SearchStrategy[Any]] = [
    st.integers(1, 9),
    st.integers(-(2**33), 2**33),
    st.sampled_from(Kind),
    st.sampled_from([None, "1", True, 0]),
]
_BYTES: list[st.SearchStrategy[Any]] = [
    st.none(),
    st.binary(max_size=3),
    st.none() | st.binary(max_size=3) | st.just(Bytes(b"b")),
    st.sampled_from(["m", bytearray(b"m"), None]),
]


def events_of(size: int) -> st.SearchStrategy[list[Any]]:
    """Lists of events of ``size`` values, in each of which a value is drawn in one of several ways."""
    ways = st.tuples(*map(st.sampled_from, [_FOREIGN_IDS, _TYPES, _BYTES, _BYTES][:size]))
    return ways.flatmap(lambda columns: st.lists(st.tuples(*columns), max_size=4))


_EVENTS = st.integers(2, 4).flatmap(events_of)
_MIXED = st.lists(_EVENTS, max_size=3).map(lambda several: [event for events in several for event in events])


def outcome(check: Any) -> tuple[str, Any]:
    try:
        return "", list(check().rows())
    except (TypeError, ValueError) as exc:
        return type(exc).__name__, str(exc)


def check_both_ways(schema: EventsSchema, events: list[Any]) -> None:
    # Lists are accepted too, and checked one by one.
    expected = outcome(lambda: check_new_events(schema, [list(event) for event in events]))  # type: ignore[misc]
    found = outcome(lambda: check_new_events(schema, events))
    assert found == expected
    if not found[0]:
        kinds = [
            [[type(value) for value in values] for values in several] for several in (found[1], expected[1])
        ]
        assert kinds[0] == kinds[1]


@pytest.mark.parametrize("foreign_id", ["text", "bigint"])
@pytest.mark.parametrize("has", [True, False], ids=["full", "bare"])
@pytest.mark.parametrize(
    "event",
    [
        *[(value, 1) for value in (0, True, None, 1.5, Kind.CREATED, 2**63, -(2**63) - 1, 10**5000)],
        *[(value, 1) for value in ("", "a\0b", "\ud800", "ü", "007", "7", Text("x"), str(2**63))],
        *[(1, value) for value in (2**31, -(2**31) - 1, 2**31 - 1, True, None, "1", 1.5, Kind.CREATED)],
        *[(value, 0) for value in (0, "0", 1)],
        *[(1, 1, value) for value in (b"", None, "m", Bytes(b"m"), bytearray(b"m"))],
        *[(1, 1, None, value) for value in (b"", None, "t")],
    ],
    ids=lambda event: repr(event)[:40] if isinstance(event, tuple) and event[0] != 10**5000 else "long",
)
def test_an_unusual_event_among_others_is_checked_as_by_itself(
    event: tuple[Any, ...], has: bool, foreign_id: ForeignIdType
) -> None:
    schema = EventsSchema(Name.parse("events"), foreign_id=foreign_id, metadata=has, trace=has)
    rest = [None] * (len(event) - 2)
    for events in ([event], [(5, 1, *rest), event], [event, ("5", 1, *rest)]):
        check_both_ways(schema, events)


@given(
    st.builds(
        EventsSchema,
        st.just(Name.parse("events")),
        foreign_id=st.sampled_from(["text", "bigint"]),
        metadata=st.booleans(),
        trace=st.booleans(),
    ),
    _EVENTS | _MIXED,
)
def test_many_events_are_checked_as_each_of_them_is(schema: EventsSchema, events: list[Any]) -> None:
    check_both_ways(schema, events)
