"""Tools that stop writers and readers at exact points, and report what a stream did wrong."""

from __future__ import annotations  # asyncpg.Connection takes a parameter in its stubs only

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import asyncpg

from reflex_aio import EventStream, ReflexError, is_expected
from tests.fix_databases import Connect
from tests.reading import PAGE, Reading
from tests.waiting import eventually

INSERT = "INSERT INTO events (foreign_id, type) VALUES ($1, 1) RETURNING id"

# The advisory lock that `hold_here()` takes, and Hold keeps from it.
_HOLD = 4711

# A writer whose event has the foreign id "held" waits in this trigger, where its id is drawn and no row is there.
HOLD_HERE = f"""
CREATE FUNCTION hold_here() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.foreign_id = 'held' THEN
        PERFORM pg_advisory_xact_lock_shared({_HOLD});
    END IF;
    RETURN NEW;
END $$
"""


async def begin(connect: Connect, **arguments: Any) -> asyncpg.Connection:
    """Return a new connection in a transaction."""
    connection = await connect(**arguments)
    await connection.execute("BEGIN")
    return connection


async def insert(connection: asyncpg.Connection, foreign_id: str = "1") -> int:
    """Insert an event and return its id."""
    event_id: int = await connection.fetchval(INSERT, foreign_id)
    return event_id


async def burn(connection: asyncpg.Connection, count: int = 1) -> list[int]:
    """Draw ids that will never be there, in transactions of their own that are rolled back."""
    burnt = []
    for _ in range(count):
        await connection.execute("BEGIN")
        burnt.append(await insert(connection, "rolled back"))
        await connection.execute("ROLLBACK")
    return burnt


class Hold:
    """Blocks the SQL statements that reach it, until it is released."""

    sql = f"pg_advisory_xact_lock_shared({_HOLD})"

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def reached_by(self, connection: asyncpg.Connection) -> None:
        """Return once ``connection``, on which a statement is under way, waits here."""
        await waits(self._connection, connection)

    async def let_go(self) -> None:
        await self._connection.execute("SELECT pg_advisory_unlock($1)", _HOLD)


@asynccontextmanager
async def holding(connect: Connect) -> AsyncIterator[Hold]:
    """Hold those who take ``Hold.sql`` or run into the trigger ``hold_here``."""
    connection = await connect()
    await connection.execute("SELECT pg_advisory_lock($1)", _HOLD)
    yield Hold(connection)
    await connection.execute("SELECT pg_advisory_unlock_all()")


async def waits(observer: asyncpg.Connection, connection: asyncpg.Connection) -> None:
    """Return once the statement under way on ``connection`` waits for a lock."""
    pid = connection.get_server_pid()

    async def blocked() -> object:
        return await observer.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid)

    await eventually(blocked, "the statement waits for a lock")


class Points:
    """Where the statements of a pool's connections are counted, and can be held."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.statements: list[str] = []
        self._held: dict[str, HeldStatement] = {}

    @asynccontextmanager
    async def held_after(self, kind: str) -> AsyncIterator[HeldStatement]:
        """Hold the next statement of a kind once the server has answered it, before the reader has the answer."""
        held = self._held[kind] = HeldStatement(kind)
        try:
            yield held
        finally:
            self._held.pop(kind, None)
            held.let_go()

    async def passed(self, sql: str) -> None:
        kind = _kind(sql)
        self.done[kind] += 1
        self.statements.append(sql)
        held = self._held.pop(kind, None)
        if held is not None:
            await held.wait()

    async def more(self, kind: str, count: int = 3) -> None:
        """Return once ``count`` more statements of a kind have been run."""
        enough = self.done[kind] + count
        await eventually(
            lambda: self.done[kind] >= enough, lambda: f"{count} more of {kind!r} beside {self.done}"
        )


class HeldStatement:
    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._reached, self._go = asyncio.Event(), asyncio.Event()

    async def reached(self) -> None:
        """Return once the statement is held."""
        await eventually(self._reached.is_set, f"a {self._kind} held")

    def let_go(self) -> None:
        self._go.set()

    async def wait(self) -> None:
        self._reached.set()
        await self._go.wait()


def _kind(sql: str) -> str:
    if "RECURSIVE" in sql:
        return "scan" if "pg_locks" in sql else "description"
    if "hashtextextended" in sql:
        return "checked page"
    if PAGE in sql:
        return "page"
    return "head" if "max(" in sql else "other"


@asynccontextmanager
async def watched_pool(dsn: str, **arguments: Any) -> AsyncIterator[tuple[asyncpg.Pool, Points]]:
    """A pool for readers, and the points of their statements."""
    points = Points()

    class Watched(asyncpg.Connection):
        async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
            rows = await super().fetch(query, *args, **options)
            await points.passed(query)
            return rows

    arguments = {"min_size": 1, "max_size": 10, **arguments}
    async with asyncpg.create_pool(dsn, connection_class=Watched, **arguments) as pool:
        yield pool, points


class Reader(Reading):
    """What a stream has delivered so far, read over whatever errors are expected."""

    async def _read(self) -> None:
        while True:
            try:
                return await super()._read()
            except ReflexError as exc:
                if not is_expected(exc):
                    raise
                # The server is away.
                await asyncio.sleep(0.05)

    async def delivers_all(
        self, connection: asyncpg.Connection, *, after: int = 0, within: float = 10.0
    ) -> None:
        """Return once all committed events have been delivered; and each once, in order, and no other."""
        rows = await connection.fetch("SELECT id FROM events WHERE id > $1 ORDER BY id", after)
        committed = [row[0] for row in rows]
        assert committed, "a test without events shows nothing"
        try:
            await self.reached(committed[-1], within=within)
        finally:
            wrong = faults(self.ids, committed)
            assert not wrong, "; ".join(wrong)


@asynccontextmanager
async def reading(stream: EventStream) -> AsyncIterator[Reader]:
    """Open a stream and read it in a task of its own."""
    async with stream:
        reader = Reader(stream)
        try:
            yield reader
        finally:
            reader.task.cancel()
            await asyncio.wait([reader.task])


def faults(received: Sequence[int], committed: Iterable[int]) -> list[str]:
    """Report events that were missed, reordered, doubled, or delivered although never committed."""
    committed, there, counts = set(committed), set(received), Counter(received)
    found = {
        "missed": sorted(committed - there),
        "delivered although never committed": sorted(there - committed),
        "delivered more than once": sorted(i for i, count in counts.items() if count > 1),
        "delivered after a higher one": [lower for higher, lower in pairwise(received) if lower < higher],
    }
    return [f"{len(ids)} {what}: {ids[:50]}" for what, ids in found.items() if ids]
