"""MySQL and MariaDB: resolving gaps with noops, once it is unlikely that a writer owns one of the missing ids.

No view of locks that every user may read covers the moment between drawing an id and inserting it. So the only proof
that an id can never appear any more is a row with that id: where no writer has inserted one, a noop. The choice of the
ids to fill, and of the time, is a courtesy to writers. It does not affect the safety of events: streams only pass ids
of which they have read a committed row.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from itertools import islice
from typing import Any, NamedTuple, NoReturn

from reflex_aio.errors import CursorAhead, ReflexError, TableRefused, TableReplaced
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.loader import GapResolver
from reflex_aio.sql.events.mysql.gap_fill import (
    FillOutcome,
    GapFiller,
    check_fillable,
    fetch_unless_denied,
    next_id,
    replicates_from,
)
from reflex_aio.sql.events.mysql.queries import GapQueries, dirty_read
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.schema.mysql import FoundEvents
from reflex_aio.sql.wakeups.notifier import TimedEvent, wait_for_wakeup

__all__ = ["AgedHead", "Gaps", "Missing", "missing_ids"]

logger = logging.getLogger(__name__)

# The age of an id at which the missing ids below it are filled, in seconds: a thousand times the time to insert a row,
# so that hardly any writer is refused.
_AGE = 0.1
# The shortest and the longest interval of attempts while a gap is open, in seconds. It grows with each attempt.
_SHORTEST_INTERVAL, _LONGEST_INTERVAL = 0.010, 0.050
# The greatest number of rows that each of the two reads of a round returns.
_ROUND = 5000
# Missing ids this far below the first event were pruned; an event may still appear with an id closer to it.
_BELOW_FIRST = 1000
# Ids that jumped by more than this were set by hand: filling the jump would do more harm than good.
_MOST_MISSING = 1_000_000
# How long the checks of table and server remain valid for noops, and the wait after a denied noop, in seconds.
_CHECK_INTERVAL = 1.0
_DENIED_INTERVAL = 1.0
# The interval of log messages about an open gap, in seconds.
_LOG_INTERVAL = 10.0
# The least time between the ids that AgedHead keeps, in seconds: a dozen of them are as good as all.
_STEP = 0.01

# The values of @@read_only on a server that accepts writes.
_WRITABLE = ("0", "OFF")
_OPEN_TRANSACTIONS = """
SELECT trx_mysql_thread_id, trx_started FROM information_schema.innodb_trx AS trx
WHERE trx_rows_modified > 0 OR trx_rows_locked > 0 ORDER BY trx.trx_started LIMIT 3
"""


class AgedHead:
    """The greatest id that was seen some time ago.

    Every id below it had been drawn by then. It advances with the ids that are seen, however many gaps open meanwhile:
    a timer for each gap, or for each page, would restart with every gap.

    :param age: the time since it was seen, in seconds
    """

    def __init__(self, age: float) -> None:
        self._age = age
        # Pairs of time and id, both ascending. Of those that are old enough, only the last is kept.
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, id: int, now: float) -> None:
        """Register that there is a row with this id. ``now`` never decreases, in seconds."""
        if self._seen and (id <= self._seen[-1][1] or now - self._seen[-1][0] < _STEP):
            return
        self._seen.append((now, id))
        self._drop_older(now)

    def at(self, now: float) -> int:
        """Return the greatest id that was seen at least ``age`` before ``now``; 0 if there is none."""
        self._drop_older(now)
        return self._seen[0][1] if self._seen and self._is_old(self._seen[0], now) else 0

    def due(self, position: int, now: float) -> float | None:
        """Return the time until an id above ``position`` is old enough, in seconds; ``None`` if none was seen."""
        for at, seen in self._seen:
            if seen > position:
                return max(0.0, at + self._age - now)
        return None

    def forget(self) -> None:
        """Forget all ids, after any error: they may be another server's."""
        self._seen.clear()

    def _drop_older(self, now: float) -> None:
        while len(self._seen) > 1 and self._is_old(self._seen[1], now):
            self._seen.popleft()

    def _is_old(self, seen: tuple[float, int], now: float) -> bool:
        return now - seen[0] >= self._age


class Missing(NamedTuple):
    """The missing ids of a range."""

    ids: Sequence[int]
    """The lowest of the ids without a row, up to ``end``."""
    total: int
    """The number of all of them."""
    end: int
    """The last id that was examined, or the one before the first in flight."""
    in_flight: int | None
    """The first id whose row is uncommitted, if there is one."""


