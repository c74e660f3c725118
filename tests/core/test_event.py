"""Events take what people write, refuse what can't be stored, and never change."""

import copy
import enum
import gc
import pickle
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflex_aio import Event
from reflex_aio.event import INT32_MAX, INT32_MIN, check_event, check_foreign_id, check_type

NOON = datetime(2024, 2, 29, 12, 0, 0, 123_456, tzinfo=UTC)


class UserEvent(enum.IntEnum):
    CREATED = 1


class Table(enum.StrEnum):
    USERS = "users"


class OldTable(str, enum.Enum):  # noqa: UP042 (its str() is another)
    USERS = "users"


class LoudInt(int):
    def __str__(self) -> str:
        return "loud"


class AnonymousEvent(Event, frozen=True):
    source: str = ""


def test_constructor_takes_the_stored_values_as_they_are() -> None:
    event = Event("7", 1, "42", 1_000_000, b"m", b"t")
    assert (event.id, event.type, event.foreign_id, event.timestamp_us) == ("7", 1, "42", 1_000_000)
    assert (event.metadata, event.trace) == (b"m", b"t")
    assert (Event("7", 1, "42", 0).metadata, Event("7", 1, "42", 0).trace) == (None, None)


def test_new_takes_integers_enums_and_an_aware_datetime() -> None:
    event = Event.new(7, UserEvent.CREATED, 42, timestamp=NOON, metadata=b"m", trace=b"t")
    assert event == Event("7", 1, "42", 1_709_208_000_123_456, b"m", b"t")
    assert type(event.type) is int


def test_new_makes_an_event_of_the_subclass() -> None:
    assert type(AnonymousEvent.new(7, 1, 42, timestamp=NOON)) is AnonymousEvent


@pytest.mark.parametrize("type", [INT32_MIN, -1, 0, INT32_MAX, UserEvent.CREATED, LoudInt(3)])
def test_type_is_any_signed_integer_of_32_bits(type: int) -> None:
    checked = check_type(type)
    assert checked == type
    assert checked.__class__ is int


@pytest.mark.parametrize("type", [INT32_MIN - 1, INT32_MAX + 1, 2**64])
def test_type_out_of_32_bits_is_refused(type: int) -> None:
    with pytest.raises(ValueError, match=rf"event type {type} is out of range: accepted is -2147483648 to"):
        check_type(type)


@pytest.mark.parametrize("type", [True, 1.0, "1", None, b"1"])
def test_type_that_is_no_integer_is_refused(type: Any) -> None:
    with pytest.raises(TypeError, match=r"event type .* is a .*: accepted is an int or IntEnum"):
        check_type(type)


@pytest.mark.parametrize(
    ("foreign_id", "stored"),
    [
        ("a", "a"),
        ("0", "0"),
        (" ", " "),
        (0, "0"),
        (-7, "-7"),
        (2**70, str(2**70)),
        (LoudInt(3), "3"),
        (UserEvent.CREATED, "1"),
        (Table.USERS, "users"),
        (OldTable.USERS, "users"),
    ],
)
def test_foreign_id_is_stored_as_a_string(foreign_id: str | int, stored: str) -> None:
    checked = check_foreign_id(foreign_id)
    assert checked == stored
    assert type(checked) is str


@pytest.mark.parametrize("foreign_id", [None, True, False, 1.0, b"1", object(), NOON])
def test_foreign_id_of_another_type_is_refused(foreign_id: Any) -> None:
    with pytest.raises(
        TypeError, match=r"foreign id .* is a .*: accepted is the id of the changed row, a str or int"
    ):
        check_foreign_id(foreign_id)


@pytest.mark.parametrize("foreign_id", ["", "\0", "a\0b", "a\ud800"])
def test_foreign_id_that_no_database_stores_is_refused(foreign_id: str) -> None:
    with pytest.raises(ValueError, match="is empty, or contains a NUL or a lone surrogate"):
        check_foreign_id(foreign_id)


@pytest.mark.parametrize("id", [None, True, 1.5, ""])
def test_new_refuses_an_event_id_that_is_none(id: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"event id .*accepted is the id that its source uses"):
        Event.new(id, 1, 42, timestamp=NOON)


@pytest.mark.parametrize("what", ["metadata", "trace"])
@pytest.mark.parametrize("value", ["text", bytearray(b"m"), 1])
def test_metadata_and_trace_are_bytes(what: str, value: Any) -> None:
    message = f"{what} is a {type(value).__name__}: accepted is bytes or None"
    with pytest.raises(TypeError, match=message):
        check_event(42, 1, **{what: value})
    with pytest.raises(TypeError, match=message):
        Event.new(7, 1, 42, timestamp=NOON, **{what: value})


