"""Events are unchanged by encoding and decoding, one by one and in pages of any size."""

from hypothesis import given
from hypothesis import strategies as st

from reflex_aio import Event, StreamOptions, pb
from reflex_aio.rpc import protocol
from reflex_aio.rpc.page_messages import decode_page, encode_pages

_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
# From the year 1 to the year 9999, the range of a protobuf timestamp.
_MICROSECONDS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
_EVENTS = st.builds(
    Event,
    id=_TEXT | st.integers(0, 2**63 - 1).map(str),
    type=st.integers(-(2**31), 2**31 - 1),
    foreign_id=_TEXT,
    timestamp_us=_MICROSECONDS,
    metadata=st.none() | st.binary(max_size=50),
    trace=st.none() | st.binary(max_size=50),
)


@given(st.lists(_EVENTS, max_size=30), st.integers(1, 10), st.integers(1, 400))
def test_events_in_pages_are_unchanged_for_any_page_size(
    events: list[Event], max_events: int, max_bytes: int
) -> None:
    pages = [decode_page(page) for page in encode_pages(events, max_events=max_events, max_bytes=max_bytes)]
    assert [event for page in pages for event in page] == events
    assert all(1 <= len(page) <= max_events for page in pages)


@given(_EVENTS)
def test_a_single_event_is_unchanged_except_that_absent_values_become_empty(event: Event) -> None:
    # The message of luno/reflex does not distinguish them.
    data = protocol.event_to_message(event, pb.Event).SerializeToString()
    there = protocol.event_from_bytes(data)
    assert (there.id, there.type, there.foreign_id) == (event.id, event.type, event.foreign_id)
    assert there.timestamp_us == event.timestamp_us
    assert (there.metadata or b"", there.trace or b"") == (event.metadata or b"", event.trace or b"")


@given(_TEXT, st.booleans(), st.booleans(), st.none() | st.integers(1, 10**12))
def test_a_request_is_unchanged(after: str, from_head: bool, to_head: bool, lag_us: int | None) -> None:
    options = StreamOptions(from_head, to_head, None if lag_us is None else lag_us / 1_000_000)
    request = protocol.encode_request(pb.StreamRequest, after, options)
    there, read = protocol.decode_request(pb.StreamRequest.FromString(request.SerializeToString()))
    assert (there, read.from_head, read.to_head) == (after, from_head, to_head)
    assert abs((read.lag or 0.0) - (options.lag or 0.0)) < 1e-6
