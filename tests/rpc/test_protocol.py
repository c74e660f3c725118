"""Events and requests are unchanged by encoding and decoding."""

import pytest

from reflex_aio import Event, StreamOptions, pb
from reflex_aio.rpc import protocol
from tests.pb import users_build

FULL = Event("42", 3, "7", 1_234_567_890_500_001, b"m", b"t")


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
    message = protocol.event_to_message(event, pb.Event)
    assert protocol.event_from_bytes(message.SerializeToString()) == event


def test_an_event_in_a_users_own_build_is_the_same_on_the_wire() -> None:
    ours = protocol.event_to_message(FULL, pb.Event).SerializeToString(deterministic=True)
    theirs = protocol.event_to_message(FULL, users_build.Event)
    assert theirs.SerializeToString(deterministic=True) == ours
    assert protocol.event_from_message(theirs) == FULL


def test_nanoseconds_of_other_languages_are_truncated_to_microseconds() -> None:
    message = pb.Event(id="1", timestamp=pb.Timestamp(seconds=-1, nanos=999_999_999))
    assert protocol.event_from_message(message).timestamp_us == -1


def test_an_invalid_message_is_refused() -> None:
    with pytest.raises(protocol.MalformedMessage):
        protocol.event_from_bytes(b"\xff")


@pytest.mark.parametrize(
    "options",
    [StreamOptions(), StreamOptions(from_head=True), StreamOptions(to_head=True, lag=0.25)],
)
@pytest.mark.parametrize("request_class", [pb.StreamRequest, users_build.StreamRequest])
def test_a_request_survives_the_round_trip(
    request_class: type[pb.StreamRequest], options: StreamOptions
) -> None:
    request = protocol.encode_request(request_class, "42", options)
    assert protocol.decode_request(request) == ("42", options)


def test_a_negative_lag_in_a_request_is_refused() -> None:
    request = pb.StreamRequest(options=pb.StreamOptions(lag=pb.Duration(seconds=-1)))
    with pytest.raises(protocol.MalformedMessage, match="lag -1"):
        protocol.decode_request(request)


def test_a_lag_of_nothing_is_none() -> None:
    request = pb.StreamRequest(options=pb.StreamOptions(lag=pb.Duration()))
    assert protocol.decode_request(request) == ("", StreamOptions())


def test_a_request_from_a_file_without_an_event_message_is_refused() -> None:
    with pytest.raises(TypeError, match=r"google\.protobuf\.Duration is no request for a stream"):
        protocol.event_class_for(pb.Duration())
