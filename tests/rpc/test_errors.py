"""Errors at one end are the right errors at the other, and reveal no more than they should."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from reflex_aio import (
    ConnectionLost,
    CursorAhead,
    Event,
    InvalidCursor,
    ReflexError,
    RemoteError,
    StreamStopped,
    errors,
    is_expected,
    pb,
)
from reflex_aio.errors import (
    EventNotFound,
    MessageTooLarge,
    MetadataError,
    SchemaError,
    TableNotFound,
    TableRefused,
    TableReplaced,
    UnknownStream,
)
from reflex_aio.memory import MemoryEvents
from reflex_aio.rpc import RemoteSource, StreamServer, channel_options, error_mapping, server_options
from reflex_aio.rpc.page_messages import encode_pages
from reflex_aio.rpc.protocol import STREAM_METHOD
from reflex_aio.rpc.streaming_call import Receiver
from tests.fix_processes import Spawn
from tests.fix_proxy import Proxy
from tests.rpc.serving import Watched, ids, serving, some_events, started, take
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=[True, False], ids=["pages", "single"])
def pages(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_an_unknown_stream_is_refused(pages: bool) -> None:
    async with serving(StreamServer({"users": MemoryEvents(), "payments": MemoryEvents()})) as channel:
        for name, message in (("user", "no stream named 'user'"), (None, "has several streams")):
            source = RemoteSource(channel, name, pages=pages)
            with pytest.raises(UnknownStream, match=message) as refused:
                async with source.stream() as stream:
                    await anext(stream)
            assert refused.value.name == name
            with pytest.raises(UnknownStream, match=message):
                await source.head()


async def test_a_negative_lag_is_refused_by_the_server() -> None:
    request = pb.StreamRequest(options=pb.StreamOptions(lag=pb.Duration(seconds=-5)))
    async with serving(StreamServer(MemoryEvents())) as channel:
        method: grpc.aio.UnaryStreamMultiCallable[pb.StreamRequest, bytes] = channel.unary_stream(
            STREAM_METHOD, pb.StreamRequest.SerializeToString
        )
        call = method(request)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = "lag -5.0 is out of range: accepted is a number of seconds from 0, up to 1e+09, or None"
        assert await call.details() == details


async def test_an_unexpected_error_is_logged_in_the_server_and_not_sent(
    pages: bool, caplog: pytest.LogCaptureFixture
) -> None:
    failure = ZeroDivisionError("password=hunter2")
    async with serving(StreamServer(Watched(await some_events(2), failure))) as channel:
        source = RemoteSource(channel, pages=pages)
        async with source.stream() as stream:
            assert ids(await take(stream, 2)) == [1, 2]
            with pytest.raises(RemoteError) as failed:
                await anext(stream)
        assert failed.value.code == "INTERNAL"
        assert "hunter2" not in repr(failed.value) + repr(failed.value.__cause__)
        assert not is_expected(failed.value)
        with pytest.raises(RemoteError):
            await source.head()
    logged = [record for record in caplog.records if record.name == "reflex_aio.rpc.stream_server"]
    assert [record.exc_info[1] for record in logged if record.exc_info] == [failure, failure]
    caplog.clear()


async def test_a_cancellation_without_a_request_ends_the_call_with_an_error(
    pages: bool, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(MemoryEvents(), asyncio.CancelledError())
    async with (
        serving(StreamServer(watched)) as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        with pytest.raises(RemoteError):
            await anext(stream)
    caplog.clear()


@pytest.mark.parametrize(
    ("failure", "raised", "message"),
    [
        (StreamStopped(), StreamStopped, "has been stopped"),
        (ConnectionLost("host=db1 password=hunter2"), ConnectionLost, "lost the source"),
        (MessageTooLarge("too large"), RemoteError, "RESOURCE_EXHAUSTED: too large"),
    ],
)
async def test_an_error_of_the_source_is_that_of_the_client(
    pages: bool, failure: Exception, raised: type[Exception], message: str
) -> None:
    async with serving(StreamServer(Watched(MemoryEvents(), failure))) as channel:
        # Raised by the opening, if it arrives that early.
        with pytest.raises(raised, match=message) as failed:
            async with RemoteSource(channel, pages=pages).stream() as stream:
                await anext(stream)
    assert "hunter2" not in str(failed.value)


# Each with the attributes that it has; InvalidCursor has the cursor of the request.
OF_THEIR_OWN = [
    CursorAhead(table="users", cursor="9", last="7"),
    EventNotFound(source="users", event_id="7"),
    InvalidCursor("", "a number"),
    MetadataError(event_id="7"),
    SchemaError(table="users", differences=["one", "two"]),
    TableNotFound(table="users"),
    TableRefused(table="users", reason="it is unlogged", remedy="SET LOGGED"),
    TableReplaced(table="users", what="the table was truncated"),
]


@pytest.mark.parametrize("failure", OF_THEIR_OWN, ids=lambda failure: type(failure).__name__)
async def test_an_error_with_attributes_arrives_as_itself(
    pages: bool, failure: ReflexError, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(StreamServer(Watched(await some_events(1), failure))) as channel:
        source = RemoteSource(channel, pages=pages)
        # The stream fails after its last event, so that the cursor of the request is the beginning.
        with pytest.raises(type(failure)) as raised:
            await opened_and_read(source, 2)
        with pytest.raises(type(failure)) as of_head:
            await source.head()
    for error in (raised.value, of_head.value):
        assert type(error) is type(failure)
        # The cursor of an InvalidCursor is that of the request.
        assert vars(error) | {"cursor": "7"} == vars(failure) | {"cursor": "7"}
    assert str(of_head.value) == str(failure)
    assert not [record for record in caplog.records if record.exc_info]


async def test_every_error_that_a_source_may_raise_is_sent_as_itself() -> None:
    # Of the others, DatabaseError has texts of the database, and the rest are not errors of sources.
    others = (
        "ConnectionLost CursorConflict DatabaseError ErrorNotFound FilterError LeaseLost MessageTooLarge ReflexError"
        " RemoteError StreamClosed StreamStopped UnknownStream is_expected"
    )
    names = {type(failure).__name__ for failure in OF_THEIR_OWN}
    assert names == set(error_mapping._MAKE) == {kind.__name__ for kind in error_mapping._ATTRIBUTES}
    assert names == set(errors.__all__) - set(others.split())


async def test_an_error_that_is_too_long_for_headers_is_sent_without_its_attributes(pages: bool) -> None:
    failure = SchemaError(table="users", differences=["\N{SNOWMAN}" * 100] * 100)
    async with serving(StreamServer(Watched(MemoryEvents(), failure))) as channel:
        with pytest.raises(RemoteError, match="FAILED_PRECONDITION: users: ") as raised:
            await opened_and_read(RemoteSource(channel, pages=pages))
    assert len(str(raised.value)) < 2000


async def test_a_fault_of_the_table_is_logged_by_the_server_without_a_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failure = TableReplaced(table="users", what="the table was truncated")
    async with serving(StreamServer(Watched(MemoryEvents(), failure))) as channel:
        with pytest.raises(TableReplaced):
            await opened_and_read(RemoteSource(channel))
    [record] = [record for record in caplog.records if record.name == "reflex_aio.rpc.stream_server"]
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    assert "users: the table was truncated" in record.getMessage()


async def test_a_read_after_a_failure_continues_after_the_last_event(pages: bool) -> None:
    events = await some_events(2)
    watched = Watched(events, StreamStopped())
    async with (
        serving(StreamServer(watched)) as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        await take(stream, 2)
        with pytest.raises(StreamStopped):
            await anext(stream)
        watched.failure = None
        await events.insert(3, 1)
        assert ids(await take(stream, 1)) == [3]


async def test_an_unreachable_server_is_an_expected_error(pages: bool, unused_tcp_port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{unused_tcp_port}") as channel:
        source = RemoteSource(channel, pages=pages)
        with pytest.raises(ConnectionLost) as lost:
            async with source.stream() as stream:
                await anext(stream)
        assert is_expected(lost.value)
        with pytest.raises(ConnectionLost):
            await source.head()


async def test_a_server_killed_during_a_read_is_an_expected_error(pages: bool, spawn: Spawn) -> None:
    child = await spawn(serve_three_events)
    port = await child.line()
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        await take(stream, 3)
        read = asyncio.create_task(take(stream, 1))
        await child.kill()
        with pytest.raises(ConnectionLost) as lost:
            await read
        assert is_expected(lost.value)


async def serve_three_events() -> None:
    server = grpc.aio.server(options=server_options())
    StreamServer(await some_events(3)).add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def test_a_silently_lost_connection_is_detected_at_both_ends() -> None:
    watched = Watched(await some_events(1))
    server = grpc.aio.server(options=quick(server_options(keepalive_timeout=0.5)))
    StreamServer(watched).add_to(server)
    async with (
        started(server) as target,
        Proxy(f"tcp://nobody@{target}/") as proxy,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{proxy.port}", quick(channel_options(keepalive_timeout=0.5))
        ) as channel,
        RemoteSource(channel).stream() as stream,
    ):
        await take(stream, 1)
        proxy.stall()
        with pytest.raises(ConnectionLost, match="ping timeout"):
            async with asyncio.timeout(deadline(20)):
                await anext(stream)
        await eventually(lambda: watched.open == 0, "the server to notice", within=20)
        proxy.resume()


def quick(options: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return the options with a ping every second, more often than they accept."""
    return [(name, 1000 if name == "grpc.keepalive_time_ms" else value) for name, value in options]


