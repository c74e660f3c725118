"""MySQL and MariaDB: filling missing ids with noops, so that no late writer can insert an event with one of them."""

import logging
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from reflex_aio.errors import TableRefused
from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.mysql import LOCK_CONFLICTS, Done, error_number, limited_lock_waits
from reflex_aio.sql.events.mysql.queries import dirty_read
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.schema.mysql import FoundEvents

__all__ = ["FillOutcome", "GapFiller"]

logger = logging.getLogger(__name__)

# The greatest number of noops per statement. One id that a writer has locked must not delay those below it: after a
# statement that waited for a lock until its timeout, the next one takes a fraction of its ids, otherwise a multiple.
_MOST, _FEWER, _MORE = 1000, 8, 2
# A generous estimate of the size of a noop in a statement, in bytes.
_ROW_SIZE = 100
# The number of attempts at an id whose INSERT succeeds, but whose row does not exist afterwards.
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
        1406, 1264, 1265, 1366,  # a value that its column cannot represent
        1442, 1644,  # a trigger
        3819, 4025,  # CHECK
    }
)  # fmt: skip


class FillOutcome(Enum):
    """The outcome of an attempt to fill missing ids."""

    FILLED = auto()
    """The ids have rows now: noops, or those of writers that were faster."""
    LOCKED = auto()
    """Another transaction has locked one of the ids."""
    DENIED = auto()
    """Noops cannot be inserted. :attr:`GapFiller.denial` is the reason."""


class GapFiller:
    """Fills missing ids of one table. Only the rows themselves prove that an id is filled.

    It uses plain INSERTs, which report everything that prevents a row, except for a trigger that changes it. INSERT
    IGNORE would turn errors into warnings, and ON DUPLICATE KEY UPDATE needs another privilege.
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
        self._exists = f"SELECT COUNT(*) FROM {found.name} WHERE `{columns.id}` = %s"
        self.batch = self._most = max(1, min(_MOST, found.longest_statement // _ROW_SIZE))
        """The number of ids to fill in one statement."""
        self.denial = ""

    async def is_allowed(self, connection: Any) -> bool:
        """Return whether the user may insert noops, without inserting any."""
        async with limited_lock_waits(self._driver, connection):
            try:
                await self._driver.fetch(connection, f"EXPLAIN {self._insert}{self._row}", 1)
            except Exception as exc:
                number = error_number(exc)
                if number not in _DENIED | LOCK_CONFLICTS:
                    raise
                if number in _DENIED:
                    self.denial = str(exc.args[-1])
                    return False
        return True

    async def fill(self, connection: Any, ids: Sequence[int]) -> FillOutcome:
        """Fill ``ids``, the lowest missing ids in ascending order.

        :raises TableRefused: if the table does not accept noops
        """
        async with limited_lock_waits(self._driver, connection):
            outcome = await self._insert_noops(connection, ids)
        if outcome is FillOutcome.FILLED:
            self.batch = min(self.batch * _MORE, self._most)
        elif outcome is FillOutcome.LOCKED:
            self.batch = max(len(ids) // _FEWER, 1)
        return outcome

    async def _insert_noops(self, connection: Any, ids: Sequence[int]) -> FillOutcome:
        fetch, problem = self._driver.fetch, ""
        for _ in range(_TRIES):
            try:
                [done] = await fetch(connection, self._insert + ", ".join([self._row] * len(ids)), *ids)
            except Exception as exc:
                number = error_number(exc)
                if number in LOCK_CONFLICTS:
                    return FillOutcome.LOCKED
                if number in _DENIED:
                    self.denial = str(exc.args[-1])
                    return FillOutcome.DENIED
                if number in _REFUSED:
                    raise self._refused(str(exc.args[-1])) from exc
                if number != _DUPLICATE:
                    raise
                if await self._is_taken(connection, ids[0]):
                    # Another process was faster, or a late writer has inserted its event after all.
                    return FillOutcome.FILLED
                if len(ids) > 1:
                    # The duplicate is one of the other ids.
                    return FillOutcome.LOCKED
                problem = str(exc.args[-1])
            else:
                problem = await self._warnings(connection) if Done(*done).warned else ""
                if await self._is_taken(connection, ids[0]):
                    logger.debug(
                        "%s: inserted %d noops for ids from %d", self._settings.name, len(ids), ids[0]
                    )
                    self._settings.hooks.gap_filled(self._settings.name, len(ids))
                    return FillOutcome.FILLED
        raise self._refused(problem or "the database reports no error, so a trigger may change the row")

    async def _is_taken(self, connection: Any, id: int) -> bool:
        # Also by an uncommitted row: its writer owns the id, and the next round waits for it.
        return bool((await dirty_read(self._driver, connection, self._exists, id))[0][0])

    async def _warnings(self, connection: Any) -> str:
        rows = await self._driver.fetch(connection, "SHOW WARNINGS")
        return "; ".join(dict.fromkeys(str(row[2]) for row in rows))

    def _refused(self, problem: str) -> TableRefused:
        return TableRefused(
            table=self._settings.name,
            reason=f"a noop that should fill a gap was not inserted: {problem}",
            remedy="let the table accept rows of type 0 and foreign id '0' with no other values",
        )
