"""MySQL and MariaDB: taking missing ids for noops, so that no writer can come late with one of them."""

import logging
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from reflex_aio.errors import TableRefused
from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.drivers.mysql import LOCK_CONFLICTS, limited_lock_waits
from reflex_aio.sql.events.dialect import EventsSettings
from reflex_aio.sql.schema.mysql import FoundEvents

__all__ = ["FillOutcome", "GapFiller", "peek"]


async def peek(driver: Driver, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
    """Run one query that sees uncommitted rows too.

    :param connection: with autocommit on. If this raises or is cancelled, it has to be closed: its next statement
        might see such rows as well
    """
    # For the next transaction alone, which is the query. SET SESSION would stay, for whoever is lent the connection
    # after us.
    await driver.fetch(connection, "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
    return await driver.fetch(connection, sql, *args)


logger = logging.getLogger(__name__)

# Noops per statement at most. One id that a writer has in hand must not hold back those below it: when a statement has
# waited for one in vain, the next takes a fraction of its ids; when it hasn't, some times as many.
_MOST, _FEWER, _MORE = 1000, 8, 2
# What one takes of the longest statement that the server accepts, in bytes: generous.
_ROW = 100
# How often an id is taken, without an error, that isn't there afterwards.
_TRIES = 3

_DUPLICATE = 1062
_DENIED = frozenset(
    {
        1044, 1142, 1143, 1227,  # a privilege is missing
        1290, 1792, 1836,  # the server, or the session, is read-only
    }
)  # fmt: skip
_REFUSED = frozenset(
    {
        1048, 1263, 1364,  # NULL in, or no value for, a column that needs one
        1216, 1452,  # a foreign key
        1406, 1264, 1265, 1366,  # a value that its column doesn't take
        1442, 1644,  # a trigger
        3819, 4025,  # CHECK
    }
)  # fmt: skip


class FillOutcome(Enum):
    """What has come of taking ids."""

    FILLED = auto()
    """Those asked for were taken, or somebody was quicker."""
    LOCKED = auto()
    """A writer, or somebody else, has locked one of them."""
    DENIED = auto()
    """Noops can't be written. :attr:`GapFiller.denial` says why."""


class GapFiller:
    """Takes ids of one table. Whether they were taken, only the rows tell.

    Plain INSERTs, which tell of everything that keeps a row out but a trigger that changes it: INSERT IGNORE would make
    warnings of errors, and ON DUPLICATE KEY UPDATE needs another privilege.
    """

    def __init__(self, settings: EventsSettings, driver: Driver, found: FoundEvents) -> None:
        self._settings = settings
        self._driver = driver
        columns = settings.columns
        names = ", ".join(
            f"`{name}`" for name in (columns.id, columns.foreign_id, columns.type, columns.timestamp)
        )
        self._insert = f"INSERT INTO {found.name} ({names}) VALUES "
        self._row = f"(%s, '{NOOP_FOREIGN_ID}', {NOOP_TYPE}, {found.now})"
        self._there = f"SELECT COUNT(*) FROM {found.name} WHERE `{columns.id}` = %s"
        self.batch = self._most = max(1, min(_MOST, found.longest_statement // _ROW))
        """How many ids to take at once."""
        self.denial = ""

    async def may(self, connection: Any) -> bool:
        """Tell whether the user may insert noops, without inserting any."""
        async with limited_lock_waits(self._driver, connection):
            try:
                await self._driver.fetch(connection, f"EXPLAIN {self._insert}{self._row}", 1)
            except Exception as exc:
                number = _number(exc)
                if number not in _DENIED | LOCK_CONFLICTS:
                    raise
                if number in _DENIED:
                    self.denial = str(exc.args[-1])
                    return False
        return True

    async def take(self, connection: Any, ids: Sequence[int]) -> FillOutcome:
        """Take ``ids``, the least of those missing, in ascending order.

        :raises TableRefused: if the table doesn't take them
        """
        async with limited_lock_waits(self._driver, connection):
            taking = await self._take(connection, ids)
        if taking is FillOutcome.FILLED:
            self.batch = min(self.batch * _MORE, self._most)
        elif taking is FillOutcome.LOCKED:
            self.batch = max(len(ids) // _FEWER, 1)
        return taking

    async def _take(self, connection: Any, ids: Sequence[int]) -> FillOutcome:
        fetch, told = self._driver.fetch, ""
        for _ in range(_TRIES):
            try:
                [done] = await fetch(connection, self._insert + ", ".join([self._row] * len(ids)), *ids)
            except Exception as exc:
                number = _number(exc)
                if number in LOCK_CONFLICTS:
                    return FillOutcome.LOCKED
                if number in _DENIED:
                    self.denial = str(exc.args[-1])
                    return FillOutcome.DENIED
                if number in _REFUSED:
                    raise self._refused(str(exc.args[-1])) from exc
                if number != _DUPLICATE:
                    raise
                if await self._is_there(connection, ids[0]):
                    # Another process was quicker, or a writer that came late after all.
                    return FillOutcome.FILLED
                if len(ids) > 1:
                    # It is about one of the others.
                    return FillOutcome.LOCKED
                told = str(exc.args[-1])
            else:
                told = await self._warnings(connection) if done[2] else ""
                if await self._is_there(connection, ids[0]):
                    logger.debug("%s: %d ids from %d are noops now", self._settings.name, len(ids), ids[0])
                    self._settings.hooks.gap_filled(self._settings.name, len(ids))
                    return FillOutcome.FILLED
        raise self._refused(told or "the database reports nothing: does a trigger change the row?")

    async def _is_there(self, connection: Any, id: int) -> bool:
        # In flight too: then a writer has it, and the next round waits for it.
        return bool((await peek(self._driver, connection, self._there, id))[0][0])

    async def _warnings(self, connection: Any) -> str:
        rows = await self._driver.fetch(connection, "SHOW WARNINGS")
        return "; ".join(dict.fromkeys(str(row[2]) for row in rows))

    def _refused(self, told: str) -> TableRefused:
        return TableRefused(
            table=self._settings.name,
            reason=f"a noop that was to fill a gap was not taken: {told}",
            remedy="let the table take rows of type 0 and foreign id '0' with no other values",
        )


def _number(exc: Exception) -> int | None:
    """Return the server's number of an error."""
    number = exc.args[0] if exc.args else None
    return number if isinstance(number, int) else None