def test_noop_is_refused_as_an_event_of_ones_own() -> None:
    for foreign_id in (0, "0"):
        with pytest.raises(ValueError, match="foreign id 0 with type 0 marks a noop"):
            check_event(foreign_id, 0)
    assert check_event("0", 1) == ("0", 1)
    assert check_event("7", 0) == ("7", 0)


def test_noop_is_foreign_id_0_with_type_0() -> None:
    assert Event("1", 0, "0", 0).is_noop
    assert not Event("1", 1, "0", 0).is_noop
    assert not Event("1", 0, "00", 0).is_noop


@pytest.mark.parametrize("field", ["id", "type", "timestamp_us", "metadata", "new_field"])
def test_event_is_immutable(field: str) -> None:
    with pytest.raises(AttributeError):
        setattr(Event("7", 1, "42", 0), field, "8")


def test_equal_events_have_equal_hashes_and_others_differ() -> None:
    event = Event("7", 1, "42", 0, b"m")
    assert event == Event("7", 1, "42", 0, b"m")
    assert hash(event) == hash(Event("7", 1, "42", 0, b"m"))
    others = {
        Event("8", 1, "42", 0, b"m"),
        Event("7", 2, "42", 0, b"m"),
        Event("7", 1, "43", 0, b"m"),
        Event("7", 1, "42", 1, b"m"),
        Event("7", 1, "42", 0, b"n"),
    }
    assert len(others) == 5
    assert event not in others


def test_event_survives_copying_and_pickling() -> None:
    event = AnonymousEvent("7", 1, "42", 5, b"m", None, "somewhere")
    assert copy.deepcopy(event) == event
    assert pickle.loads(pickle.dumps(event)) == event


@pytest.mark.parametrize("kind", [Event, AnonymousEvent])
def test_neither_events_nor_those_of_subclasses_burden_the_garbage_collector(kind: type[Event]) -> None:
    assert kind.__struct_config__.gc is False
    assert kind.__struct_config__.frozen is True
    assert not gc.is_tracked(kind("7", 1, "42", 0, b"m"))


class Nowhere(tzinfo):
    def utcoffset(self, moment: datetime | None) -> None: ...
    def dst(self, moment: datetime | None) -> None: ...
    def tzname(self, moment: datetime | None) -> None: ...


@pytest.mark.parametrize("zone", [None, Nowhere()])
def test_naive_datetime_is_refused(zone: tzinfo | None) -> None:
    with pytest.raises(ValueError, match="timestamp has no time zone"):
        Event.new(7, 1, 42, timestamp=NOON.replace(tzinfo=zone))


@pytest.mark.parametrize("timestamp", [None, 1_700_000_000, "2024-02-29", date(2024, 2, 29)])
def test_timestamp_of_another_type_is_refused(timestamp: Any) -> None:
    with pytest.raises(TypeError, match=r"timestamp .* is a .*: accepted is an aware datetime"):
        Event.new(7, 1, 42, timestamp=timestamp)


@given(
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30))])).filter(
        lambda moment: 1 < moment.year < 9999
    )
)
def test_timestamp_is_kept_to_the_microsecond_in_utc(moment: datetime) -> None:
    event = Event.new(7, 1, 42, timestamp=moment)
    assert event.timestamp == moment
    assert event.timestamp.tzinfo is UTC


@pytest.mark.parametrize("second", [0, 1, 2**31, 2**32 - 1, 2**32, 2**33])
@pytest.mark.parametrize("microseconds", [0, 1, 499_999, 500_001, 999_999])
def test_timestamp_is_exact_on_both_sides_of_where_floats_are(second: int, microseconds: int) -> None:
    event = Event("7", 1, "42", second * 1_000_000 + microseconds)
    assert event.timestamp == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(0, second, microseconds)


def test_timestamp_before_1970_counts_backwards() -> None:
    moment = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert Event.new(7, 1, 42, timestamp=moment).timestamp_us == -1


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("-7", -7), ("0", 0), (str(2**63), 2**63)],
)
def test_ids_that_are_integers_are_read_as_such(text: str, number: int) -> None:
    event = Event(text, 1, text, 0)
    assert (event.id_int, event.foreign_id_int) == (number, number)


@pytest.mark.parametrize("text", ["", "a", "1.0", "1_000", " 7", "7\n", "+7", "007", "-0", "٣", "9" * 5000])
def test_ids_that_are_no_integers_own_text_are_not(text: str) -> None:
    event = Event(text, 1, text, 0)
    assert (event.id_int, event.foreign_id_int) == (None, None)
