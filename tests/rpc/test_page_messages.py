"""Pages preserve the values of events, and respect their limits."""

from enum import IntEnum
from typing import Any

import msgspec
import pytest

from reflex_aio import Event, pb
from reflex_aio.rpc.page_messages import decode_page, encode_pages
from reflex_aio.rpc.protocol import MalformedMessage

COLUMNS: list[Any] = [["1", "2"], [1, 2], ["3", "4"], [5, 6], None, None]


def pages_of(events: list[Event], *, max_events: int = 1000, max_bytes: int = 1 << 20) -> list[bytes]:
    return list(encode_pages(events, max_events=max_events, max_bytes=max_bytes))


def page_with(column: int, value: object) -> bytes:
    columns = [*COLUMNS[:column], value, *COLUMNS[column + 1 :]]
    return pb.Page(columns=msgspec.msgpack.encode(columns)).SerializeToString()


@pytest.mark.parametrize(
    "event",
    [
        Event("42", 3, "7", 1_234_567_890_500_001, b"m", b"t"),
        Event("opaque/ü", -(2**31), "", 0),
        Event("1", 2**31 - 1, "ü", -1),
        Event("9223372036854775807", 0, "0", 253_402_300_799_999_999),
    ],
)
def test_an_event_survives_the_round_trip(event: Event) -> None:
    [page] = pages_of([event])
    assert list(decode_page(page)) == [event]


def test_a_page_has_the_format_described_in_its_proto() -> None:
    events = [Event("1", 2, "a", 3, b"m", None), Event("2", -1, "b", -4, None, None)]
    [page] = pages_of(events)
    columns = msgspec.msgpack.decode(pb.Page.FromString(page).columns)
    assert columns == [["1", "2"], [2, -1], ["a", "b"], [3, -4], [b"m", None], None]


@pytest.mark.parametrize(
    "values",
    [
        [None, None],
        [b"", b""],
        [b"", None],
        [None, b""],
        [b"a", None, b"", b"b", None],
    ],
)
def test_absent_and_empty_values_are_distinct_in_a_page(values: list[bytes | None]) -> None:
    events = [Event(str(i), 1, "1", i, value, value) for i, value in enumerate(values)]
    [page] = pages_of(events)
    assert list(decode_page(page)) == events


def test_a_page_is_split_by_count() -> None:
    events = [Event(str(i), 1, "1", i) for i in range(25)]
    pages = [decode_page(page) for page in pages_of(events, max_events=10)]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [event for page in pages for event in page] == events


def test_a_page_is_split_by_size_unless_one_event_is_larger() -> None:
    sizes = [10, 10, 400, 5000, 10, 900, 10, 10, 10]
    events = [Event(str(i), 1, "1", i, b"x" * size) for i, size in enumerate(sizes)]
    pages = pages_of(events, max_bytes=1000)
    for page in pages:
        assert len(page) <= 1000 or len(decode_page(page)) == 1
    assert [event for page in pages for event in decode_page(page)] == events
    assert len(pages) < len(events)


def test_values_of_subclasses_arrive_as_their_base_types() -> None:
    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    class Bytes(bytes):
        pass

    class Kind(IntEnum):
        CREATED = 3

    events = [Event(Text("1"), Kind.CREATED, Text("2"), Number(4), Bytes(b"m"), Bytes(b"t"))]
    [page] = pages_of(events)
    [event] = decode_page(page)
    assert event == Event("1", 3, "2", 4, b"m", b"t")
    assert [type(value) for value in msgspec.structs.astuple(event)] == [str, int, str, int, bytes, bytes]


def test_a_value_of_a_wrong_type_is_not_sent() -> None:
    with pytest.raises(TypeError, match="no event holds"):
        pages_of([Event("1", 1, "1", object())])  # type: ignore[arg-type]


@pytest.mark.parametrize("column", range(6))
@pytest.mark.parametrize("length", [1, 3])
def test_a_page_whose_columns_differ_in_length_is_refused(column: int, length: int) -> None:
    value = {0: "1", 1: 1, 2: "1", 3: 1}.get(column, b"")
    with pytest.raises(MalformedMessage, match="columns"):
        decode_page(page_with(column, [value] * length))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (0, [1, 2]),
        (0, None),
        (1, [1, 2**31]),
        (1, [-(2**31) - 1, 1]),
        (1, [1, True]),
        (2, [b"1", b"2"]),
        (3, [1, 2**63]),
        (3, [1, 1.5]),
        (4, ["1", "2"]),
        (5, 7),
    ],
)
def test_a_value_of_a_wrong_type_in_a_column_is_refused(column: int, value: object) -> None:
    with pytest.raises(MalformedMessage, match=rf"\$\[{column}\]"):
        decode_page(page_with(column, value))


def test_an_empty_message_is_a_page_without_events() -> None:
    assert list(decode_page(b"")) == []


@pytest.mark.parametrize("page", [b"\xff", pb.Page(columns=b"\x96\x91").SerializeToString()])
def test_an_invalid_page_is_refused(page: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_page(page)
