"""Each end of a stream of pages detects that the event loop of the other one stands still."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import pytest

from reflex_aio import Backoff, ConnectionLost, Consumer, Event, Runner, Spec, is_expected, pb
from reflex_aio.memory import MemoryCursorStore, MemoryEvents
from reflex_aio.rpc import RemoteSource, StreamServer, remote_source, server_options, streaming_call
from reflex_aio.rpc.protocol import HEARTBEAT_KEY, PAGES_METHOD
from reflex_aio.rpc.streaming_call import PeerWatch
from tests.fix_processes import Child, Spawn
from tests.rpc.malicious import Answer, MaliciousServer, message_of, metadata_of
from tests.rpc.serving import Watched, ids, serving, some_events, started, take
from tests.rpc.test_back_pressure import Endless
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

# Seconds, in place of ten.
SHORT = 0.05


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends send heartbeats often, and the client waits half a second for responses."""
    monkeypatch.setattr(streaming_call, "HEARTBEAT", SHORT)
    monkeypatch.setattr(remote_source, "_RESPONSE_TIMEOUT", 0.5)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[PeerWatch]:
    """Each message that an end has heard, by the watch that heard it."""
    heard: list[PeerWatch] = []
    hear = PeerWatch.hear

    def record(self: PeerWatch) -> None:
        heard.append(self)
        hear(self)

    monkeypatch.setattr(PeerWatch, "hear", record)
    return heard


async def test_heartbeats_and_limits_are_the_documented_ones() -> None:
    assert (streaming_call.HEARTBEAT, streaming_call._MISSED) == (10.0, 3)
    assert remote_source._RESPONSE_TIMEOUT == 30.0


async def test_an_idle_stream_lives_on_heartbeats(often: None, heard: list[PeerWatch]) -> None:
    events = await some_events(1)
    async with serving(StreamServer(events)) as channel, RemoteSource(channel).stream() as stream:
        await take(stream, 1)
        waiting = asyncio.create_task(take(stream, 1))
        # Of both ends, ten each, which is longer than either waits for one.
        await eventually(lambda: _counts(heard) and min(_counts(heard)) > 10, lambda: str(_counts(heard)))
        await events.insert(2, 1)
        assert ids(await waiting) == [2]


def _counts(heard: Sequence[PeerWatch]) -> list[int]:
    watches = set(heard)
    return [heard.count(watch) for watch in watches] if len(watches) == 2 else []


async def test_a_client_that_reads_nothing_is_not_lost(often: None, heard: list[PeerWatch]) -> None:
    source = Watched(Endless())
    async with serving(StreamServer(source)) as channel, RemoteSource(channel).stream() as stream:
        assert ids(await take(stream, 1)) == [1]
        await eventually(lambda: len(heard) > 30, "heartbeats of the client")
        assert source.open == 1
        assert ids(await take(stream, 2000)) == list(range(2, 2002))


async def test_a_server_that_goes_silent_is_lost() -> None:
    malicious = MaliciousServer()
    malicious.answer = Answer(
        message_of(["6"], pages=True), [*metadata_of(opaque=False), (HEARTBEAT_KEY, "20")], silent=True
    )
    async with malicious.serving() as channel, RemoteSource(channel).stream("5") as stream:
        assert ids(await take(stream, 1)) == [6]
        with pytest.raises(ConnectionLost, match="nothing for three heartbeats") as lost:
            await anext(stream)
        assert is_expected(lost.value)
        assert stream.cursor == "6"


async def test_a_server_without_heartbeats_is_not_lost_and_hears_none(often: None) -> None:
    malicious = MaliciousServer()
    malicious.answer = Answer(message_of(["6"], pages=True), metadata_of(opaque=False), silent=True)
    async with malicious.serving() as channel, RemoteSource(channel).stream("5") as stream:
        assert ids(await take(stream, 1)) == [6]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT * 10):
                await anext(stream)
        # The client has ended its requests.
        assert malicious.further == [grpc.aio.EOF]
    assert malicious.afters == ["5"]


async def test_a_client_without_heartbeats_is_sent_some_and_is_not_lost(often: None) -> None:
    watched = Watched(MemoryEvents())
    async with serving(StreamServer(watched)) as channel:
        # As a client does that knows the method with a single request.
        method: Any = channel.unary_stream(PAGES_METHOD)
        call = method(pb.StreamPagesRequest().SerializeToString())
        assert [await call.read() for _ in range(10)] == [b""] * 10
        assert watched.open == 1
        call.cancel()


async def test_a_client_that_goes_silent_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "reflex_aio")
    watched = Watched(MemoryEvents())
    async with serving(StreamServer(watched)) as channel:
        call: Any = channel.stream_stream(PAGES_METHOD)()
        await call.write(pb.StreamPagesRequest(heartbeat_ms=20).SerializeToString())
        await eventually(lambda: watched.open == 1, "the stream to be open")
        await eventually(lambda: watched.open == 0, "the server to notice")
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
    [record] = caplog.records
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert "the client has sent nothing for three heartbeats" in record.getMessage()


