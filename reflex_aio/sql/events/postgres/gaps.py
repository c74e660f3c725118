"""PostgreSQL: resolving gaps by scans of pg_locks, which show when a missing id can never appear any more."""

import asyncio
import logging
import math
import time
from dataclasses import dataclass

from reflex_aio.errors import (
    ConnectionLost,
    CursorAhead,
    ReflexError,
    TableRefused,
    TableReplaced,
)
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.loader import GapResolver
from reflex_aio.sql.events.postgres.catalog import Scan, describe_sql, scan_sql
from reflex_aio.sql.events.postgres.horizon import Horizon
from reflex_aio.sql.wakeups.notifier import TimedEvent, wait_for_wakeup
from reflex_aio.tasks import Tasks

__all__ = ["SCAN_INTERVAL", "Gaps", "Resolved"]

logger = logging.getLogger(__name__)

# The shortest and the longest interval of scans while a gap is open, in seconds. It grows while nothing changes. A
# wake-up shortens the wait.
_SHORTEST_INTERVAL, _LONGEST_INTERVAL = 0.010, 0.050
SCAN_INTERVAL = 0.1
"""The interval of scans while events arrive, in seconds: the bound of a new holder is as old as the last scan."""
# The interval of checks whether rows were inserted with ids that the sequence has not reached, in seconds.
_IMPORT_INTERVAL = 10.0
# The interval of log messages about the transactions that keep a gap open, in seconds.
_LOG_INTERVAL = 10.0

# At the start of a page of WAL, the insert position is behind the page header. Replay reaches that only when more is
# written.
_WAL_HEADERS = (24, 40)
_INSERT_POSITION = """
SELECT (pg_current_wal_insert_lsn() - '0/0')::int8, current_setting('wal_block_size')::int8, pg_is_in_recovery()
"""
_MAY_READ = """
SELECT has_sequence_privilege(s.oid, 'SELECT'), quote_ident(n.nspname) || '.' || quote_ident(s.relname)
FROM pg_class s JOIN pg_namespace n ON n.oid = s.relnamespace WHERE s.oid = $1::int8::oid
"""
# Other databases may have a relation with the same oid.
_HOLDERS = """
SELECT string_agg(coalesce('pid ' || l.pid || coalesce(' (' || a.state || ', transaction began '
           || round(extract(epoch FROM clock_timestamp() - a.xact_start)::numeric, 1) || ' s ago)', ''),
           'a prepared transaction'), ', ')
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = $1::int8::oid AND l.mode = 'RowExclusiveLock' AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The result of a scan.

    No further row can appear up to the id ``position``, for a statement that begins after the scan, on the same
    incarnation of the table (``identity``), or on a standby that has replayed ``wal``.
    """

    position: int
    identity: int
    wal: int | None


_NOTHING = Resolved(0, 0, None)