def missing_ids(
    first: int, last: int, *, uncommitted: Sequence[int], committed: Sequence[int], limit: int, most: int
) -> Missing:
    """Return the missing ids from ``first`` to ``last``, up to the first in flight, from the results of two reads.

    The first read also sees uncommitted rows, the second one committed rows only. A row that only the first has seen is
    in flight, or was rolled back in between. In the opposite order, each row that is committed between the two would
    look as if it were in flight, and everything behind it would have to wait for another round.

    Beyond an id in flight there may be other ids of the same transaction, which it has drawn and not inserted yet.

    :param uncommitted: the ids in this range that the first read has seen, in ascending order
    :param committed: those that the second read has seen, in ascending order
    :param limit: the limit of both reads: the ids after the last one of a full result were not examined
    :param most: the greatest number of missing ids to return
    """
    end = min([last, *(seen[-1] for seen in (uncommitted, committed) if len(seen) >= limit)])
    present = set(committed)
    in_flight = next((each for each in uncommitted if each <= end and each not in present), None)
    if in_flight is not None:
        end = in_flight - 1
    total = max(0, end - first + 1 - sum(1 for each in committed if first <= each <= end))
    ids = list(islice((each for each in range(first, end + 1) if each not in present), min(most, total)))
    return Missing(ids, total, end, in_flight)


class _Attempt(Enum):
    DONE = auto()
    """The next page may contain more."""
    WAIT = auto()
    """There is nothing to do yet."""
    REPEAT = auto()
    """The attempt has already waited for a lock."""