async def test_a_client_that_goes_silent_is_lost_in_the_midst_of_a_page(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched(Endless())
    async with serving(StreamServer(watched)) as channel:
        call: Any = channel.stream_stream(PAGES_METHOD)()
        await call.write(pb.StreamPagesRequest(heartbeat_ms=100).SerializeToString())
        await eventually(lambda: watched.open == 1, "the stream to be open")
        # It reads nothing, so that a write of the server blocks.
        await eventually(lambda: watched.open == 0, "the server to notice")
        # What has arrived comes before the status.
        with pytest.raises(grpc.aio.AioRpcError, match="three heartbeats"):
            await read_to_the_end(call)
    assert caplog.records == []


async def read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_an_end_that_stood_still_itself_does_not_blame_the_other(
    often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, clock = PeerWatch(), asyncio.get_running_loop().time
    waiting = asyncio.create_task(watch.wait_for_silence(SHORT))
    await asyncio.sleep(0)
    # The loop stands still for longer than the limit, and a message arrives meanwhile.
    ends = clock() + 4 * SHORT
    while clock() < ends:
        pass
    asyncio.get_running_loop().call_soon(watch.hear)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    await waiting


# In processes of their own, which may be starved for a while.

LONG = 0.1


class Standstill:
    """Two ways in which a child's event loop stands still. Its C core goes on answering pings in the first."""

    def __init__(self, child: Child) -> None:
        self._child = child

    async def begin(self, how: str) -> None:
        if how == "blocked":
            await self._child.write_line("block")
            assert await self._child.line() == "blocked"
        else:
            os.kill(self._child.pid, signal.SIGSTOP)

    async def end(self, how: str) -> None:
        if how == "blocked":
            await self._child.write_line("go on")
        else:
            os.kill(self._child.pid, signal.SIGCONT)


async def obey(commands: dict[str, Callable[[], Awaitable[object]]]) -> None:
    """Read commands, one in a line; ``block`` blocks the event loop until the next line."""
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "block":
            print("blocked", flush=True)
            sys.stdin.readline()
        else:
            await commands[line]()


async def serve() -> None:
    """Serve three events, and insert another one for each line ``insert``."""
    streaming_call.HEARTBEAT = LONG
    events = await some_events(3)
    server = grpc.aio.server(options=server_options())
    StreamServer(events).add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await obey({"insert": lambda: events.insert(4, 1)})


async def test_a_consumer_is_not_ready_while_the_servers_event_loop_stands_still(
    often: None, spawn: Spawn
) -> None:
    consumed: list[Event] = []

    async def consume(event: Event) -> None:
        consumed.append(event)

    child = await spawn(serve)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await child.line()}") as channel:
        spec = Spec(RemoteSource(channel), MemoryCursorStore(), Consumer("c", consume))
        async with Runner([spec], backoff=Backoff(initial=0.01, maximum=0.1)) as runner:

            def error() -> str:
                return runner.statuses()["c"].error

            for expected, how in enumerate(["blocked", "stopped"], start=3):
                await eventually(lambda: runner.ready and len(consumed) == expected, "the events so far")  # noqa: B023
                await Standstill(child).begin(how)
                await eventually(lambda: not runner.ready, "the client to notice")
                assert error() == "ConnectionLost: the server has sent nothing for three heartbeats"
                # Nor is it while it tries to reconnect.
                await eventually(lambda: "has not responded" in error(), "another try")
                assert {runner.ready} == {False}
                await Standstill(child).end(how)
                await child.write_line("insert")
            await eventually(lambda: runner.ready and len(consumed) == 5, "the last event")
    assert ids(consumed) == [1, 2, 3, 4, 5]


async def consume(target: str) -> None:
    """Print the ids of three events, and for each line ``next`` what is read then."""
    streaming_call.HEARTBEAT = LONG
    async with grpc.aio.insecure_channel(target) as channel, RemoteSource(channel).stream() as stream:
        print(ids(await take(stream, 3)), flush=True)

        async def print_next() -> None:
            try:
                print((await anext(stream)).id, flush=True)
            except ConnectionLost as exc:
                print(type(exc).__name__, flush=True)

        await obey({"next": print_next})


async def test_a_server_closes_the_stream_of_a_client_whose_event_loop_stands_still(spawn: Spawn) -> None:
    events = await some_events(3)
    watched = Watched(events)
    server = grpc.aio.server(options=server_options())
    StreamServer(watched).add_to(server)
    async with started(server) as target:
        child = await spawn(consume, target)
        assert await child.line() == "[1, 2, 3]"
        for event_id, how in (("4", "blocked"), ("5", "stopped")):
            assert watched.open == 1
            await Standstill(child).begin(how)
            await eventually(lambda: watched.open == 0, "the server to notice")
            await Standstill(child).end(how)
            await events.insert(4, 1)
            await child.write_line("next")
            assert await child.line() == "ConnectionLost"
            await child.write_line("next")
            assert await child.line() == event_id
        await child.write_line("")
        assert await child.wait() == 0
