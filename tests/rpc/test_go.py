"""Compatibility with clients and servers in Go, byte by byte as luno/reflex sends and reads them.

The Go ends are played by raw handlers and raw calls, which know no message but the bytes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from reflex_aio import Consumer, Event, InvalidCursor, RemoteError, Spec, StreamStopped, run
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.rpc import RemoteSource, StreamServer, remote_source
from tests.rpc.serving import Watched, ids, serving, some_events, started, take
from tests.waiting import deadline

pytestmark = pytest.mark.asyncio

Context = grpc.aio.ServicerContext[bytes, bytes]

STOPPED = "the event stream has been stopped"
HEAD = "recv error 2: the event stream has reached the current head"
INVALID = "recv error 2: invalid id, only int supported"


def field(number: int, value: bytes | str) -> bytes:
    """A length-delimited field of protobuf."""
    value = value.encode() if isinstance(value, str) else value
    length = b""
    rest = len(value)
    while rest > 127:
        length, rest = length + bytes([rest & 127 | 128]), rest >> 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + value


def event(number: int) -> bytes:
    timestamp = bytes.fromhex("08d285d8cc04")  # seconds = 1234567890
    return bytes.fromhex("1801") + field(4, timestamp) + field(5, "7") + field(6, str(number))


def details(code: str, *, joined: bool = False) -> tuple[tuple[str, bytes], ...]:
    """The trailer of luno/jettison's interceptor, with all fields that it sends."""
    about = field(5, "service") + field(6, "main.go:7 main") + field(8, field(1, "k") + field(2, "v"))
    cause = field(1, "cause") + about + field(7, code) + field(9, "main.go:7")
    other = field(1, "other") + field(7, "ERR_0000000000000000")
    wrapped = field(3, other) + field(3, cause) if joined else field(4, field(1, "inner") + field(4, cause))
    error = field(1, "outer") + wrapped
    any_error = field(1, "type.googleapis.com/jettisonpb.WrappedError") + field(2, error)
    any_other = field(1, "type.googleapis.com/google.rpc.DebugInfo") + field(2, b"\xff\xff")
    status = bytes.fromhex("0802") + field(2, "outer") + field(3, any_other) + field(3, any_error)
    return (("grpc-status-details-bin", status),)


@asynccontextmanager
async def go_server(
    stream: Callable[[bytes, Context], Awaitable[None]], name: str | None = None, **options: Any
) -> AsyncIterator[RemoteSource]:
    """A server with no method but Stream, and a source of its stream."""

    async def handler(request: bytes, context: Context) -> None:
        await stream(request, context)

    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(handler)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("reflexpb.Reflex", {"Stream": method}),)
    )
    async with started(server) as target, grpc.aio.insecure_channel(target) as channel:
        yield RemoteSource(channel, name, **options)


async def until_cancelled() -> None:
    await asyncio.Event().wait()


async def test_events_of_a_go_server_are_read() -> None:
    requested: list[bytes] = []

    async def stream(request: bytes, context: Context) -> None:
        requested.append(request)
        for number in (8, 9):
            await context.write(event(number))
        await context.abort(grpc.StatusCode.UNKNOWN, HEAD)

    async with go_server(stream) as source, source.stream("7", to_head=True, lag=1.5) as remote:
        received = [event async for event in remote]
    assert ids(received) == [8, 9]
    assert (received[0].type, received[0].foreign_id, received[0].timestamp_us) == (1, "7", 1234567890_000000)
    assert received[0].metadata is None
    lag = bytes.fromhex("0801 10 80cab5ee01")  # 1 s, 500,000,000 ns
    assert requested == [field(2, field(1, lag) + bytes.fromhex("2001")) + field(3, "7")]


async def test_pages_are_requested_once_from_a_go_server() -> None:
    streams = 0

    async def stream(request: bytes, context: Context) -> None:
        nonlocal streams
        streams += 1
        await context.write(event(streams))
        await until_cancelled()

    async with go_server(stream) as source:
        for number in (1, 2):
            async with source.stream() as remote:
                assert ids(await take(remote, 1)) == [number]
    assert streams == 2


