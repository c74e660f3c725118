"""The messages are independent of other builds, and compatible with Go on the wire."""

import re
import subprocess
import sys
from importlib.resources import files

from google.protobuf.message import Message

from reflex_aio import pb
from tests.pb import users_build

EVENT = bytes.fromhex("1803 220c08d285d8cc041080cab5ee01 2a0137 32023432 3a016d 420174")


def test_event_has_the_field_numbers_of_the_original() -> None:
    event = pb.Event(
        type=3,
        timestamp=pb.Timestamp(seconds=1234567890, nanos=500_000_000),
        foreign_id="7",
        id="42",
        metadata=b"m",
        trace=b"t",
    )
    assert event.SerializeToString(deterministic=True) == EVENT


def test_stream_request_has_the_field_numbers_of_the_original() -> None:
    request = pb.StreamRequest(
        after="42",
        options=pb.StreamOptions(lag=pb.Duration(seconds=5), fromHead=True, toHead=True),
    )
    assert request.SerializeToString(deterministic=True) == bytes.fromhex("1208 0a020805 1001 2001 1a023432")


def test_trace_and_error_details_have_the_field_numbers_of_the_original() -> None:
    trace = pb.Trace(trace_id="a", span_id="b")
    assert trace.SerializeToString() == bytes.fromhex("0a0161 120162")
    inner = pb.WrappedError(message="m", code="E")
    error = pb.WrappedError(joined_errors=[inner], wrapped_error=inner)
    assert error.SerializeToString() == bytes.fromhex("1a06 0a016d3a0145 2206 0a016d3a0145")
    status = pb.Status(code=2, message="m", details=[pb.Any(type_url="u", value=b"v")])
    assert status.SerializeToString() == bytes.fromhex("0802 12016d 1a06 0a0175120176")


def test_methods_have_their_names_on_the_wire() -> None:
    stream = pb.pool.FindServiceByName("reflexpb.Reflex").FindMethodByName("Stream")
    assert (stream.client_streaming, stream.server_streaming) == (False, True)
    pages = pb.pool.FindServiceByName("reflexaio.v1.ReflexPages")
    assert {method.name: method.server_streaming for method in pages.methods} == {
        "StreamPages": True,
        "Head": False,
    }


def test_unknown_fields_are_ignored() -> None:
    old_id_field = bytes.fromhex("082a")
    assert pb.Event.FromString(old_id_field + EVENT).id == "42"


def test_a_users_own_build_coexists_with_ours() -> None:
    assert users_build.Event is not pb.Event
    ours = pb.Event.FromString(EVENT)
    assert users_build.Event.FromString(EVENT).SerializeToString(deterministic=True) == EVENT
    assert ours.foreign_id == "7"


def test_a_users_own_build_may_be_imported_first() -> None:
    build_first = (
        "from google.protobuf import descriptor_pool\n"
        "from google.protobuf.descriptor_pb2 import FileDescriptorProto\n"
        "file = FileDescriptorProto(name='reflex.proto', package='reflexpb', syntax='proto3')\n"
        "file.message_type.add(name='Event').field.add(name='id', number=6, type=9, label=1)\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
        "from reflex_aio import pb\n"
        "assert 'foreign_id' in pb.Event.DESCRIPTOR.fields_by_name\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", build_first], check=True)


def test_messages_import_no_grpc() -> None:
    script = "import sys, reflex_aio.pb; assert 'grpc' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_a_page_is_one_field() -> None:
    assert pb.Page(columns=b"c").SerializeToString() == bytes.fromhex("0a0163")


def test_the_stub_contains_exactly_the_existing_messages() -> None:
    stub = (files(pb) / "__init__.pyi").read_text()
    there = {
        name
        for name, value in vars(pb).items()
        if isinstance(value, type) and issubclass(value, Message) and value.DESCRIPTOR.file.pool is pb.pool
    }
    assert set(re.findall(r"^class (\w+)\(Message\)", stub, re.MULTILINE)) == there
