"""A remote source yields the events of the served source, in pages and one by one."""

import asyncio

import grpc
import pytest

from reflex_aio import Consumer, Event, InvalidCursor, Spec, run
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.rpc import RemoteSource, StreamServer
from tests.rpc.serving import Watched, ids, serving, some_events, take
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=[True, False], ids=["pages", "single"])
def pages(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_every_event_arrives_as_it_was_and_in_order(pages: bool) -> None:
    events = MemoryEvents()
    for i in range(2500):
        await events.insert(f"row-{i}", i - 1000, metadata=b"\x00%d" % i, trace=b"t" if i % 2 else None)
    async with (
        serving(StreamServer(events)) as channel,
        RemoteSource(channel, pages=pages).stream(to_head=True) as remote,
    ):
        received = [event async for event in remote]
    async with events.stream(to_head=True) as local:
        assert received == [event async for event in local]


async def test_absent_metadata_differ_from_empty_metadata_in_pages() -> None:
    values = [None, b"", b"m", None]
    events = MemoryEvents()
    for value in values:
        await events.insert(1, 1, metadata=value, trace=value)
    async with serving(StreamServer(events)) as channel, RemoteSource(channel).stream(to_head=True) as stream:
        received = await stream.read_page()
    assert [event.metadata for event in received] == values
    assert [event.trace for event in received] == values


async def test_an_event_arrives_without_waiting_for_a_page_to_fill(pages: bool) -> None:
    events = MemoryEvents()
    async with (
        serving(StreamServer(events)) as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        for i in range(1, 20):
            await events.insert(i, 1)
            assert (await anext(stream)).id == str(i)


async def test_a_stream_begins_after_its_cursor(pages: bool) -> None:
    async with (
        serving(StreamServer(await some_events(10))) as channel,
        RemoteSource(channel, pages=pages).stream("7", to_head=True) as stream,
    ):
        assert stream.cursor == "7"
        assert ids([event async for event in stream]) == [8, 9, 10]


async def test_from_head_is_resolved_when_the_stream_is_opened(pages: bool) -> None:
    events = await some_events(3)
    async with (
        serving(StreamServer(events)) as channel,
        RemoteSource(channel, pages=pages).stream(from_head=True) as stream,
    ):
        assert stream.cursor == "3"
        await events.insert(4, 1)
        assert ids(await take(stream, 1)) == [4]


async def test_to_head_ends_at_the_head_and_stays_ended(pages: bool) -> None:
    async with (
        serving(StreamServer(await some_events(2))) as channel,
        RemoteSource(channel, pages=pages).stream(to_head=True) as stream,
    ):
        assert ids([event async for event in stream]) == [1, 2]
        assert not await stream.read_page()
        assert await anext(stream, None) is None


async def test_to_head_of_no_events_is_empty(pages: bool) -> None:
    async with (
        serving(StreamServer(MemoryEvents())) as channel,
        RemoteSource(channel, pages=pages).stream(to_head=True) as stream,
    ):
        assert stream.cursor == ""
        assert [event async for event in stream] == []


async def test_lag_is_kept_by_the_server(pages: bool) -> None:
    now = 1000.0
    events = MemoryEvents(clock=lambda: now)
    await events.insert(1, 1)
    now = 1005.5
    await events.insert(2, 1)
    async with serving(StreamServer(events)) as channel:
        source = RemoteSource(channel, pages=pages)
        async with source.stream(to_head=True, lag=5.5) as stream:
            assert ids([event async for event in stream]) == [1]
        async with source.stream(to_head=True, lag=5.6) as stream:
            assert ids([event async for event in stream]) == []


async def test_streams_are_selected_by_name(pages: bool) -> None:
    streams = StreamServer({"users": await some_events(1), "payments": await some_events(2)}, default="users")
    async with serving(streams) as channel:
        for name, head in (("users", "1"), ("payments", "2"), (None, "1")):
            source = RemoteSource(channel, name, pages=pages)
            assert await source.head() == head
            async with source.stream(from_head=True) as stream:
                assert stream.cursor == head


async def test_a_cancelled_read_loses_nothing(pages: bool) -> None:
    events = await some_events(3)
    watched = Watched(events)
    async with (
        serving(StreamServer(watched)) as channel,
        RemoteSource(channel, pages=pages).stream() as stream,
    ):
        received = await take(stream, 3)
        for i in range(4, 24):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await anext(stream)
            await events.insert(i, 1)
            received += await take(stream, 1)
        assert ids(received) == list(range(1, 24))
        assert watched.open == 1


async def test_from_head_survives_a_cancelled_read(pages: bool) -> None:
    events = await some_events(3)
    async with (
        serving(StreamServer(events)) as channel,
        RemoteSource(channel, pages=pages).stream(from_head=True) as stream,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(stream)
        await events.insert(4, 1)
        await events.insert(5, 1)
        assert ids(await take(stream, 2)) == [4, 5]


async def test_closing_a_stream_ends_the_one_in_the_server(pages: bool) -> None:
    watched = Watched(await some_events(3))
    async with serving(StreamServer(watched)) as channel:
        async with RemoteSource(channel, pages=pages).stream() as stream:
            await take(stream, 1)
            assert watched.open == 1
        await eventually(lambda: watched.open == 0, "the server's stream to be closed")


async def test_many_streams_share_a_channel(pages: bool) -> None:
    events = await some_events(100)
    async with serving(StreamServer(events)) as channel:
        source = RemoteSource(channel, pages=pages)

        async def read(after: int) -> list[Event]:
            async with source.stream(str(after)) as stream:
                return await take(stream, 150 - after)

        reads = [asyncio.create_task(read(after)) for after in range(50)]
        for i in range(50):
            await events.insert(i, 1)
        for after, received in enumerate(await asyncio.gather(*reads)):
            assert ids(received) == list(range(after + 1, 151))


async def test_a_remote_source_runs_in_a_spec_like_a_table(pages: bool) -> None:
    consumed: list[Event] = []

    async def consume(event: Event) -> None:
        consumed.append(event)

    store = MemoryCursorStore()
    async with serving(StreamServer({"users": await some_events(1200)})) as channel:
        source = RemoteSource(channel, "users", pages=pages)
        await run(Spec(source, store, Consumer("test", consume), to_head=True))
    assert ids(consumed) == list(range(1, 1201))
    assert await store.get("test") == "1200"


async def test_a_remote_source_can_be_served_in_turn(pages: bool) -> None:
    events = await some_events(3)
    async with (
        serving(StreamServer(events)) as first,
        serving(StreamServer(RemoteSource(first, pages=pages))) as second,
    ):
        source = RemoteSource(second, pages=pages)
        async with source.stream("1", to_head=True) as stream:
            assert ids([event async for event in stream]) == [2, 3]
        async with source.stream(from_head=True) as stream:
            assert stream.cursor == await source.head() == "3"
            await events.insert(4, 1)
            assert ids(await take(stream, 1)) == [4]


async def test_a_cancelled_open_leaves_nothing_behind(pages: bool) -> None:
    watched = Watched(MemoryEvents())
    watched.opening = asyncio.Event().wait
    async with serving(StreamServer(watched)) as channel:
        stream = RemoteSource(channel, pages=pages).stream(from_head=True)
        opening = asyncio.create_task(stream.__aenter__())
        await eventually(lambda: watched.open == 1, "the server to begin")
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await eventually(lambda: watched.open == 0, "the server's stream to be closed")


async def test_head_is_that_of_the_source() -> None:
    events = MemoryEvents()
    async with serving(StreamServer(events)) as channel:
        source = RemoteSource(channel)
        assert await source.head() == ""
        await events.insert(1, 1)
        assert await source.head() == "1"


async def test_wrong_arguments_are_refused_at_once() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        source = RemoteSource(channel)
        with pytest.raises(ValueError, match="lag -1"):
            source.stream(lag=-1)
        with pytest.raises(TypeError, match="after 7 is a int"):
            source.stream(7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="stream name 'ü'"):
            RemoteSource(channel, "ü")
        with pytest.raises(ValueError, match="method 'Stream'"):
            RemoteSource(channel, method="Stream")
        with pytest.raises(TypeError, match="accepted is a grpc"):
            RemoteSource("127.0.0.1:1")  # type: ignore[arg-type]
    with (
        grpc.insecure_channel("127.0.0.1:1") as blocking,
        pytest.raises(TypeError, match="accepted is a grpc"),
    ):
        RemoteSource(blocking)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="accepted is a Source"):
        StreamServer({"users": 7})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="none of the sources"):
        StreamServer({"users": MemoryEvents()}, default="payments")
    with pytest.raises(ValueError, match="no sources"):
        StreamServer({})


async def test_an_invalid_cursor_is_refused(pages: bool) -> None:
    async with serving(StreamServer(MemoryEvents())) as channel:
        with pytest.raises(InvalidCursor) as refused:
            async with RemoteSource(channel, pages=pages).stream("x-7") as stream:
                await anext(stream)
        assert refused.value.cursor == "x-7"