closing_ends_calls = pytest.mark.skipif(
    tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 83),
    reason="before grpcio 1.83 a channel that is closed leaves its calls alone, until they end themselves",
)


@closing_ends_calls
async def test_a_channel_closed_during_a_read_stops_the_stream(pages: bool) -> None:
    async with (
        serving(StreamServer(MemoryEvents())) as channel,
        RemoteSource(channel, pages=pages).stream(from_head=True) as stream,
    ):
        read = asyncio.create_task(take(stream, 1))
        await asyncio.sleep(0)
        await channel.close()
        with pytest.raises(StreamStopped, match="channel of the event stream was closed"):
            await read


@closing_ends_calls
async def test_a_channel_closed_under_one_reader_does_not_cancel_its_siblings(pages: bool) -> None:
    watched = Watched(MemoryEvents())
    async with serving(StreamServer(watched)) as channel:

        async def read() -> str:
            # The stream is being opened once the server has the call.
            with pytest.raises(StreamStopped):
                async with RemoteSource(channel, pages=pages).stream(from_head=True) as stream:
                    await anext(stream)
            return "stopped"

        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(read()) for _ in range(2)]
            await eventually(lambda: watched.open == 2, "both streams to be open")
            await channel.close()
        assert [read.result() for read in reads] == ["stopped", "stopped"]


