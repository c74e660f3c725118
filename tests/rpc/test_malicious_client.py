"""A server trusts no client: whatever is sent, it answers with an exact status, logs no stack, and keeps nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reflex_aio import RemoteError, pb
from reflex_aio.memory import MemoryEvents
from reflex_aio.rpc import RemoteSource, StreamServer, stream_server
from reflex_aio.rpc.protocol import HEAD_METHOD, PAGES_METHOD, STREAM_METHOD
from tests.rpc.malicious import TEXTS
from tests.rpc.serving import Watched, ids, serving, some_events, take
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

# The server is made once for all examples of a test.
fuzzed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

METHODS = [STREAM_METHOD, PAGES_METHOD, HEAD_METHOD]

# What a client may be answered with: nothing that stands for a fault of the server.
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
}

DURATIONS = st.builds(
    pb.Duration, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1)
)
REQUESTS = st.builds(
    pb.StreamRequest,
    after=st.integers(0, 5).map(str) | TEXTS | st.just("9" * 5000),
    options=st.builds(
        pb.StreamOptions, lag=DURATIONS | st.none(), fromHead=st.booleans(), toHead=st.booleans()
    ),
)
PAGES_REQUESTS = st.builds(
    pb.StreamPagesRequest,
    request=REQUESTS,
    max_events=st.integers(0, 2**32 - 1),
    heartbeat_ms=st.integers(0, 2**32 - 1),
)
MESSAGES = st.binary(max_size=30) | (REQUESTS | PAGES_REQUESTS).map(
    lambda request: request.SerializeToString()
)
NAMES = st.none() | st.sampled_from(["users", "secrets", "user", "*", "' OR 1=1", "-", "x" * 2000])


@pytest_asyncio.fixture
async def watched() -> Watched:
    return Watched(await some_events(3))


@pytest_asyncio.fixture
async def channel(watched: Watched) -> AsyncIterator[grpc.aio.Channel]:
    streams = StreamServer({"users": watched, "secrets": watched})
    async with serving(streams) as channel:
        yield channel
        await eventually(lambda: not watched.open and not streams._calls, "all streams to be closed")


async def call(
    channel: grpc.aio.Channel, method: str, message: bytes | None, name: str | None
) -> tuple[grpc.StatusCode, str]:
    """Send a raw request, and return the status; OK if the server goes on serving the call, which is then cancelled."""
    metadata = () if name is None else (("reflex-stream", name),)
    calling: Any = channel.stream_stream(method)(metadata=metadata)
    if message is not None:
        await calling.write(message)
    await calling.done_writing()
    async with asyncio.timeout(deadline(20)):
        try:
            # An open stream has initial metadata, and the head is a message without.
            if await calling.initial_metadata() or await calling.read() is not grpc.aio.EOF:
                calling.cancel()
                return grpc.StatusCode.OK, ""
        except grpc.aio.AioRpcError as exc:
            return exc.code(), exc.details() or ""
    raise AssertionError("a call ended with OK")


def stacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info]


@fuzzed
@given(method=st.sampled_from(METHODS), message=MESSAGES, name=NAMES)
@example(method=STREAM_METHOD, message=b"\xff", name="users")
@example(method=PAGES_METHOD, message=b"\xff", name="users")
@example(method=HEAD_METHOD, message=b"\xff", name="users")
async def test_every_request_has_an_exact_status_and_leaves_no_stack_in_the_log(
    channel: grpc.aio.Channel,
    caplog: pytest.LogCaptureFixture,
    method: str,
    message: bytes,
    name: str | None,
) -> None:
    code, details = await call(channel, method, message, name)
    assert code in ANSWERS, (code, details)
    assert stacks(caplog) == []
    for other in {"users", "secrets"} - {name}:
        assert other not in details


@pytest.mark.parametrize("method", METHODS)
async def test_a_request_that_cannot_be_decoded_is_an_invalid_argument(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    code, _ = await call(channel, method, b"\xff", "users")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert caplog.records == []


@pytest.mark.parametrize("method", [STREAM_METHOD, PAGES_METHOD])
@pytest.mark.parametrize("seconds", [-1, 1_000_000_001, 2**63 - 1, -(2**63)])
async def test_a_lag_out_of_range_is_an_invalid_argument(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, method: str, seconds: int
) -> None:
    request: Any = pb.StreamRequest(options=pb.StreamOptions(lag=pb.Duration(seconds=seconds)))
    if method == PAGES_METHOD:
        request = pb.StreamPagesRequest(request=request)
    code, details = await call(channel, method, request.SerializeToString(), "users")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("lag ")
    assert caplog.records == []


async def test_pages_need_a_request(channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture) -> None:
    code, _ = await call(channel, PAGES_METHOD, None, "users")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert caplog.records == []


async def test_a_request_that_is_never_sent_is_not_waited_for(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert stream_server._REQUEST_TIMEOUT == 30.0
    monkeypatch.setattr(stream_server, "_REQUEST_TIMEOUT", 0.1)
    calling: Any = channel.stream_stream(PAGES_METHOD)(metadata=(("reflex-stream", "users"),))
    assert await calling.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caplog.records == []


async def test_messages_after_the_request_are_heartbeats_whatever_they_contain(
    channel: grpc.aio.Channel, watched: Watched
) -> None:
    calling: Any = channel.stream_stream(PAGES_METHOD)(metadata=(("reflex-stream", "users"),))
    await calling.write(b"")
    for _ in range(100):
        await calling.write(b"\xff" * 1000)
    assert await calling.read()
    assert watched.open == 1
    calling.cancel()


@pytest.mark.parametrize("pages", [True, False], ids=["pages", "single"])
async def test_calls_beyond_the_limit_are_refused_and_those_within_go_on(pages: bool) -> None:
    async with serving(StreamServer(await some_events(1), max_streams=2)) as channel:
        source = RemoteSource(channel, pages=pages)
        async with source.stream() as first, source.stream() as second:
            assert ids(await take(first, 1)) == ids(await take(second, 1)) == [1]
            with pytest.raises(RemoteError, match="limit of 2 calls") as refused:
                async with source.stream() as third:
                    await anext(third)
            assert refused.value.code == "RESOURCE_EXHAUSTED"
            with pytest.raises(RemoteError, match="limit of 2 calls"):
                await source.head()
        # Room for others once the server has noticed that one is gone.
        await eventually(lambda: _has_room(source), "room")


async def _has_room(source: RemoteSource) -> bool:
    try:
        return await source.head() == "1"
    except RemoteError:
        return False


async def test_the_limit_of_calls_is_checked() -> None:
    with pytest.raises(ValueError, match="max_streams 0 is out of range"):
        StreamServer(MemoryEvents(), max_streams=0)
    with pytest.raises(ValueError, match="page_events 100001 is out of range"):
        StreamServer(MemoryEvents(), page_events=100_001)