class Gaps(GapResolver):
    """Resolves the gaps of one table.

    :param statements: a connection to the server with the locks, the primary
    :param table: the table's name, for messages
    :param name: its name with the schema, quoted
    :param id_column: the name of its id column, unquoted
    :param filled: whether missing ids are filled by noops before they are passed
    :param standby: whether the rows are read on a standby
    """

    def __init__(
        self,
        statements: PinnedConnection,
        *,
        table: str,
        name: str,
        id_column: str,
        filled: bool,
        standby: bool,
    ) -> None:
        self._statements = statements
        self._table = table
        self._name = name
        self._id_column = id_column
        self._sql = scan_sql(name, f'"{id_column}"', server=not standby)
        self._filled = filled
        self._standby = standby
        self._horizon = Horizon()
        self._seen = 0
        self._last_scan: Scan | None = None
        self._described: Scan
        self._scanning = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._scans = 0
        self._changed = True
        self.sequence = 0
        self.scanned_at = 0.0
        """The time of the last scan, by :func:`time.monotonic`."""
        self.resolved = _NOTHING
        self._imports_checked_at = -math.inf
        self._may_read_sequence: bool | None = None
        self._sequence_name = ""
        self.suspected = False
        """True if the next page should be checked for gaps that may be passed, as the last one had a gap."""
        self.replaced: TableReplaced | TableRefused | None = None
        """If set, nothing that was known of the table is valid any more."""

    @property
    def last_scan(self) -> Scan:
        """The last scan."""
        assert self._last_scan is not None
        return self._last_scan

    async def open(self) -> None:
        """Find the sequence that feeds the ids, and make the first scan.

        :raises TableRefused: if the table's gaps cannot be resolved
        """
        row = (await self._statements.fetch(describe_sql(), self._name, 0, self._id_column))[0]
        self._described = described = Scan.of(row)
        described.check(self._table, filled=self._filled)
        self.sequence = described.sequences[0]
        await self.scan()

    def saw(self, id: int) -> None:
        """Register that a row with this id is, or was, visible. The id can be resolved even if the row is deleted."""
        self._seen = max(self._seen, id)

    def forget(self) -> None:
        """Forget the holders and what is resolved, after any error: holders may have begun unseen."""
        self._horizon = Horizon()
        self.resolved = _NOTHING

    async def scan(self) -> None:
        """Make a scan, or wait for one that begins after this call.

        :raises TableReplaced: if the table is not the one that was opened
        :raises TableRefused: if its gaps cannot be resolved any more
        """
        before = self._scans
        # Scans must not overlap: added to the horizon out of order, one would remove a holder that the next would add
        # again with too high a bound.
        async with self._scanning:
            if self._running is not None:
                # Started by a caller that was cancelled.
                await asyncio.wait([self._running])
            if self._scans > before:
                return
            self._scans += 1
            # In its own task: a reader that is cancelled must not make all others start again.
            self._running = self._tasks.start(
                self._scan(), name=f"reflex_aio: scan ({self._table})", awaited=True
            )
            await asyncio.shield(self._running)
            self._running = None

    upkeep = scan

    async def _scan(self) -> None:
        try:
            self.due_at = math.inf
            # Rows that are seen during the scan may have ids above those of holders that it does not list.
            seen = self._seen
            rows = await self._statements.fetch(self._sql, self._name, self.sequence, self._id_column)
            self.scanned_at = time.monotonic()
            if self.due_at < math.inf:
                # A page has arrived meanwhile.
                self.due_at = self.scanned_at + SCAN_INTERVAL
            scan, last = Scan.of(rows[0]), self._last_scan
            # The table may have changed between its description and the first scan too.
            before = last or self._described
            # A new sequence in place of the old one is another table, whatever the scan says of the old one.
            if scan.table == before.table and (self.sequence in scan.sequences or len(scan.sequences) != 1):
                # Before the comparison: the way in which ids are generated is the more specific problem.
                scan.check(self._table, filled=self._filled)
            scan.compare(before, self._table)
            if scan.relfilenode != before.relfilenode:
                await self._check_restarted(before)
            if last is not None and (scan.started, scan.in_recovery) != (last.started, last.in_recovery):
                logger.info("%s: the server was restarted, so the open transactions are unknown", self._table)
                self.forget()
                # The server may be a former standby that never had the row: its id can be drawn again.
                seen = self._seen = 0
            if not self._filled and time.monotonic() - self._imports_checked_at > _IMPORT_INTERVAL:
                await self._check_imports(scan.top)
            self._last_scan = scan
            self._changed = self._horizon.scanned(max(scan.top, seen), scan.holders)
            wal = await self._insert_position() if self._standby else None
            self.resolved = Resolved(self._horizon.resolved, scan.identity, wal)
        except BaseException as exc:
            if isinstance(exc, (TableReplaced, TableRefused)):
                # New streams need a new description of the table, also while old ones are open.
                self.replaced = exc
            self.forget()
            raise

    async def _check_restarted(self, before: Scan) -> None:
        """Check that the sequence has a new file because it was altered, and not because it was restarted.

        :param before: the last scan. The row that was the newest one must still be there, and the sequence beyond it
        :raises TableReplaced: if not
        """
        rows = await self._statements.fetch(
            f'SELECT xmin::text FROM {self._name} WHERE "{self._id_column}" = $1::int8', before.top
        )
        drawn = await self._last_drawn()
        is_same_row = bool(rows) and rows[0][0] == before.top_version
        if not is_same_row or drawn is None or drawn < max(before.top, self._seen):
            raise TableReplaced(table=self._table, what="the id's sequence was restarted or replaced")
        logger.info("%s: the id's sequence was altered, and continues after %d", self._table, drawn)

    async def _check_imports(self, top: int) -> None:
        """Check that the sequence has reached all ids, as an event that it feeds would have an id below others.

        :param top: the greatest id that an earlier statement has seen
        :raises TableRefused: if rows were inserted with ids that the sequence has not reached
        """
        drawn = await self._last_drawn()
        self._imports_checked_at = time.monotonic()
        if drawn is not None and drawn < top:
            raise TableRefused(
                table=self._table,
                reason=f"its greatest id is {top}, but its sequence stands at {drawn}: events with ids in between would"
                " be missed",
                remedy=f"SELECT setval('{self._sequence_name}', {top}), or stream with fill_gaps=True",
            )

    async def _insert_position(self) -> int:
        # A separate statement: the commits of transactions that the scan no longer lists must lie before the position.
        position, block, in_recovery = (await self._statements.fetch(_INSERT_POSITION))[0]
        if in_recovery:
            raise ConnectionLost(f"{self._table}: primary now connects to another server, a standby")
        offset = position % block
        return int(position - offset if offset in _WAL_HEADERS else position)

    async def check(self, position: int, *, replaced: bool) -> None:
        if replaced or position > self.last_scan.top:
            await self.scan()
        if position <= self.last_scan.top:
            return
        # The newest rows may have been deleted: only the sequence has the last id.
        last = await self._last_drawn()
        if last is not None and position > last:
            raise CursorAhead(table=self._table, cursor=str(position), last=str(last or ""))

    async def _last_drawn(self) -> int | None:
        """Return the last id that was drawn, 0 if none, or ``None`` without the privilege to read the sequence."""
        if self._may_read_sequence is None:
            [row] = await self._statements.fetch(_MAY_READ, self.sequence)
            self._may_read_sequence, self._sequence_name = row
            if not self._may_read_sequence:
                logger.warning(
                    "%s: can't check whether a cursor is ahead of the table, nor whether ids were imported: grant"
                    " SELECT on the sequence %s",
                    self._table,
                    self._sequence_name,
                )
        if not self._may_read_sequence:
            return None
        rows = await self._statements.fetch(f"SELECT last_value, is_called FROM {self._sequence_name}")
        last, called = rows[0]
        return int(last) if called else int(last) - 1

    async def resolve(self, position: int, woken: TimedEvent | None = None) -> None:
        """Scan until the ids after ``position``, or some of them, are resolved."""
        if self.resolved.position <= position:
            await self.scan()
        began = logged_at = time.monotonic()
        interval = _SHORTEST_INTERVAL
        while self.resolved.position <= position:
            if time.monotonic() - logged_at > _LOG_INTERVAL:
                logged_at = time.monotonic()
                await self._log_holders(position, logged_at - began)
            # Of several readers that wait at gaps, the first whose time has come scans for all.
            left = self.scanned_at + interval - time.monotonic()
            if left > 0 and not await wait_for_wakeup(left, woken):
                continue
            await self.scan()
            interval = _SHORTEST_INTERVAL if self._changed else min(interval * 1.5, _LONGEST_INTERVAL)
        # Only a checked page may pass the resolved ids.
        self.suspected = True

    async def _log_holders(self, position: int, seconds: float) -> None:
        try:
            holders = (await self._statements.fetch(_HOLDERS, self.sequence))[0][0]
        except ReflexError as exc:
            # A message must not end the stream.
            holders = f"unknown sessions ({exc})"
        logger.warning(
            "%s: waiting for the event after %d for %.0f s: its id may have been drawn by an open transaction of %s",
            self._table,
            position,
            seconds,
            holders or "a session that has ended by now",
        )

    async def aclose(self) -> None:
        """Stop scanning and release the connection."""
        await self._tasks.aclose()
        await self._statements.aclose()