async def test_the_error_for_an_event_above_the_size_limit_names_the_option(pages: bool) -> None:
    events = MemoryEvents()
    await events.insert(1, 1)
    await events.insert(2, 1, metadata=bytes(5 << 20))
    async with (
        serving(StreamServer(events)) as channel,
        RemoteSource(channel, pages=pages).stream("1") as stream,
    ):
        with pytest.raises(MessageTooLarge, match=r"grpc\.max_receive_message_length"):
            await anext(stream)


async def test_the_named_option_lets_the_event_pass(pages: bool) -> None:
    events = MemoryEvents()
    await events.insert(1, 1, metadata=bytes(5 << 20))
    server = grpc.aio.server()
    streams = StreamServer(events)
    streams.add_to(server)
    async with (
        started(server) as target,
        grpc.aio.insecure_channel(target, channel_options(max_message=6 << 20)) as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        assert len((await anext(stream)).metadata or b"") == 5 << 20


async def test_the_error_for_a_message_above_the_servers_limit_names_the_option(pages: bool) -> None:
    events = MemoryEvents()
    await events.insert(1, 1, metadata=bytes(2000))
    server = grpc.aio.server(options=server_options(max_message=1000))
    streams = StreamServer(events)
    streams.add_to(server)
    async with started(server) as target, grpc.aio.insecure_channel(target) as channel:
        with pytest.raises(MessageTooLarge, match=r"grpc\.max_send_message_length"):
            await opened_and_read(RemoteSource(channel, pages=pages))


async def opened_and_read(source: RemoteSource, count: int = 1) -> None:
    """Open and read a stream. Either may raise: the call may have ended before the stream is open."""
    async with source.stream() as stream:
        await take(stream, count)


@asynccontextmanager
async def raw_server(*messages: bytes) -> AsyncIterator[grpc.aio.Channel]:
    """A server that responds to every request with ``messages``, and ends the call with OK."""

    async def stream(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        await context.send_initial_metadata((("reflex-cursor-bin", b""),))
        for message in messages:
            await context.write(message)

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(stream)
    server = grpc.aio.server()
    for service, method in (("reflexpb.Reflex", "Stream"), ("reflexaio.v1.ReflexPages", "StreamPages")):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    async with started(server) as target, grpc.aio.insecure_channel(target) as channel:
        yield channel


async def test_an_empty_page_is_not_the_end_of_a_stream() -> None:
    [page] = encode_pages([Event("1", 1, "1", 1)], max_events=1, max_bytes=1)
    async with raw_server(b"", page) as channel, RemoteSource(channel).stream(to_head=True) as stream:
        assert ids(await take(stream, 1)) == [1]


@pytest.mark.parametrize("late", [False, True])
async def test_an_end_after_an_empty_page_is_detected(late: bool) -> None:
    async with raw_server(b"") as channel, RemoteSource(channel).stream() as stream:
        if late:
            # Both arrive before they are read.
            await asyncio.sleep(0.3)
        with pytest.raises(StreamStopped, match="without a reason"):
            async with asyncio.timeout(deadline(10.0)):
                await anext(stream)


async def test_a_message_that_is_too_long_for_a_status_is_truncated(pages: bool) -> None:
    cursor = "\N{SNOWMAN}" * 5_000
    async with serving(StreamServer(MemoryEvents())) as channel:
        with pytest.raises(InvalidCursor) as refused:
            async with RemoteSource(channel, pages=pages).stream(cursor) as stream:
                await anext(stream)
    assert refused.value.cursor == cursor


async def test_a_malformed_message_from_the_server_is_an_error(pages: bool) -> None:
    async with (
        raw_server(b"\xff") as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        with pytest.raises(RemoteError, match="malformed message"):
            await anext(stream)


async def test_a_call_that_ends_without_a_reason_stops_the_stream(pages: bool) -> None:
    async with raw_server() as channel:
        with pytest.raises(StreamStopped, match="without a reason"):
            await opened_and_read(RemoteSource(channel, pages=pages))


# The statuses with which gateways refuse a method that they don't know.
REFUSALS = [
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.NOT_FOUND,
]


@asynccontextmanager
async def gateway(
    refusal: grpc.StatusCode, streams: StreamServer, *, closed: bool = False
) -> AsyncIterator[grpc.aio.Channel]:
    """A server whose methods for pages are refused, and all of them if it is ``closed``."""

    class Gate(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
            method = str(details.method)
            if "ReflexPages" not in method and not closed:
                return await continuation(details)

            async def refuse(request: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
                await context.abort(refusal, f"not this: {method}")

            kind = (
                grpc.unary_unary_rpc_method_handler
                if method.endswith("Head")
                else grpc.stream_stream_rpc_method_handler
            )
            return kind(refuse)

    server = grpc.aio.server(interceptors=[Gate()])
    streams.add_to(server)
    async with started(server) as target, grpc.aio.insecure_channel(target) as channel:
        yield channel


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda code: code.name)
async def test_single_events_are_requested_where_pages_are_refused(refusal: grpc.StatusCode) -> None:
    streams = StreamServer({"users": await some_events(3)})
    async with gateway(refusal, streams) as channel:
        source = RemoteSource(channel, "users")
        for _ in range(50):
            # A request that is refused at once has its status, even if it was still being sent.
            async with source.stream() as stream:
                assert ids(await take(stream, 3)) == [1, 2, 3]
        assert source._service.has_pages is (refusal is not grpc.StatusCode.UNIMPLEMENTED)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda code: code.name)
async def test_where_all_is_refused_the_error_is_that_of_the_method_for_single_events(
    refusal: grpc.StatusCode,
) -> None:
    async with gateway(refusal, StreamServer(MemoryEvents()), closed=True) as channel:
        with pytest.raises(ReflexError, match=r"not this: /reflexpb\.Reflex/Stream") as refused:
            await opened_and_read(RemoteSource(channel))
        kind = UnknownStream if refusal is grpc.StatusCode.NOT_FOUND else RemoteError
        assert type(refused.value) is kind


async def test_other_errors_of_pages_are_reported_at_once(pages: bool) -> None:
    async with gateway(grpc.StatusCode.DATA_LOSS, StreamServer(await some_events(1))) as channel:
        if pages:
            with pytest.raises(RemoteError, match="DATA_LOSS: not this"):
                await opened_and_read(RemoteSource(channel))
        else:
            await opened_and_read(RemoteSource(channel, pages=False))


async def test_another_call_finds_out_how_one_ended_whose_status_grpc_has_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As grpc does when a heartbeat is sent while the call ends.
    replaced = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core"
    )
    take_events, failures = Receiver.take, [replaced, replaced]

    def take_or_fail(self: Receiver) -> Any:
        if (events := take_events(self)) or not failures:
            return events
        raise failures.pop()

    monkeypatch.setattr(Receiver, "take", take_or_fail)
    async with (
        serving(StreamServer(await some_events(3))) as channel,
        RemoteSource(channel).stream(to_head=True) as stream,
    ):
        assert ids([event async for event in stream]) == [1, 2, 3]
    assert error_mapping.may_lack_method(replaced)


async def test_a_channel_that_is_closed_before_a_call_stops_the_stream(pages: bool) -> None:
    async with serving(StreamServer(MemoryEvents())) as channel:
        source = RemoteSource(channel, pages=pages)
        await channel.close()
        with pytest.raises(StreamStopped, match="channel of the event stream was closed"):
            await opened_and_read(source)
        with pytest.raises(StreamStopped, match="channel"):
            await source.head()


async def test_a_lost_source_is_logged_without_a_stack(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        serving(StreamServer(Watched(MemoryEvents(), ConnectionLost("db1 is gone")))) as channel,
        RemoteSource(channel).stream() as stream,
    ):
        with pytest.raises(ConnectionLost):
            await anext(stream)
    [record] = [record for record in caplog.records if record.name == "reflex_aio.rpc.stream_server"]
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    assert "db1 is gone" in record.getMessage()
    assert "the stream without a name for ipv4:127.0.0.1" in record.getMessage()