class Gaps(GapResolver):
    """Fills the gaps of one table.

    :param statements: a connection to the server where noops are inserted, the primary
    :param insist: raise if noops cannot be inserted, rather than wait for another process to fill the gaps
    """

    def __init__(
        self,
        settings: EventsSettings,
        driver: Driver,
        statements: PinnedConnection,
        found: FoundEvents,
        *,
        insist: bool,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._statements = statements
        self._found = found
        self._insist = insist
        self._queries = GapQueries(settings, found.name)
        self._filler = GapFiller(settings, driver, found)
        self._heads = AgedHead(_AGE)
        self._attempting = asyncio.Lock()
        self._seen = 0
        self._fillable_at = self._denied_at = self._denial_logged_at = float("-inf")
        self.checked_at = float("-inf")
        """The time of the last check that the table is the one that was opened, by :func:`time.monotonic`."""
        self.floor = 0
        """Everything below this id was pruned."""
        self.replaced: TableReplaced | None = None
        """If set, nothing that was known of the table is valid any more."""

    async def open(self) -> None:
        """Check that gaps can be filled.

        :raises TableRefused: if not
        """
        await self._statements.use(self._open)

    async def _open(self, connection: Any) -> None:
        await self._check_fillable(connection)
        await self._check_ids(connection, 0)
        if not await self._filler.is_allowed(connection):
            self._deny()

    def saw(self, id: int) -> None:
        """Register that there is a committed row with this id. The ids below have been drawn, even if it is deleted."""
        self._seen = max(self._seen, id)
        self._heads.saw(self._seen, time.monotonic())

    def forget(self) -> None:
        """Forget what was checked and seen, after any error: the next statement may reach another server."""
        self._heads.forget()
        self.checked_at = self._fillable_at = float("-inf")

    async def check(self, position: int, *, replaced: bool) -> None:
        if replaced or position > self._seen:
            await self._statements.use(self._check_ids, position)

    async def _check_ids(self, connection: Any, position: int) -> None:
        # Taken before the query: rows that are seen meanwhile may be newer than its result.
        seen = self._seen
        following = await next_id(self._driver, connection, self._found)
        if following is None:
            self._replace("the table no longer exists")
        if following <= seen:
            self._replace(f"its AUTO_INCREMENT has gone back to {following}, below event {seen}")
        if following <= position:
            raise CursorAhead(table=self._settings.name, cursor=str(position), last=str(following - 1 or ""))
        self.checked_at = time.monotonic()

    def _replace(self, what: str) -> NoReturn:
        self.replaced = TableReplaced(table=self._settings.name, what=what)
        raise self.replaced

    async def _check_fillable(self, connection: Any) -> None:
        await check_fillable(self._driver, connection, self._settings, self._found)
        source = await replicates_from(self._driver, connection, self._found)
        if source is not None:
            raise TableRefused(
                table=self._settings.name,
                reason=f"the server replicates from {source}: a noop here would break replication",
                remedy="stream from the primary, or give its pool too: source(replica_pool, primary=primary_pool)",
            )
        self._fillable_at = time.monotonic()

    async def resolve(self, position: int, woken: TimedEvent | None = None) -> None:
        """Wait until the ids after ``position``, or some of them, have rows."""
        began = logged_at = time.monotonic()
        interval = _SHORTEST_INTERVAL
        while True:
            # One reader at a time: several would fill the same ids.
            async with self._attempting:
                try:
                    outcome = await self._statements.use(self._attempt, position)
                except Exception:
                    self.forget()
                    raise
            if outcome is _Attempt.DONE:
                return
            now = time.monotonic()
            if now - logged_at > _LOG_INTERVAL:
                logged_at = now
                await self._log_transactions(position, now - began)
            if outcome is _Attempt.WAIT:
                due = self._heads.due(position, now) or interval
                await wait_for_wakeup(min(interval, due), woken)
                interval = min(interval * 1.5, _LONGEST_INTERVAL)

    async def _attempt(self, connection: Any, position: int) -> _Attempt:
        """Fill some of the missing ids after ``position``, if they are old enough."""
        fetch = self._driver.fetch
        [(following, head, read_only)] = await fetch(connection, self._queries.state, position)
        self.saw(head or 0)
        if following == position + 1:
            return _Attempt.DONE
        now = time.monotonic()
        aged = self._heads.at(now)
        if aged <= position or now - self._denied_at < _DENIED_INTERVAL:
            return _Attempt.WAIT
        if (await self._dirty_read(connection, self._queries.next, position))[0][0] == position + 1:
            # In flight; the ids behind it may be the same writer's.
            return _Attempt.WAIT
        if (following or aged + 1) - position > _BELOW_FIRST:
            await self._find_floor(connection, following, aged)
            if following is not None and following <= self.floor:
                return _Attempt.DONE
        return await self._fill_round(connection, max(position + 1, self.floor), aged, read_only)

    async def _fill_round(self, connection: Any, first: int, aged: int, read_only: object) -> _Attempt:
        """Fill the missing ids from ``first`` to ``aged``, up to the first in flight."""
        fetch, ids = self._driver.fetch, self._queries.ids
        uncommitted = _ids(await self._dirty_read(connection, ids, first, aged, _ROUND))
        committed = _ids(await fetch(connection, ids, first, aged, _ROUND))
        missing = missing_ids(
            first, aged, uncommitted=uncommitted, committed=committed, limit=_ROUND, most=self._filler.batch
        )
        if not missing.ids:
            return _Attempt.DONE if missing.end >= first else _Attempt.WAIT
        if missing.total > _MOST_MISSING:
            raise TableRefused(
                table=self._settings.name,
                reason=f"{missing.total} of the ids from {first} to {missing.end} are missing",
                remedy="if an id or AUTO_INCREMENT was set by hand, move the cursor past the jump",
            )
        if not committed or missing.ids[-1] > committed[-1]:
            # The newest rows were deleted; or all rows, and the ids were restarted.
            await self._check_ids(connection, first - 1)
        if time.monotonic() - self._fillable_at > _CHECK_INTERVAL:
            await self._check_fillable(connection)
            await self._check_ids(connection, first - 1)
        if str(read_only) not in _WRITABLE:
            self._filler.denial = "the server is read-only"
            outcome = FillOutcome.DENIED
        else:
            outcome = await self._filler.fill(connection, missing.ids)
        if outcome is FillOutcome.DENIED:
            self._deny()
            return _Attempt.WAIT
        return _Attempt.DONE if outcome is FillOutcome.FILLED else _Attempt.REPEAT

    async def _find_floor(self, connection: Any, following: int | None, aged: int) -> None:
        """Find the id up to which the beginning of the table was pruned."""
        # By a dirty read, as any number of the first rows may be in flight.
        [(least, event)] = await self._dirty_read(connection, self._queries.bottom, _BELOW_FIRST + 1)
        if least is None:
            # All rows have been deleted. An event that is still to come is as close to them as in any pruned table.
            least = event = aged + 1
        # If the first rows are all noops, filling the ids below them would never end.
        floor = least if event is None else min(least, max(1, event - _BELOW_FIRST))
        self.floor = floor if following is None else min(floor, following)

    def _deny(self) -> None:
        self._denied_at = now = time.monotonic()
        if self._insist:
            raise TableRefused(
                table=self._settings.name,
                reason=f"noops can't be inserted: {self._filler.denial}",
                remedy="grant INSERT on it to the user that fills its gaps, on a server that accepts writes",
            )
        if now - self._denial_logged_at > _LOG_INTERVAL:
            self._denial_logged_at = now
            logger.warning(
                "%s: noops can't be inserted, so the stream will wait at each gap of a rolled-back transaction until"
                " fill_gaps(), run by a user with the privilege, has filled it: grant INSERT on it (%s)",
                self._settings.name,
                self._filler.denial,
            )

    async def _log_transactions(self, position: int, seconds: float) -> None:
        try:
            rows = await self._statements.use(self._open_transactions)
        except ReflexError as exc:
            # A message must not end the stream.
            logger.debug("%s: the open transactions can't be listed: %s", self._settings.name, exc)
            rows = None
        logger.warning(
            "%s: waiting for the event after %d for %.0f s: its id was drawn, or is locked, by an open transaction%s",
            self._settings.name,
            position,
            seconds,
            " (the privilege PROCESS is needed to list them)"
            if rows is None
            else "".join(f" (thread {thread}, since {since})" for thread, since in rows),
        )

    async def _open_transactions(self, connection: Any) -> Sequence[Row] | None:
        return await fetch_unless_denied(self._driver, connection, _OPEN_TRANSACTIONS)

    async def _dirty_read(self, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
        return await dirty_read(self._driver, connection, sql, *args)

    async def aclose(self) -> None:
        """Release the connection."""
        await self._statements.aclose()


def _ids(rows: Sequence[Row]) -> list[int]:
    return [row[0] for row in rows]
