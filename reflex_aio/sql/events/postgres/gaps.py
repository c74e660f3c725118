"""PostgreSQL: deciding that the missing ids of a gap can never appear any more, by scans of pg_locks."""

import asyncio
import logging
import time
from dataclasses import dataclass

from reflex_aio.errors import ConnectionLost, DatabaseError, TableRefused, TableReplaced
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.postgres.catalog import Scan, describe_sql, scan_sql
from reflex_aio.sql.events.postgres.horizon import Horizon
from reflex_aio.sql.wakeups.notifier import TimedEvent, wait_for_wakeup
from reflex_aio.tasks import Tasks

__all__ = ["Gaps", "Resolved"]

logger = logging.getLogger(__name__)

# While a gap is open it is scanned for after the first of these, and ever later up to the second while nothing changes,
# in seconds. A wake-up shortens the wait.
_SCAN_AFTER, _SCAN_AFTER_AT_MOST = 0.010, 0.050
# How often to scan while events flow, in seconds: a new holder's bound is as old as the scan before it.
_UPKEEP_PERIOD = 0.1
# When to tell, and tell again, who holds a gap open, in seconds.
_TELL_PERIOD = 10.0

# At the start of a page of WAL the insert position lies behind the page's header, which replay doesn't reach until more
# is written.
_WAL_HEADERS = (24, 40)
_INSERT_POSITION = """
SELECT (pg_current_wal_insert_lsn() - '0/0')::int8, current_setting('wal_block_size')::int8, pg_is_in_recovery()
"""
_HOLDERS = """
SELECT string_agg(coalesce('pid ' || l.pid || coalesce(' (' || a.state || ', transaction began '
           || round(extract(epoch FROM clock_timestamp() - a.xact_start)::numeric, 1) || ' s ago)', ''),
           'a prepared transaction'), ', ')
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = $1::int8::oid AND l.mode = 'RowExclusiveLock' AND l.granted
"""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a scan has resolved.

    ``position`` is the id up to which no row can appear any more, for a statement that begins after the scan, on the
    same incarnation of the table (``identity``); or on a standby that has replayed ``wal``.
    """

    position: int
    identity: int
    wal: int | None


_NOTHING = Resolved(0, 0, None)


class Gaps:
    """Resolves the gaps of one table.

    :param statements: where the locks are: the primary
    :param table: what messages call the table
    :param name: its name with the schema, quoted
    :param id_column: the name of its id column, unquoted
    :param fenced: whether missing ids are taken by noops before they are passed
    :param standby: whether the rows are read on a standby
    """

    def __init__(
        self,
        statements: PinnedConnection,
        *,
        table: str,
        name: str,
        id_column: str,
        fenced: bool,
        standby: bool,
    ) -> None:
        self._statements = statements
        self._table = table
        self._name = name
        self._id_column = id_column
        self._sql = scan_sql(name, f'"{id_column}"', server=not standby)
        self._fenced = fenced
        self._standby = standby
        self._horizon = Horizon()
        self._seen = 0
        self._scan: Scan | None = None
        self.sequence = 0
        self._scanning = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._scans = 0
        self._changed = True
        self._scanned_at = 0.0
        self.resolved = _NOTHING
        self.flowing = False
        self.replaced: TableReplaced | None = None
        """Once set, nothing that was known of the table is true any more."""

    @property
    def scan(self) -> Scan:
        """The last scan."""
        assert self._scan is not None
        return self._scan

    @property
    def age(self) -> float:
        """How long ago the last scan was made, in seconds."""
        return time.monotonic() - self._scanned_at

    async def open(self) -> None:
        """Find the sequence that feeds the ids, and make the first scan.

        :raises TableRefused: if the table's gaps can't be resolved
        """
        row = (await self._statements.fetch(describe_sql(), self._name, 0, self._id_column))[0]
        described = Scan.of(row)
        self._refuse(described)
        self.sequence = described.sequences[0]
        await self.renew()

    def saw(self, id: int) -> None:
        """Take in that there is, or was, a row of this id: it can be resolved even if it is deleted."""
        self._seen = max(self._seen, id)

    def forget(self) -> None:
        """Start anew, after any error: what holders there are may have changed unseen."""
        self._horizon = Horizon()
        self.resolved = _NOTHING

    async def renew(self) -> None:
        """Scan, or wait for a scan that began after this was called.

        :raises TableReplaced: if the table isn't the one that was opened
        :raises TableRefused: if its gaps can't be resolved any more
        """
        asked = self._scans
        # Scans never overlap: taken in out of order, one would forget a holder and admit it anew with too high a bound.
        async with self._scanning:
            if self._running is not None:
                # Left behind by a caller that was cancelled.
                await asyncio.wait([self._running])
            if self._scans > asked:
                return
            self._scans += 1
            # In a task of its own: a reader that is cancelled must not make all others start anew.
            self._running = self._tasks.start(
                self._renew(), name=f"reflex_aio: scan ({self._table})", awaited=True
            )
            await asyncio.shield(self._running)
            self._running = None

    async def _renew(self) -> None:
        try:
            await self._scan_once()
        except BaseException:
            self.forget()
            raise

    async def _scan_once(self) -> None:
        self.flowing = False
        # What is seen while the scan is under way may lie above ids whose holders it doesn't list.
        seen = self._seen
        scan = Scan.of(
            (await self._statements.fetch(self._sql, self._name, self.sequence, self._id_column))[0]
        )
        self._scanned_at = time.monotonic()
        before = self._scan
        if before is None or scan.table == before.table:
            # What is wrong with how ids are given out says more than that it isn't as it was.
            self._refuse(scan)
        if before is not None:
            try:
                scan.compare(before, self._table)
            except TableReplaced as exc:
                self.replaced = exc
                raise
        self._scan = scan
        if before is not None and (scan.started, scan.in_recovery) != (before.started, before.in_recovery):
            logger.info("%s: the server was restarted; looking anew who writes", self._table)
            self.forget()
            # It may be one that took over, and never had the row: its ids can be drawn once more.
            seen = self._seen = 0
        self._changed = self._horizon.scanned(max(scan.top, seen), scan.holders)
        wal = await self._insert_position() if self._standby else None
        self.resolved = Resolved(self._horizon.resolved, scan.identity, wal)

    def _refuse(self, scan: Scan) -> None:
        scan.refuse(self._table, fenced=self._fenced)
        if scan.in_recovery:
            raise TableRefused(
                table=self._table,
                reason="the server is a standby, where the locks of the primary can't be seen",
                remedy="stream from the primary, or give its pool too: source(standby_pool, primary=primary_pool)",
            )

    async def _insert_position(self) -> int:
        # In a statement of its own: commits that the scan already takes for ended must lie before it.
        position, block, in_recovery = (await self._statements.fetch(_INSERT_POSITION))[0]
        if in_recovery:
            raise ConnectionLost(f"{self._table}: primary leads to another server than a moment ago")
        offset = position % block
        return int(position - offset if offset in _WAL_HEADERS else position)

    async def aclose(self) -> None:
        """End what is under way and give back the connection."""
        await self._tasks.aclose()
        await self._statements.aclose()

    async def resolve(self, position: int, woken: TimedEvent | None) -> None:
        """Scan until the ids after ``position`` are resolved, or some of them."""
        if self.resolved.position > position:
            return
        await self.renew()
        began = told = time.monotonic()
        wait = _SCAN_AFTER
        while self.resolved.position <= position:
            if time.monotonic() - told > _TELL_PERIOD:
                told = time.monotonic()
                await self._tell(position, told - began)
            # Of many who wait at gaps, whoever's turn it is scans for all of them.
            left = self._scanned_at + wait - time.monotonic()
            if left > 0 and not await wait_for_wakeup(left, woken):
                continue
            await self.renew()
            wait = _SCAN_AFTER if self._changed else min(wait * 1.5, _SCAN_AFTER_AT_MOST)

    async def _tell(self, position: int, seconds: float) -> None:
        holders = (await self._statements.fetch(_HOLDERS, self.sequence))[0][0]
        logger.warning(
            "%s: the event after %d has been waited for since %.0f s: its id was drawn by an open transaction of %s",
            self._table,
            position,
            seconds,
            holders or "nobody who is left",
        )

    async def last_drawn(self) -> int | None:
        """Return the last id that the sequence gave out, 0 if none, or ``None`` if that may not be known."""
        try:
            rows = await self._statements.fetch(
                f"SELECT last_value, is_called FROM {self.scan.sequence_name}"
            )
        except DatabaseError as exc:
            logger.warning("%s: can't be asked whether a cursor is ahead of it: %s", self._table, exc)
            return None
        last, called = rows[0]
        return int(last) if called else int(last) - 1

    def upkeep_due(self) -> float | None:
        """Return in how many seconds a scan is due for the sake of later ones, or ``None``."""
        return max(0.0, self._scanned_at + _UPKEEP_PERIOD - time.monotonic()) if self.flowing else None