@pytest.mark.parametrize("trailer", ["none", "wrapped", "joined", "garbage"])
@pytest.mark.parametrize(
    ("message", "code", "raised"),
    [
        (STOPPED, "ERR_09290f5944cb8671", StreamStopped),
        (INVALID, "ERR_82d0368b5478d378", InvalidCursor),
        (HEAD, "ERR_b4b155d2a91cfcd0", None),
        ("recv error 2: non-consecutive", "ERR_bc3dcacb92b9761f", RemoteError),
    ],
)
async def test_errors_of_a_go_server_are_distinguished(
    message: str, code: str, raised: type[Exception] | None, trailer: str
) -> None:
    trailing = {
        "none": (),
        "wrapped": details(code),
        "joined": details(code, joined=True),
        "garbage": (("grpc-status-details-bin", b"\xff\xff"),),
    }[trailer]
    # With the interceptor only the code identifies the error: the message is that of the outermost error.
    text = message if trailer in {"none", "garbage"} else "stream error"

    async def stream(request: bytes, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, text, trailing)

    async with go_server(stream) as source:
        if raised is None:
            async with source.stream("7", to_head=True) as remote:
                assert [event async for event in remote] == []
        else:
            with pytest.raises(raised):
                await source.stream("7", to_head=True).__aenter__()


async def test_a_go_server_that_is_at_the_head_ends_a_stream_from_there_at_once() -> None:
    async def stream(request: bytes, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, HEAD)

    async with go_server(stream) as source, source.stream("7", from_head=True, to_head=True) as remote:
        assert [event async for event in remote] == []


async def test_the_status_for_the_head_is_an_error_without_to_head() -> None:
    async def stream(request: bytes, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, HEAD)

    async with go_server(stream) as source, source.stream() as remote:
        with pytest.raises(RemoteError):
            await anext(remote)


async def two_events(request: bytes, context: Context) -> None:
    for number in (8, 9):
        await context.write(event(number))
    await until_cancelled()


async def silence(request: bytes, context: Context) -> None:
    await until_cancelled()


@pytest.mark.parametrize("stream", [two_events, silence])
@pytest.mark.parametrize("again", [False, True])
async def test_a_name_that_a_go_server_would_ignore_is_refused(
    monkeypatch: pytest.MonkeyPatch, stream: Callable[[bytes, Context], Awaitable[None]], again: bool
) -> None:
    monkeypatch.setattr(remote_source, "_RESPONSE_TIMEOUT", 0.2)
    consumed: list[Event] = []

    async def consume(event: Event) -> None:
        consumed.append(event)

    store = MemoryCursorStore({"c": "7"})
    async with go_server(stream, "users") as source:
        for _ in range(1 + again):
            with pytest.raises(RemoteError, match="has not confirmed that it serves the stream 'users'"):
                await run(Spec(source, store, Consumer("c", consume)))
    assert (consumed, await store.get("c")) == ([], "7")


async def test_a_name_is_sent_to_a_go_server_that_is_trusted() -> None:
    async with (
        go_server(two_events, "users", trust_server=True) as source,
        source.stream("7") as remote,
    ):
        assert ids(await take(remote, 2)) == [8, 9]


@pytest.mark.parametrize("pages", [True, False])
async def test_a_name_is_confirmed_by_every_server_of_this_package(pages: bool) -> None:
    streams = StreamServer({"users": await some_events(1), "payments": await some_events(2)})
    async with serving(streams) as channel:
        source = RemoteSource(channel, "payments", pages=pages)
        async with source.stream() as remote:
            assert ids(await take(remote, 2)) == [1, 2]


async def opaque_events(request: bytes, context: Context) -> None:
    for event_id in ("blob/7", "blob/3"):
        await context.write(field(5, "7") + field(6, event_id))
    await until_cancelled()


async def test_ids_of_a_go_server_that_are_no_integers_need_trust() -> None:
    async with go_server(opaque_events) as source, source.stream() as remote:
        with pytest.raises(RemoteError, match="event id 'blob/7' is not an integer"):
            await anext(remote)
        assert remote.cursor == ""
    async with go_server(opaque_events, trust_server=True) as source, source.stream() as remote:
        assert [event.id for event in await take(remote, 2)] == ["blob/7", "blob/3"]


async def test_integer_ids_of_a_trusted_go_server_still_have_to_increase() -> None:
    async with go_server(two_events, trust_server=True) as source, source.stream("8") as remote:
        with pytest.raises(RemoteError, match="event id '8' is not greater than the one before, '8'"):
            await anext(remote)


