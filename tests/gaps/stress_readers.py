"""Readers that note when each event came, here or in processes of their own."""

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import asyncpg
import grpc

from reflex_aio import ReflexError, Source, is_expected
from reflex_aio.rpc import RemoteSource, StreamServer, channel_options, server_options
from tests.gaps.stress_writers import events
from tests.waiting import eventually


class Notes:
    """The ids that a reader was given, and when, on the system's monotonic clock."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.times: list[float] = []

    async def read(self, source: Source) -> None:
        """Read the source in one run, from its beginning."""
        async with source.stream() as stream:
            async for event in stream:
                self._note(int(event.id))

    async def read_over_restarts(self, source: Source) -> None:
        """Read the source in as few runs as its server lets it."""
        while True:
            try:
                async with source.stream(self._cursor) as stream:
                    async for event in stream:
                        self._note(int(event.id))
            except ReflexError as exc:
                await self._pause_if_expected(exc)

    async def read_in_runs(self, source: Source, chance: random.Random) -> None:
        """Read the source in many runs, each from where the last one ended."""
        while True:
            try:
                async with (
                    asyncio.timeout(chance.random()),
                    source.stream(self._cursor) as stream,
                ):
                    async for event in stream:
                        self._note(int(event.id))
            except TimeoutError:
                pass
            except ReflexError as exc:
                await self._pause_if_expected(exc)

    @property
    def _cursor(self) -> str:
        return str(self.ids[-1]) if self.ids else ""

    async def _pause_if_expected(self, error: ReflexError) -> None:
        if not is_expected(error):
            raise error
        # The server is away.
        await asyncio.sleep(0.05)

    def _note(self, event_id: int) -> None:
        self.ids.append(event_id)
        self.times.append(time.monotonic())


async def rest(notes: Iterable[Notes], last: int, *, within: float) -> None:
    """Return when all have come to the event ``last``, or their time is over: missed events are reported later."""
    notes = list(notes)
    with suppress(AssertionError):
        await eventually(lambda: all(each.ids[-1:] >= [last] for each in notes), within=within)


async def serve(dsn: str) -> None:
    """Serve the events until a line comes in."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool:
        server = grpc.aio.server(options=server_options())
        streams = StreamServer(events.source(pool))
        streams.add_to(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await streams.stop()
        await server.stop(1.0)


async def consume(target: str, result: str) -> None:
    """Consume what is served, twice at once, until a line contains the last id; then store the events."""
    notes = [Notes(), Notes()]
    async with grpc.aio.insecure_channel(target, channel_options()) as channel, asyncio.TaskGroup() as tasks:
        reading = [
            tasks.create_task(note.read(RemoteSource(channel, pages=pages)))
            for note, pages in zip(notes, (True, False), strict=True)
        ]
        print("ready", flush=True)
        last, seconds = json.loads(await asyncio.to_thread(sys.stdin.readline))
        await rest(notes, last, within=seconds)
        for task in reading:
            task.cancel()
    Path(result).write_text(json.dumps([(note.ids, note.times) for note in notes]))
    print("consumed", flush=True)
