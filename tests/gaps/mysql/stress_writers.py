"""Writers with every kind of trouble that MariaDB knows, in a process of their own."""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncmy

from reflex_aio.sql import EventsTable
from reflex_aio.sql.drivers.dsn import mysql_arguments

events = EventsTable("events")

# Of several rows of one name, the first stays: this is what statements burn ids for.
PREPARE = "ALTER TABLE events ADD COLUMN once varchar(40) UNIQUE"

WRITERS = 20

# How long a transaction may stay open, in seconds: most are short, some are long.
SHORT, LONG = 0.03, 1.0


class Transaction:
    """The ids that a transaction has drawn, and when it had certainly ended, on the system's monotonic clock."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.ended = 0.0


class Trouble:
    """Writes for a time, as several writers whose connections are killed now and then."""

    def __init__(self, dsn: str, seconds: float, seed: int) -> None:
        self._arguments = {**mysql_arguments(dsn), "autocommit": True}
        self._until = time.monotonic() + seconds
        self._chance = random.Random(seed)
        self._threads: dict[int, int] = {}
        self.transactions: list[Transaction] = []
        self.replaced: list[int] = []
        self.refused = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._kill())
            tasks.create_task(self._announce_half())
            for number in range(WRITERS):
                tasks.create_task(self._write(number))

    async def _announce_half(self) -> None:
        await asyncio.sleep((self._until - time.monotonic()) / 2)
        print("half", flush=True)

    async def _fetch(self, connection: Any, statement: str) -> Any:
        async with connection.cursor() as cursor:
            await cursor.execute(statement)
            return await cursor.fetchall()

    async def _kill(self) -> None:
        while time.monotonic() < self._until:
            with suppress(OSError, asyncmy.MySQLError):
                async with asyncmy.connect(**self._arguments) as connection:
                    while time.monotonic() < self._until:
                        await asyncio.sleep(self._chance.random() * 0.4)
                        if self._threads:
                            thread = self._chance.choice(list(self._threads.values()))
                            with suppress(asyncmy.errors.OperationalError):
                                await self._fetch(
                                    connection, f"KILL {self._chance.choice(['', 'HARD '])}{thread}"
                                )
            await asyncio.sleep(0.05)

    async def _write(self, number: int) -> None:
        while time.monotonic() < self._until:
            with suppress(OSError, asyncmy.MySQLError, RuntimeError):
                connection = await asyncmy.connect(**self._arguments)
                self._threads[number] = (await self._fetch(connection, "SELECT CONNECTION_ID()"))[0][0]
                try:
                    while time.monotonic() < self._until:
                        await self._transact(connection)
                        await self._pause()
                finally:
                    del self._threads[number]
                    connection.close()
            await asyncio.sleep(0.01)

    async def _transact(self, connection: Any) -> None:
        ways: list[Callable[[Any, Transaction], Awaitable[None]]] = [
            *[self._commit] * 4,
            *[self._roll_back] * 3,
            *[self._savepoints] * 2,
            self._single,
            self._burn,
            self._bulk,
            self._replace,
            self._two_phases,
            self._read_range,
            self._vanish,
        ]
        transaction = Transaction()
        try:
            await self._chance.choice(ways)(connection, transaction)
        except asyncmy.errors.MySQLError as exc:
            if exc.args[0] not in (1062, 1205, 1213):
                raise
            # Refused, by a noop or a deadlock: a writer would try again.
            self.refused += 1
            await connection.rollback()
        finally:
            transaction.ended = time.monotonic()
            self.transactions.append(transaction)

    async def _single(self, connection: Any, transaction: Transaction) -> None:
        await self._insert(connection, transaction)

    async def _commit(self, connection: Any, transaction: Transaction) -> None:
        await connection.begin()
        for _ in range(self._chance.randint(1, 4)):
            await self._insert(connection, transaction)
            await self._pause()
        await connection.commit()

    async def _roll_back(self, connection: Any, transaction: Transaction) -> None:
        await connection.begin()
        await self._insert(connection, transaction)
        await self._pause()
        await connection.rollback()

    async def _savepoints(self, connection: Any, transaction: Transaction) -> None:
        await connection.begin()
        for _ in range(self._chance.randint(1, 3)):
            await self._fetch(connection, "SAVEPOINT s")
            await self._insert(connection, transaction)
            await self._pause()
            await self._fetch(connection, self._chance.choice(["ROLLBACK TO s", "RELEASE SAVEPOINT s"]))
        await self._fetch(connection, self._chance.choice(["COMMIT", "COMMIT", "ROLLBACK"]))

    async def _burn(self, connection: Any, transaction: Transaction) -> None:
        ending = self._chance.choice(["", " ON DUPLICATE KEY UPDATE type = type"])
        await self._fetch(
            connection,
            f"INSERT {'' if ending else 'IGNORE '}INTO events (foreign_id, type, once)"
            f" VALUES ('1', 1, 'one'), ('1', 1, NULL), ('1', 1, 'two'), ('1', 1, NULL){ending}",
        )

    async def _bulk(self, connection: Any, transaction: Transaction) -> None:
        await connection.begin()
        await self._fetch(
            connection,
            "INSERT IGNORE INTO events (foreign_id, type, once)"
            f" SELECT '1', 1, IF(MOD(seq, 3) = 0, 'one', NULL) FROM seq_1_to_{self._chance.randint(1, 40)}",
        )
        await self._pause()
        await self._fetch(connection, self._chance.choice(["COMMIT", "COMMIT", "ROLLBACK"]))

    async def _replace(self, connection: Any, transaction: Transaction) -> None:
        await connection.begin()
        await self._fetch(
            connection, "REPLACE INTO events (foreign_id, type, once) VALUES ('1', 1, 'replaced')"
        )
        # Deleted by the next one, having been delivered or not.
        self.replaced.append((await self._fetch(connection, "SELECT LAST_INSERT_ID()"))[0][0])
        await self._fetch(connection, self._chance.choice(["COMMIT", "ROLLBACK"]))

    async def _read_range(self, connection: Any, transaction: Transaction) -> None:
        await connection.begin()
        [(head,)] = await self._fetch(connection, "SELECT MAX(id) FROM events")
        low = (head or 0) - self._chance.randint(0, 30)
        await self._fetch(
            connection, f"SELECT id FROM events WHERE id BETWEEN {low} AND {low + 20} LOCK IN SHARE MODE"
        )
        await self._pause()
        await connection.commit()

    async def _two_phases(self, connection: Any, transaction: Transaction) -> None:
        name = f"stress {self._chance.getrandbits(64)}"
        ending = self._chance.choice(["COMMIT", "ROLLBACK"])
        try:
            await self._fetch(connection, f"XA START '{name}'")
            await self._insert(connection, transaction)
            await self._fetch(connection, f"XA END '{name}'")
            await self._fetch(connection, f"XA PREPARE '{name}'")
            await self._pause()
            if self._chance.random() < 0.7:
                await self._fetch(connection, f"XA {ending} '{name}'")
        finally:
            # The process that prepared it disconnects, or it or the server was killed before or after: another ends it.
            connection.close()
            await self._end(name, ending)

    async def _end(self, name: str, ending: str) -> None:
        while True:
            with suppress(OSError, asyncmy.MySQLError):
                async with asyncmy.connect(**self._arguments) as connection:
                    while name in [row[3].decode() for row in await self._fetch(connection, "XA RECOVER")]:
                        with suppress(asyncmy.errors.OperationalError):
                            await self._fetch(connection, f"XA {ending} '{name}'")
                        await asyncio.sleep(0.01)
                    return
            await asyncio.sleep(0.05)

    async def _vanish(self, connection: Any, transaction: Transaction) -> None:
        await connection.begin()
        await self._insert(connection, transaction)
        await self._pause()
        connection.close()

    async def _insert(self, connection: Any, transaction: Transaction) -> None:
        if self._chance.random() < 0.3:
            ids = await events.insert_many(connection, [(i, 1) for i in range(self._chance.randint(1, 20))])
        else:
            ids = [await events.insert(connection, 1, 1)]
        transaction.ids += map(int, ids)

    async def _pause(self) -> None:
        longest = LONG if self._chance.random() < 0.01 else SHORT
        await asyncio.sleep(self._chance.random() * longest)


async def write(dsn: str, seconds: float, seed: int, result: str) -> None:
    """Write for so many seconds, then store each transaction's ids and end, and what doesn't count."""
    # It logs each warning.
    logging.getLogger("asyncmy").setLevel(logging.ERROR)
    trouble = Trouble(dsn, seconds, seed)
    await trouble.run()
    transactions = [(each.ids, each.ended) for each in trouble.transactions]
    Path(result).write_text(
        json.dumps({"written": transactions, "replaced": trouble.replaced, "refused": trouble.refused})
    )
    print("written", flush=True)
