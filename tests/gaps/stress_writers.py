"""Writers with every kind of trouble, in a process of their own."""

from __future__ import annotations  # asyncpg.Connection takes a parameter in its stubs only

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import asyncpg

from reflex_aio.sql import EventsTable

events = EventsTable("events")

WRITERS = 24

# How long a transaction may stay open, in seconds: most are short, some are long.
SHORT, LONG = 0.03, 1.0

# What asyncpg makes of a backend that was killed.
_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class Transaction:
    """The ids that a transaction has drawn, and when it had certainly ended, on the system's monotonic clock."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = 0.0


class Trouble:
    """Writes for a time, as several writers whose backends are killed now and then."""

    def __init__(self, dsn: str, seconds: float, seed: int) -> None:
        self._dsn = dsn
        self._until = time.monotonic() + seconds
        self._chance = random.Random(seed)
        self._pids: dict[int, int] = {}
        self.transactions: list[Transaction] = []

    async def run(self) -> None:
        async with (
            asyncpg.create_pool(self._dsn, min_size=1, max_size=4) as self._spared,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._kill())
            for number in range(WRITERS):
                tasks.create_task(self._write(number))

    async def _kill(self) -> None:
        while time.monotonic() < self._until:
            await asyncio.sleep(self._chance.random() * 0.4)
            if self._pids:
                pid = self._chance.choice(list(self._pids.values()))
                await self._spared.execute("SELECT pg_terminate_backend($1)", pid)

    async def _write(self, number: int) -> None:
        while time.monotonic() < self._until:
            with suppress(*_LOST):
                connection = await asyncpg.connect(self._dsn)
                self._pids[number] = connection.get_server_pid()
                try:
                    while time.monotonic() < self._until:
                        await self._transact(connection)
                        await self._pause()
                finally:
                    del self._pids[number]
                    connection.terminate()

    async def _transact(self, connection: asyncpg.Connection) -> None:
        ways: list[Callable[[asyncpg.Connection, Transaction], Awaitable[None]]] = [
            *[self._commit] * 4,
            *[self._roll_back] * 3,
            *[self._savepoints] * 2,
            self._single,
            self._by_hand,
            self._two_phases,
            self._vanish,
        ]
        transaction = Transaction()
        try:
            await self._chance.choice(ways)(connection, transaction)
        finally:
            transaction.ended = time.monotonic()
            self.transactions.append(transaction)

    async def _single(self, connection: asyncpg.Connection, transaction: Transaction) -> None:
        await self._insert(connection, transaction)

    async def _commit(self, connection: asyncpg.Connection, transaction: Transaction) -> None:
        await connection.execute("BEGIN")
        for _ in range(self._chance.randint(1, 4)):
            await self._insert(connection, transaction)
            await self._pause()
        await connection.execute("COMMIT")

    async def _roll_back(self, connection: asyncpg.Connection, transaction: Transaction) -> None:
        await connection.execute("BEGIN")
        await self._insert(connection, transaction)
        await self._pause()
        await connection.execute("ROLLBACK")

    async def _savepoints(self, connection: asyncpg.Connection, transaction: Transaction) -> None:
        await connection.execute("BEGIN")
        for _ in range(self._chance.randint(1, 3)):
            await connection.execute("SAVEPOINT s")
            await self._insert(connection, transaction)
            await self._pause()
            await connection.execute(self._chance.choice(["ROLLBACK TO s", "RELEASE s"]))
        await connection.execute(self._chance.choice(["COMMIT", "COMMIT", "ROLLBACK"]))

    async def _by_hand(self, connection: asyncpg.Connection, transaction: Transaction) -> None:
        await connection.execute("BEGIN")
        drawn = await connection.fetchval("SELECT nextval(pg_get_serial_sequence('events', 'id'))")
        transaction.ids.append(drawn)
        await self._pause()
        await connection.execute(
            "INSERT INTO events (id, foreign_id, type) OVERRIDING SYSTEM VALUE VALUES ($1, '1', 1)", drawn
        )
        await connection.execute("COMMIT")

    async def _two_phases(self, connection: asyncpg.Connection, transaction: Transaction) -> None:
        name = f"stress {self._chance.getrandbits(64)}"
        await connection.execute("BEGIN")
        await self._insert(connection, transaction)
        try:
            await connection.execute(f"PREPARE TRANSACTION '{name}'")
            await self._pause()
        finally:
            # The process that prepared it may have been killed, before or after.
            with suppress(asyncpg.UndefinedObjectError):
                how = self._chance.choice(["COMMIT", "ROLLBACK"])
                await self._spared.execute(f"{how} PREPARED '{name}'")

    async def _vanish(self, connection: asyncpg.Connection, transaction: Transaction) -> None:
        await connection.execute("BEGIN")
        await self._insert(connection, transaction)
        await self._pause()
        connection.terminate()

    async def _insert(self, connection: asyncpg.Connection, transaction: Transaction) -> None:
        if self._chance.random() < 0.3:
            ids = await events.insert_many(connection, [(i, 1) for i in range(self._chance.randint(1, 20))])
        else:
            ids = [await events.insert(connection, 1, 1)]
        transaction.ids += map(int, ids)

    async def _pause(self) -> None:
        longest = LONG if self._chance.random() < 0.01 else SHORT
        await asyncio.sleep(self._chance.random() * longest)


async def write(dsn: str, seconds: float, seed: int, result: str) -> None:
    """Write for so many seconds, then store each transaction's ids and end."""
    trouble = Trouble(dsn, seconds, seed)
    await trouble.run()
    transactions = [(each.ids, each.ended) for each in trouble.transactions]
    Path(result).write_text(json.dumps(transactions))
    print("written", flush=True)
