"""A network that neither answers nor closes is noticed within a limit, whatever is under way, and recovered from."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from reflex_aio import Backoff, ConnectionLost, Consumer, Event, Runner, Spec, is_expected
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.rpc import (
    RemoteSource,
    StreamServer,
    channel_options,
    remote_source,
    server_options,
    streaming_call,
)
from tests.fix_proxy import Proxy
from tests.rpc.serving import Watched, ids, some_events, started, take
from tests.rpc.test_back_pressure import Endless
from tests.rpc.test_errors import quick
from tests.waiting import deadline, eventually

pytestmark = pytest.mark.asyncio

# Guards against hanging. The limits of the tests are below a second; those of users are 30 to 40 seconds.
HANGING = 10.0


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming_call, "HEARTBEAT", 0.05)
    monkeypatch.setattr(remote_source, "_RESPONSE_TIMEOUT", 0.3)


@asynccontextmanager
async def through_a_proxy(
    source: Any, options: list[tuple[str, int]] | None = None, **named: Any
) -> AsyncIterator[tuple[Proxy, grpc.aio.Channel]]:
    server = grpc.aio.server(options=server_options())
    streams = StreamServer(source, **named)
    streams.add_to(server)
    async with (
        started(server) as target,
        Proxy(f"tcp://nobody@{target}/") as proxy,
        grpc.aio.insecure_channel(
            f"127.0.0.1:{proxy.port}", channel_options() if options is None else options
        ) as channel,
    ):
        yield proxy, channel


async def lost(operation: Awaitable[Any]) -> str:
    """Return the message of the ConnectionLost that ends ``operation``."""
    with pytest.raises(ConnectionLost) as raised:
        async with asyncio.timeout(deadline(HANGING)):
            await operation
    assert is_expected(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "connecting"])
async def test_opening_a_stream_and_asking_for_the_head_are_limited(connected: bool) -> None:
    events = await some_events(3)
    async with through_a_proxy({"users": events}) as (proxy, channel):
        if connected:
            assert await RemoteSource(channel).head() == "3"
        proxy.stall()
        unanswered = "the server has not responded within 0.3 s"
        assert await lost(RemoteSource(channel).head()) == unanswered
        for pages in (True, False):
            # Of a server without pages, a stream without a name may be silent for good reasons.
            stream = RemoteSource(channel, "users", pages=pages).stream()
            assert await lost(stream.__aenter__()) == unanswered
            await stream.aclose()
        proxy.resume()
        async with RemoteSource(channel).stream() as stream, asyncio.timeout(deadline(HANGING)):
            assert ids(await take(stream, 3)) == [1, 2, 3]


async def test_metadata_that_take_too_long_are_limited() -> None:
    async def metadata() -> list[tuple[str, str]]:
        await asyncio.Event().wait()
        raise AssertionError

    async with through_a_proxy(MemoryEvents()) as (_, channel):
        source = RemoteSource(channel, metadata=metadata)
        assert "not responded" in await lost(source.head())
        stream = source.stream()
        assert "not responded" in await lost(stream.__aenter__())
        await stream.aclose()


async def idle(stream: Any) -> int:
    return len(await take(stream, 3))


async def busy(stream: Any) -> int:
    return len(await take(stream, 50))


@pytest.mark.parametrize("make", [idle, busy])
async def test_a_stream_is_lost_at_both_ends_and_continues_without_a_gap(
    make: Callable[[Any], Awaitable[int]],
) -> None:
    events = await some_events(3)
    watched = Watched(events if make is idle else Endless())
    async with through_a_proxy(watched) as (proxy, channel), RemoteSource(channel).stream() as stream:
        count = await make(stream)
        proxy.stall()
        received: list[Event] = []

        async def read_on() -> None:
            async for event in stream:
                received.append(event)

        # What has arrived is delivered first.
        assert await lost(read_on()) == "the server has sent nothing for three heartbeats"
        await eventually(lambda: watched.open == 0, "the server to notice")
        await events.insert(4, 1)
        proxy.resume()
        async with asyncio.timeout(deadline(HANGING)):
            received += await take(stream, 1)
        assert ids(received) == list(range(count + 1, count + 1 + len(received)))


async def test_a_stream_of_single_events_is_lost_by_keepalive() -> None:
    events = await some_events(1)
    options = quick(channel_options(keepalive_timeout=0.5))
    async with (
        through_a_proxy(events, options) as (proxy, channel),
        RemoteSource(channel, pages=False).stream() as stream,
    ):
        await take(stream, 1)
        proxy.stall()
        assert "ping timeout" in await lost(anext(stream))
        await events.insert(2, 1)
        proxy.resume()

        async def is_next() -> bool:
            try:
                return ids(await take(stream, 1)) == [2]
            except ConnectionLost:
                return False

        await eventually(is_next, "the channel to reconnect")


@pytest.mark.parametrize("pages", [True, False], ids=["pages", "single"])
async def test_closing_waits_for_nobody(pages: bool) -> None:
    async with through_a_proxy(await some_events(1)) as (proxy, channel):
        stream = RemoteSource(channel, pages=pages).stream()
        await take(stream, 1)
        proxy.stall()
        async with asyncio.timeout(deadline(HANGING)):
            await stream.aclose()
            await channel.close()


async def test_a_consumer_is_not_ready_while_its_connection_is_stranded_and_moves_to_a_new_one() -> None:
    events = await some_events(3)
    consumed: list[Event] = []

    async def consume(event: Event) -> None:
        consumed.append(event)

    # A channel to servers of this package may ping often. With the default it takes up to 340 seconds.
    options = quick(channel_options(keepalive_timeout=0.5))
    async with through_a_proxy(events, options) as (proxy, channel):
        spec = Spec(RemoteSource(channel), MemoryCursorStore(), Consumer("c", consume))
        async with Runner([spec], backoff=Backoff(initial=0.01, maximum=0.1)) as runner:
            await eventually(lambda: runner.ready and len(consumed) == 3, "the first events")
            proxy.strand()
            await events.insert(4, 1)
            await eventually(lambda: not runner.ready, "the client to notice")
            await eventually(lambda: runner.ready and len(consumed) == 4, "a new connection")
    assert ids(consumed) == [1, 2, 3, 4]
