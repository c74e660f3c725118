"""Sent messages arrive before the end of the call, however early that is."""

from collections.abc import Sequence
from typing import Any

import pytest

from reflex_aio import Event, EventStream, RemoteError
from reflex_aio.rpc import RemoteSource, StreamServer
from tests.rpc.serving import ids, serving, take

pytestmark = pytest.mark.asyncio


class Hasty:
    """A source whose stream ends or fails immediately after its last event."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.pages = [[Event(str(i), 1, "1", i)] for i in range(1, 6)]
        self.failure = failure

    def stream(self, after: str = "", **options: Any) -> EventStream:
        return _HastyStream(self)

    async def head(self) -> str:
        raise NotImplementedError


class _HastyStream(EventStream):
    def __init__(self, source: Hasty) -> None:
        super().__init__("")
        self._source = source

    async def _open(self) -> str:
        return ""

    async def _read(self) -> Sequence[Event]:
        if self._source.pages:
            return self._source.pages.pop(0)
        if self._source.failure is not None:
            raise self._source.failure
        return ()

    async def _close(self) -> None:
        pass


async def test_a_stream_that_ends_at_once_has_all_its_events() -> None:
    async with (
        serving(StreamServer(Hasty())) as channel,
        RemoteSource(channel).stream(to_head=True) as stream,
    ):
        assert [int(event.id) async for event in stream] == [1, 2, 3, 4, 5]


async def test_the_events_before_an_error_arrive() -> None:
    async with (
        serving(StreamServer(Hasty(RuntimeError("later")))) as channel,
        RemoteSource(channel).stream() as stream,
    ):
        assert ids(await take(stream, 5)) == [1, 2, 3, 4, 5]
        with pytest.raises(RemoteError):
            await anext(stream)
