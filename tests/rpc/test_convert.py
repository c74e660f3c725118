"""Events keep their values on the wire, and pages their bounds."""

import pytest

from reflex_aio import Event, StreamOptions, pb
from reflex_aio.rpc import convert
from tests.pb import users_build

FULL = Event("42", 3, "7", 1_234_567_890_500_001, b"m", b"t")


def pages_of(events: list[Event], *, max_events: int = 1000, max_bytes: int = 1 << 20) -> list[bytes]:
    return list(convert.events_to_pages(events, max_events=max_events, max_bytes=max_bytes))


@pytest.mark.parametrize(
    "event",
    [
        FULL,
        Event("opaque/ü", -(2**31), "", 0),
        Event("1", 2**31 - 1, "ü", -1),
        Event("9223372036854775807", 0, "0", 253_402_300_799_999_999),
    ],
)
def test_an_event_survives_the_round_trip(event: Event) -> None:
    message = convert.event_to_message(event, pb.Event)
    assert convert.event_from_bytes(message.SerializeToString()) == event
    [page] = pages_of([event])
    assert convert.events_from_page(page) == [event]


def test_an_event_in_a_users_own_build_is_the_same_on_the_wire() -> None:
    ours = convert.event_to_message(FULL, pb.Event).SerializeToString(deterministic=True)
    theirs = convert.event_to_message(FULL, users_build.Event)
    assert theirs.SerializeToString(deterministic=True) == ours
    assert convert.event_from_message(theirs) == FULL


def test_nanoseconds_of_other_languages_are_cut_to_microseconds() -> None:
    message = pb.Event(id="1", timestamp=pb.Timestamp(seconds=-1, nanos=999_999_999))
    assert convert.event_from_message(message).timestamp_us == -1


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
def test_absent_and_empty_stay_apart_in_a_page(values: list[bytes | None]) -> None:
    events = [Event(str(i), 1, "1", i, value, value) for i, value in enumerate(values)]
    [page] = pages_of(events)
    assert convert.events_from_page(page) == events


def test_a_page_is_cut_by_count() -> None:
    events = [Event(str(i), 1, "1", i) for i in range(25)]
    pages = [convert.events_from_page(page) for page in pages_of(events, max_events=10)]
    assert [len(page) for page in pages] == [10, 10, 5]
    assert [event for page in pages for event in page] == events


def test_a_page_is_cut_by_size_unless_one_event_is_larger() -> None:
    sizes = [10, 10, 400, 5000, 10, 900, 10, 10, 10]
    events = [Event(str(i), 1, "1", i, b"x" * size) for i, size in enumerate(sizes)]
    pages = pages_of(events, max_bytes=1000)
    for page in pages:
        assert len(page) <= 1000 or len(convert.events_from_page(page)) == 1
    assert [event for page in pages for event in convert.events_from_page(page)] == events
    assert len(pages) < len(events)


@pytest.mark.parametrize(
    "page",
    [
        pb.Page(ids=["1", "2"], types=[1], foreign_ids=["1", "2"], timestamps_us=[1, 2]),
        pb.Page(ids=["1"], types=[1], foreign_ids=["1"], timestamps_us=[1], metadata=[b"", b""]),
        pb.Page(ids=["1"], types=[1], foreign_ids=["1"], timestamps_us=[1], traces=[b""], without_trace=[1]),
    ],
)
def test_a_page_whose_columns_differ_is_refused(page: pb.Page) -> None:
    with pytest.raises(convert.MalformedMessage, match="columns"):
        convert.events_from_page(page.SerializeToString())


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(convert.MalformedMessage):
        convert.events_from_page(b"\xff")
    with pytest.raises(convert.MalformedMessage):
        convert.event_from_bytes(b"\xff")


@pytest.mark.parametrize(
    "options",
    [StreamOptions(), StreamOptions(from_head=True), StreamOptions(to_head=True, lag=0.25)],
)
@pytest.mark.parametrize("request_class", [pb.StreamRequest, users_build.StreamRequest])
def test_a_request_survives_the_round_trip(
    request_class: type[pb.StreamRequest], options: StreamOptions
) -> None:
    request = convert.make_request(request_class, "42", options)
    assert convert.read_request(request) == ("42", options)


def test_a_negative_lag_in_a_request_is_refused() -> None:
    request = pb.StreamRequest(options=pb.StreamOptions(lag=pb.Duration(seconds=-1)))
    with pytest.raises(convert.MalformedMessage, match="lag -1"):
        convert.read_request(request)


def test_a_lag_of_nothing_is_none() -> None:
    request = pb.StreamRequest(options=pb.StreamOptions(lag=pb.Duration()))
    assert convert.read_request(request) == ("", StreamOptions())


def test_what_has_no_event_beside_it_is_no_request() -> None:
    with pytest.raises(TypeError, match=r"google\.protobuf\.Duration is no request for a stream"):
        convert.event_class_beside(pb.Duration())
