"""A user's own service, with its own build of the messages, streams and is consumed like ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from reflex_aio import Consumer, Event, InvalidCursor, RemoteError, Source, Spec, StreamStopped, run
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.rpc import RemoteSource, StreamServer
from tests.pb import users_build
from tests.rpc.serving import Watched, ids, some_events, started, take
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

Context = grpc.aio.ServicerContext[Any, Any]


class Users:
    """A user's servicer, for generated methods."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.streams = StreamServer(MemoryEvents())

    async def StreamUsers(self, request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: N802
        async for message in self.streams.serve(request, context, self.source):
            assert type(message) is users_build.Event
            yield message


class UsersStub:
    """A stub like a generated one."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.StreamUsers = channel.unary_stream(
            users_build.METHOD,
            request_serializer=users_build.StreamRequest.SerializeToString,
            response_deserializer=users_build.Event.FromString,
        )


@asynccontextmanager
async def serving_users(users: Users) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    method = grpc.unary_stream_rpc_method_handler(
        users.StreamUsers,
        request_deserializer=users_build.StreamRequest.FromString,
        response_serializer=users_build.Event.SerializeToString,
    )
    service, name = users_build.METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: method}),))
    # Our service on the same server streams something else: pages must not be requested for a user's own method.
    users.streams.add_to(server)
    async with started(server) as target, grpc.aio.insecure_channel(target) as channel:
        yield channel


def source_of(channel: grpc.aio.Channel, how: str) -> RemoteSource:
    if how == "stub":
        return RemoteSource(UsersStub(channel).StreamUsers, request=users_build.StreamRequest)
    return RemoteSource(channel, method=users_build.METHOD)


@pytest.fixture(params=["stub", "method"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_it_streams_like_ours(how: str) -> None:
    events = await some_events(3, metadata=b"m", trace=b"t")
    async with serving_users(Users(events)) as channel:
        source = source_of(channel, how)
        async with source.stream(to_head=True) as remote, events.stream(to_head=True) as local:
            assert [event async for event in remote] == [event async for event in local]
        async with source.stream(from_head=True) as remote:
            assert remote.cursor == "3"
            await events.insert(4, 1)
            assert ids(await take(remote, 1)) == [4]
        async with source.stream("3", lag=3600) as remote:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(remote)


async def test_it_is_consumed_like_ours(how: str) -> None:
    consumed: list[Event] = []

    async def consume(event: Event) -> None:
        consumed.append(event)

    async with serving_users(Users(await some_events(50))) as channel:
        await run(Spec(source_of(channel, how), MemoryCursorStore(), Consumer("c", consume), to_head=True))
    assert ids(consumed) == list(range(1, 51))


async def test_its_errors_are_ours(how: str) -> None:
    users = Users(await some_events(3))
    async with serving_users(users) as channel:
        source = source_of(channel, how)
        async with source.stream("x") as stream:
            with pytest.raises(InvalidCursor):
                await anext(stream)
        async with source.stream() as stream:
            await take(stream, 3)
            await users.streams.stop()
            with pytest.raises(StreamStopped):
                await anext(stream)
        with pytest.raises(RemoteError, match="no method that returns the head"):
            await source.head()


async def test_a_client_that_leaves_closes_the_source_stream(how: str) -> None:
    watched = Watched(await some_events(3))
    async with serving_users(Users(watched)) as channel:
        async with source_of(channel, how).stream() as stream:
            await take(stream, 3)
            assert watched.open == 1
        await eventually(lambda: watched.open == 0, "the server's stream to be closed")


async def test_a_client_that_leaves_during_a_write_closes_the_source_stream(how: str) -> None:
    events = MemoryEvents()
    for _ in range(100):
        await events.insert(1, 1, metadata=bytes(1 << 20))
    watched = Watched(events)
    async with serving_users(Users(watched)) as channel:
        async with source_of(channel, how).stream() as stream:
            # It stops reading, so that a write of the server soon blocks.
            await take(stream, 1)
        await eventually(lambda: watched.open == 0, "the server's stream to be closed")
