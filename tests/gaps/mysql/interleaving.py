"""Tools that hold writers and readers at exact points, on MariaDB."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from reflex_aio.sql.drivers.base import Row
from tests.fix_backends import MysqlBackend
from tests.gaps.interleaving import HeldStatement, Points, Reader, faults
from tests.waiting import deadline, eventually

_HOLD = "reflex_aio_test_hold"

# A writer whose event has the foreign id "held" waits in this trigger, where its id is drawn and no row is there.
HOLD_HERE = f"""
CREATE TRIGGER hold_here BEFORE INSERT ON events FOR EACH ROW
BEGIN
    IF NEW.foreign_id = 'held' THEN
        SET @held = GET_LOCK(CONCAT('{_HOLD}', DATABASE()), 60);
        SET @held = RELEASE_LOCK(CONCAT('{_HOLD}', DATABASE()));
    END IF;
END
"""


class Writer:
    """A connection that writes, in transactions of one statement unless it begins one."""

    def __init__(self, backend: MysqlBackend, connection: Any) -> None:
        self.connection = connection
        self._backend = backend

    async def run(self, sql: str) -> Sequence[Row]:
        return await self._backend.fetch(self.connection, sql)

    async def value(self, sql: str) -> Any:
        return (await self.run(sql))[0][0]

    async def insert(self, foreign_id: str = "1") -> int:
        """Insert an event and return its id."""
        await self.run(f"INSERT INTO events (foreign_id, type) VALUES ('{foreign_id}', 1)")
        event_id: int = await self.value("SELECT LAST_INSERT_ID()")
        return event_id

    async def burn(self, count: int = 1) -> None:
        """Draw ids that will never be there, in transactions of their own that are rolled back."""
        for _ in range(count):
            await self.run("BEGIN")
            await self.insert("rolled back")
            await self.run("ROLLBACK")

    async def thread(self) -> int:
        thread: int = await self.value("SELECT CONNECTION_ID()")
        return thread

    def vanish(self) -> None:
        """Hang up, without a word."""
        self.connection.close()


@asynccontextmanager
async def holding(backend: MysqlBackend) -> AsyncIterator["Hold"]:
    """Hold those who come to the trigger ``hold_here``."""
    holder = Writer(backend, await backend.connect())
    await holder.run(f"SELECT GET_LOCK(CONCAT('{_HOLD}', DATABASE()), 0)")
    yield Hold(holder)
    await holder.run("SELECT RELEASE_ALL_LOCKS()")


class Hold:
    def __init__(self, holder: Writer) -> None:
        self._holder = holder

    async def reached(self) -> None:
        """Return once a statement waits in the trigger."""

        async def waits() -> object:
            return await self._holder.value(
                "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User lock' AND db = DATABASE()"
            )

        await eventually(waits, "a writer waits in the trigger")

    async def let_go(self) -> None:
        await self._holder.run("SELECT RELEASE_ALL_LOCKS()")


async def delivers_all(reader: Reader, writer: Writer, *, after: int = 0, within: float = 10.0) -> None:
    """Return once all committed events have been delivered; and each once, in order, and no other."""
    rows = await writer.run(f"SELECT id FROM events WHERE id > {after} AND type <> 0 ORDER BY id")
    committed = [row[0] for row in rows]
    assert committed, "a test without events shows nothing"
    try:
        await reader.reached(committed[-1], within=within)
    finally:
        wrong = faults(reader.ids, committed)
        assert not wrong, "; ".join(wrong)


class MysqlPoints(Points):
    """Where the statements that streams run are counted, and can be held."""

    def kind(self, sql: str) -> str:
        if sql.startswith("INSERT") and "'0', 0," in sql:
            return "noops"
        if "READ UNCOMMITTED" in sql:
            return "peek"
        if "@@GLOBAL.read_only" in sql:
            return "look"
        if "BETWEEN" in sql:
            return "ids"
        if "information_schema" in sql:
            return "check"
        return "page" if "LIMIT" in sql else "other"

    async def passed(self, sql: str) -> None:
        kind = self.kind(sql)
        self.done[kind] += 1
        self.statements.append(sql)
        held: HeldStatement | None = self._held.pop(kind, None)
        if held is not None:
            await held.wait()


async def finished(task: asyncio.Task[Any]) -> BaseException | None:
    """Wait for a writer's statement, and return what it raised."""
    await asyncio.wait([task], timeout=deadline(10.0))
    assert task.done()
    return task.exception()
