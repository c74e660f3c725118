"""MySQL and MariaDB: filling missing ids with noops, so that no late writer can use them; and the checks for that."""

import logging
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from reflex_aio.errors import TableNotFound, TableRefused
from reflex_aio.event import NOOP_TYPE
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.drivers.mysql import LOCK_CONFLICTS, Done, error_number, limited_lock_waits
from reflex_aio.sql.events.mysql.queries import dirty_read
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.schema.mysql import FoundEvents

__all__ = ["FillOutcome", "GapFiller", "check_fillable", "fetch_unless_denied", "next_id", "replicates_from"]

logger = logging.getLogger(__name__)

# The greatest number of noops per statement. One id that a writer has locked must not delay those below it: after a
# statement that waited for a lock until its timeout, the next one takes a fraction of its ids, otherwise a multiple.
_MOST, _FEWER, _MORE = 1000, 8, 2
# A generous estimate of the size of a noop in a statement, in bytes.
_ROW_SIZE = 100
# The number of attempts at an id whose INSERT succeeds, but whose row does not exist afterwards.
_TRIES = 3

_GREATEST_ID = 2**63 - 1

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

_FILLABLE = """
SELECT t.engine, (
    SELECT extra LIKE '%%auto_increment%%' FROM information_schema.columns
    WHERE table_schema = %s AND table_name = %s AND column_name = %s
), EXISTS (
    SELECT 1 FROM information_schema.statistics s WHERE s.table_schema = %s AND s.table_name = %s AND s.non_unique = 0
    GROUP BY s.index_name HAVING COUNT(*) = 1 AND MIN(s.column_name) = %s AND MIN(s.sub_part) IS NULL
)
FROM information_schema.tables t WHERE t.table_schema = %s AND t.table_name = %s
"""
_NEXT_ID = "SELECT auto_increment FROM information_schema.tables WHERE table_schema = %s AND table_name = %s"
# By default, MySQL caches this view for a day.
_DISABLE_CACHE = """
SET @reflex_aio_expiry = @@SESSION.information_schema_stats_expiry, SESSION information_schema_stats_expiry = 0
"""
_RESTORE_CACHE = "SET SESSION information_schema_stats_expiry = @reflex_aio_expiry"

# The configured sources of replication, whether it is running or not. The members of a replication group certify their
# writes, and are not replicas in this sense.
_SOURCES = """
SELECT host FROM performance_schema.replication_connection_configuration
WHERE channel_name NOT LIKE 'group\\_replication\\_%%' AND host <> ''
"""
_SOURCES_OF_MARIADB = "SHOW ALL SLAVES STATUS"
_MASTER_HOST = 3
# Needs no privilege.
_RUNNING_ON_MARIADB = "SHOW GLOBAL STATUS LIKE 'Slaves_running'"
_NO_PRIVILEGE = (1044, 1142, 1227)


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
        self._row = f"(%s, '{settings.schema.noop_foreign_id}', {NOOP_TYPE}, {found.now})"
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


async def check_fillable(
    driver: Driver, connection: Any, settings: EventsSettings, found: FoundEvents
) -> None:
    """Check that a noop prevents other rows with its id, and that ids are drawn from AUTO_INCREMENT.

    :raises TableNotFound: if the table does not exist any more
    :raises TableRefused: if not
    """
    table, id_column = (found.schema, found.table), settings.columns.id
    rows = await driver.fetch(connection, _FILLABLE, *table, id_column, *table, id_column, *table)
    if not rows:
        raise TableNotFound(table=settings.name)
    engine, auto_increment, unique = rows[0]
    reason = remedy = ""
    if engine != "InnoDB":
        reason = f"its engine is {engine}, which has no transactions as InnoDB has"
        remedy = "ALTER TABLE ... ENGINE = InnoDB"
    elif not auto_increment:
        reason, remedy = f"its {id_column} isn't AUTO_INCREMENT", f"make {id_column} AUTO_INCREMENT"
    elif not unique:
        reason = (
            "its id has no unique index of its own, so a noop would not prevent the event of a late writer"
        )
        remedy = f"create a unique index on {id_column} alone"
    if reason:
        raise TableRefused(table=settings.name, reason=reason, remedy=remedy)


async def next_id(driver: Driver, connection: Any, found: FoundEvents) -> int | None:
    """Return the next id of AUTO_INCREMENT, or ``None`` if the table does not exist any more.

    :raises TableRefused: if it does not fit in a signed integer of 64 bits, as cursors do
    """
    if not found.is_mariadb:
        await driver.fetch(connection, _DISABLE_CACHE)
    rows = await driver.fetch(connection, _NEXT_ID, found.schema, found.table)
    if not found.is_mariadb:
        await driver.fetch(connection, _RESTORE_CACHE)
    if not rows or rows[0][0] is None:
        return None
    following = int(rows[0][0])
    if following > _GREATEST_ID:
        raise TableRefused(
            table=f"{found.schema}.{found.table}",
            reason=f"its next id is {following}: cursors are signed integers of 64 bits, up to {_GREATEST_ID}",
            remedy="copy its events to a table whose ids begin at 1",
        )
    return following


async def replicates_from(driver: Driver, connection: Any, found: FoundEvents) -> str | None:
    """Return the server that this one replicates from, according to its configuration; ``None`` if there is none.

    Without the privilege to read the configuration, it is not ``None`` while replication is running (MariaDB), or never
    (MySQL).
    """
    if not found.is_mariadb:
        sources = await fetch_unless_denied(driver, connection, _SOURCES)
        return sources[0][0] if sources else None
    sources = await fetch_unless_denied(driver, connection, _SOURCES_OF_MARIADB)
    if sources is not None:
        return sources[0][_MASTER_HOST] if sources else None
    running = await driver.fetch(connection, _RUNNING_ON_MARIADB)
    return "a server that this user may not see" if running and int(running[0][1]) else None


async def fetch_unless_denied(driver: Driver, connection: Any, statement: str) -> Sequence[Row] | None:
    """Run a statement and return its rows, or ``None`` if the user lacks the privilege."""
    try:
        return await driver.fetch(connection, statement)
    except Exception as exc:
        if error_number(exc) in _NO_PRIVILEGE:
            return None
        raise
