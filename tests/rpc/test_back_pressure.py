"""Back pressure: a source is not read faster than its client reads."""

import gc
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from reflex_aio import Event, EventStream
from reflex_aio.rpc import RemoteSource, StreamServer
from tests.rpc.serving import ids, serving, take
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

# The size of each event, in bytes.
SIZE = 10_000
# Far more than the buffers of both ends and of the network in between.
EVENTS = 50_000


class Endless:
    """A source that creates events when they are read, in pages of ten."""

    def __init__(self) -> None:
        self.made = 0

    def stream(self, after: str = "", **options: Any) -> EventStream:
        return _EndlessStream(self, int(after or 0))

    async def head(self) -> str:
        raise NotImplementedError


class _EndlessStream(EventStream):
    def __init__(self, source: Endless, position: int) -> None:
        super().__init__(str(position))
        self._source = source
        self._position = position

    async def _open(self) -> str:
        return str(self._position)

    async def _read(self) -> Sequence[Event]:
        assert self._position < EVENTS, "the server reads on and on"
        first = self._position + 1
        self._position += 10
        self._source.made += 10
        return [Event(str(i), 1, "1", i, bytes(SIZE)) for i in range(first, first + 10)]

    async def _close(self) -> None:
        pass


@pytest.fixture(params=[True, False], ids=["pages", "single"])
def pages(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_slow_client_slows_down_the_source(pages: bool) -> None:
    source = Endless()
    async with (
        serving(StreamServer(source)) as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        assert ids(await take(stream, 1)) == [1]
        made = await at_rest(source)
        # Events in flight: gRPC widens its windows to some megabytes.
        assert made * SIZE < 100_000_000
        received = await take(stream, made)
        assert ids(received) == list(range(2, made + 2))
        assert await at_rest(source) > made


async def at_rest(source: Endless) -> int:
    """Return the number of created events, once it stays the same."""
    seen: list[int] = []

    def rests() -> bool:
        seen.append(source.made)
        return len(seen) > 30 and len(set(seen[-30:])) == 1

    await eventually(rests, "the server to rest")
    return source.made


async def test_a_closed_stream_leaves_no_call_behind(pages: bool) -> None:
    async with serving(StreamServer(Endless())) as channel:
        source = RemoteSource(channel, pages=pages)
        for _ in range(5):
            async with source.stream() as stream:
                await take(stream, 1)
        del stream
        gc.collect()
        calls = [thing for thing in gc.get_objects() if isinstance(thing, grpc.aio.UnaryStreamCall)]
        assert [call for call in calls if not call.done()] == []
