"""Reading streams in the background, and telling a stream that waits from one that hasn't looked yet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from reflex_aio import Event, EventStream
from tests.waiting import deadline, eventually

# How the statements begin, or what they contain, that a stream runs while it waits.
PAGE = ") AS page"
SCAN = "WITH RECURSIVE family"
IN_RECOVERY = "SELECT pg_is_in_recovery()"
REPLAYED = "pg_last_wal_replay_lsn"


class Reading:
    """What a stream has handed out so far, read by a task of its own."""

    def __init__(self, stream: EventStream) -> None:
        self.stream = stream
        self.events: list[Event] = []
        self.task = asyncio.create_task(self._read(), name="reading")

    @property
    def ids(self) -> list[int]:
        return [int(event.id) for event in self.events]

    async def _read(self) -> None:
        while page := await self.stream.read_page():
            self.events += page

    async def reached(self, id: int, *, within: float = 10.0) -> list[int]:
        """Return the ids handed out when ``id``, or one after it, is among them.

        :raises Exception: what the stream raises before
        """

        def there() -> bool:
            return self.task.done() or (bool(self.events) and self.ids[-1] >= id)

        await eventually(there, lambda: f"event {id} read, after {self.ids[-3:]}", within=within)
        if self.ids[-1:] < [id]:
            self.task.result()
            raise AssertionError(f"the stream ended before event {id}, after {self.ids[-3:]}")
        return self.ids

    async def failure(self, *, within: float = 15.0) -> BaseException:
        """Return what the stream raises."""
        done, _ = await asyncio.wait([self.task], timeout=deadline(within))
        assert done, f"the stream raised nothing, and stands at {self.ids[-3:]}"
        error = self.task.exception()
        assert error is not None, "the stream ended without an error"
        return error


@asynccontextmanager
async def reading(stream: EventStream) -> AsyncIterator[Reading]:
    """Open ``stream`` and read it in the background."""
    async with stream:
        reading = Reading(stream)
        try:
            yield reading
        finally:
            reading.task.cancel()
            await asyncio.wait([reading.task])


async def ran(watcher: asyncpg.Connection | PoolConnectionProxy, statement: str, *, times: int = 3) -> None:
    """Return when statements that contain ``statement`` have ended ``times`` more in the watcher's database."""
    seen: set[tuple[int, object]] = set()

    async def enough() -> bool:
        rows = await watcher.fetch(
            "SELECT pid, query_start FROM pg_stat_activity"
            " WHERE position($1 IN query) > 0 AND pid <> pg_backend_pid() AND datname = current_database()",
            statement,
        )
        seen.update((row[0], row[1]) for row in rows)
        # The first may be an old one, and the last still under way.
        return len(seen) >= times + 2

    await eventually(enough, f"{times} statements with {statement!r} ended", every=0.002)