async def test_a_silent_go_server_does_not_delay_a_stream_from_the_head() -> None:
    requested = asyncio.Event()

    async def stream(request: bytes, context: Context) -> None:
        requested.set()
        await until_cancelled()

    async with (
        go_server(stream) as source,
        asyncio.timeout(deadline(5)),
        source.stream("7", from_head=True) as remote,
    ):
        assert requested.is_set()
        assert remote.cursor == "7"


async def test_a_go_server_has_no_method_for_the_head() -> None:
    async def stream(request: bytes, context: Context) -> None:
        await until_cancelled()

    async with go_server(stream) as source:
        with pytest.raises(RemoteError, match="no method that returns the head") as refused:
            await source.head()
        assert refused.value.code == "UNIMPLEMENTED"


async def test_a_consumer_that_starts_at_the_head_of_a_go_server_is_refused_before_its_first_event() -> None:
    async def stream(request: bytes, context: Context) -> None:
        raise AssertionError("a stream was opened")

    async def handle(event: Event) -> None: ...

    store = MemoryCursorStore()
    async with go_server(stream) as source:
        with pytest.raises(RemoteError, match="the server has no method that returns the head"):
            await run(Spec(source, store, Consumer("c", handle), start="head"))
    assert await store.all() == {}


async def test_pages_are_requested_again_after_a_lost_connection() -> None:
    async def old(request: bytes, context: Context) -> None:
        await context.write(event(1))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    async with go_server(old) as source, source.stream() as remote:
        await take(remote, 1)
        assert not source._service.has_pages
        with pytest.raises(Exception, match="Socket closed"):
            await anext(remote)
        assert source._service.has_pages


@asynccontextmanager
async def go_client(
    streams: StreamServer, request: bytes
) -> AsyncIterator[grpc.aio.UnaryStreamCall[bytes, bytes]]:
    """A call by a Go client."""
    async with serving(streams) as channel:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            "/reflexpb.Reflex/Stream"
        )
        yield method(request)


async def test_a_go_client_receives_the_events() -> None:
    events = MemoryEvents(clock=lambda: 1234567890.0)
    for _ in range(2):
        await events.insert(7, 1)
    # Go sends every option: a lag of 0, and after.
    request = field(2, field(1, b"")) + field(3, "1")
    async with go_client(StreamServer(events), request) as call:
        received = await call.read()
        assert isinstance(received, bytes)
        assert sorted(received) == sorted(event(2))


@pytest.mark.parametrize(
    ("request_bytes", "failure", "status", "code"),
    [
        (b"", StreamStopped(), grpc.StatusCode.UNAVAILABLE, "ERR_09290f5944cb8671"),
        (field(2, bytes.fromhex("2001")), None, grpc.StatusCode.OUT_OF_RANGE, "ERR_b4b155d2a91cfcd0"),
        (field(3, "x"), None, grpc.StatusCode.INVALID_ARGUMENT, "ERR_82d0368b5478d378"),
    ],
)
async def test_a_go_client_recognises_the_errors(
    request_bytes: bytes, failure: Exception | None, status: grpc.StatusCode, code: str
) -> None:
    source = Watched(await some_events(0), failure) if failure else await some_events(0)
    async with go_client(StreamServer(source), request_bytes) as call:
        assert await call.code() is status
        [value] = [value for key, value in await call.trailing_metadata() if key == "grpc-status-details-bin"]
    message = await call.details()
    # google.rpc.Status {code, message, details: Any {type_url, WrappedError {message, code}}}
    error = field(1, message) + field(7, code)
    any_error = field(1, "type.googleapis.com/jettisonpb.WrappedError") + field(2, error)
    ours = b""
    if status is grpc.StatusCode.INVALID_ARGUMENT:
        # A second detail, for our own clients: ErrorDetail {type, attributes}
        accepted = message.partition("accepted is ")[2]
        detail = field(1, "InvalidCursor") + field(2, accepted)
        any_detail = field(1, "type.googleapis.com/reflexaio.v1.ErrorDetail") + field(2, detail)
        ours = field(3, any_detail)
    assert value == bytes([8, status.value[0]]) + field(2, message) + field(3, any_error) + ours
