"""A server that stops ends its streams with the right status, and closes them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from reflex_aio import (
    ConnectionLost,
    Consumer,
    Event,
    EventStream,
    RemoteError,
    Source,
    Spec,
    StreamStopped,
    is_expected,
    run_forever,
)
from reflex_aio.backoff import Backoff
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.rpc import RemoteSource, StreamServer, channel_options, server_options
from tests.rpc.serving import Watched, ids, serving, some_events, started, take
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(params=[True, False], ids=["pages", "single"])
def pages(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_stop_ends_streams_as_expected_and_closes_them(pages: bool) -> None:
    watched = Watched(await some_events(3))
    streams = StreamServer(watched)
    async with serving(streams) as channel, RemoteSource(channel, pages=pages).stream() as stream:
        await take(stream, 3)
        read = asyncio.create_task(take(stream, 1))
        await streams.stop()
        assert watched.open == 0
        with pytest.raises(StreamStopped) as stopped:
            await read
        assert is_expected(stopped.value)


async def test_a_stopped_server_refuses_new_streams(pages: bool) -> None:
    streams = StreamServer(MemoryEvents())
    async with serving(streams) as channel:
        await streams.stop()
        with pytest.raises(StreamStopped):
            async with RemoteSource(channel, pages=pages).stream() as stream:
                await anext(stream)


async def test_stop_may_be_called_again_and_at_once() -> None:
    streams = StreamServer(await some_events(1))
    async with serving(streams) as channel, RemoteSource(channel).stream() as stream:
        await take(stream, 1)
        await asyncio.gather(streams.stop(), streams.stop())
        await streams.stop()
        with pytest.raises(StreamStopped):
            await anext(stream)


async def test_a_stream_that_cannot_be_closed_is_logged_and_delays_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched(await some_events(1))
    streams = StreamServer(watched)
    failures = iter([ZeroDivisionError("no"), None])

    async def closing() -> None:
        if (failure := next(failures)) is not None:
            raise failure

    watched.closing = closing
    async with (
        serving(streams) as channel,
        RemoteSource(channel).stream() as one,
        RemoteSource(channel).stream() as other,
    ):
        await take(one, 1)
        await take(other, 1)
        await streams.stop()
        for stream in (one, other):
            with pytest.raises((StreamStopped, RemoteError)):
                await anext(stream)
    assert "could not be closed" in caplog.text


async def test_events_on_their_way_arrive_before_the_stop() -> None:
    streams = StreamServer(await some_events(5000))
    async with serving(streams) as channel, RemoteSource(channel, pages=False).stream() as stream:
        received = await take(stream, 1)
        await streams.stop()

        async def read_on() -> None:
            async for event in stream:
                received.append(event)

        with pytest.raises(StreamStopped):
            await read_on()
    assert ids(received) == list(range(1, len(received) + 1))


async def test_a_client_that_does_not_read_does_not_delay_the_stop() -> None:
    events = MemoryEvents()
    for _ in range(100):
        await events.insert(1, 1, metadata=bytes(1 << 20))
    watched = Watched(events)
    streams = StreamServer(watched)
    async with serving(streams) as channel, RemoteSource(channel).stream() as stream:
        await take(stream, 1)
        async with asyncio.timeout(deadline(5)):
            await streams.stop(grace=0.1)


async def start(source: Source, port: int) -> tuple[grpc.aio.Server, StreamServer, int]:
    """Serve ``source`` on ``port``, or on a free one if that is 0."""
    server = grpc.aio.server(options=server_options())
    streams = StreamServer(source)
    streams.add_to(server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, streams, port


async def test_the_head_of_a_stream_survives_a_restart_before_its_first_event(pages: bool) -> None:
    events = await some_events(3)
    server, streams, port = await start(events, 0)
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", channel_options()) as channel,
        RemoteSource(channel, pages=pages).stream(from_head=True) as stream,
    ):
        await streams.stop()
        await server.stop(None)
        with pytest.raises((StreamStopped, ConnectionLost)):
            await anext(stream)
        await events.insert(4, 1)
        server, streams, _ = await start(events, port)
        received = await eventually(lambda: first_of(stream), "the client to reconnect")
        assert received is not None
        assert received.id == "4"
    await streams.stop()
    await server.stop(None)


async def first_of(stream: EventStream) -> Event | None:
    """Return the next event, or ``None`` if the server is unreachable."""
    try:
        return await anext(stream)
    except ConnectionLost:
        return None


async def test_a_consumer_survives_a_restart_of_the_server() -> None:
    events = await some_events(10)
    consumed: list[Event] = []
    ten, twenty = asyncio.Event(), asyncio.Event()

    async def consume(event: Event) -> None:
        consumed.append(event)
        if len(consumed) == 10:
            ten.set()
        if len(consumed) == 20:
            twenty.set()

    server, streams, port = await start(events, 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.TaskGroup() as group:
        spec = Spec(RemoteSource(channel), MemoryCursorStore(), Consumer("c", consume))
        running = group.create_task(run_forever(spec, backoff=Backoff(initial=0.01, maximum=0.1)))
        await ten.wait()
        await streams.stop()
        await server.stop(None)
        for i in range(10):
            await events.insert(i, 1)
        server, streams, _ = await start(events, port)
        await twenty.wait()
        running.cancel()
    await streams.stop()
    await server.stop(None)
    assert ids(consumed) == list(range(1, 21))


async def test_health_reports_not_serving_before_streams_end() -> None:
    watched = Watched(await some_events(1))
    streams = StreamServer(watched)
    async with serving(streams, health=True) as channel, RemoteSource(channel).stream() as stream:
        await take(stream, 1)
        # Generated code has no types.
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def status(service: str) -> int:
            response = await health.Check(health_pb2.HealthCheckRequest(service=service))
            return int(response.status)

        for service in ("", "reflexpb.Reflex", "reflexaio.v1.ReflexPages"):
            assert await status(service) == SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service="reflexpb.Reflex"))
        assert (await watch.read()).status == SERVING
        closing = on_close(watched, lambda: status(""))
        await streams.stop()
        assert await closing == NOT_SERVING
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


def on_close(watched: Watched, then: Callable[[], Awaitable[int]]) -> "asyncio.Future[int]":
    """Return the result of ``then``, called while a stream of ``watched`` is closed."""
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def closing() -> None:
        seen.set_result(await then())

    watched.closing = closing
    return seen


async def test_reflection_describes_the_services() -> None:
    server = grpc.aio.server()
    StreamServer(MemoryEvents()).add_to(server, reflection=True)
    async with started(server) as target:

        def describe() -> tuple[set[str], set[str]]:
            with grpc.insecure_channel(target) as blocking:
                database = ProtoReflectionDescriptorDatabase(blocking)
                file: Any = database.FindFileContainingSymbol("reflexpb.Reflex")
                return set(database.get_services()), {message.name for message in file.message_type}

        services, messages = await asyncio.to_thread(describe)
    assert {"reflexpb.Reflex", "reflexaio.v1.ReflexPages"} <= services
    assert {"Event", "StreamRequest"} <= messages


async def test_without_a_stop_the_servers_own_stop_closes_the_streams(pages: bool) -> None:
    watched = Watched(await some_events(1))
    server = grpc.aio.server()
    StreamServer(watched).add_to(server)
    async with (
        started(server) as target,
        grpc.aio.insecure_channel(target) as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        await take(stream, 1)
        await server.stop(None)
        await eventually(lambda: watched.open == 0, "the stream to be closed")
        with pytest.raises((StreamStopped, ConnectionLost)):
            await anext(stream)
