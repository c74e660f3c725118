"""MySQL and MariaDB: filling the missing ids of a gap with noops, once it is unlikely that a writer has one in hand.

No view of locks that every user may read covers the moment between drawing an id and inserting it. So the only proof
that an id can never appear any more is a row that has it: where no writer has inserted one, a noop. Which ids to try,
and when, is a matter of courtesy towards writers: events are safe whatever is decided here, as streams go on over ids
of which they have read a committed row, and over nothing else.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto
from itertools import islice
from typing import Any, NamedTuple, NoReturn

from reflex_aio.errors import CursorAhead, TableRefused, TableReplaced
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.dialect import EventsSettings
from reflex_aio.sql.events.mysql.catalog import is_fit, next_id, replicates_from, unless_denied
from reflex_aio.sql.events.mysql.gap_fill import FillOutcome, GapFiller, peek
from reflex_aio.sql.events.mysql.queries import GapQueries
from reflex_aio.sql.schema.mysql import FoundEvents
from reflex_aio.sql.wakeups.notifier import TimedEvent, wait_for_wakeup

__all__ = ["AgedHead", "Gaps", "Missing", "missing_ids"]

# How far apart the ids that are kept were seen at least, in seconds: a dozen of them are as good as all.
_STEP = 0.01


class AgedHead:
    """The greatest id that had been seen a while ago.

    Every id below it had been drawn by then. It moves on with what is seen, however many gaps open meanwhile: a timer
    for each gap, or each page, would start anew with every gap.

    :param age: how long ago, in seconds
    """

    def __init__(self, age: float) -> None:
        self._age = age
        # What was seen and when, both rising; of those that are old enough only the last is kept.
        self._seen: deque[tuple[float, int]] = deque()

    def saw(self, id: int, now: float) -> None:
        """Take in that there is a row of this id. ``now`` never goes back, in seconds."""
        if self._seen and (id <= self._seen[-1][1] or now - self._seen[-1][0] < _STEP):
            return
        self._seen.append((now, id))
        self._drop(now)

    def at(self, now: float) -> int:
        """Return the greatest id seen at least ``age`` before ``now``; 0 if none was."""
        self._drop(now)
        return self._seen[0][1] if self._seen and self._is_old(self._seen[0], now) else 0

    def due(self, position: int, now: float) -> float | None:
        """Return in how many seconds an id above ``position`` will be old enough; ``None`` if none was seen yet."""
        for at, seen in self._seen:
            if seen > position:
                return max(0.0, at + self._age - now)
        return None

    def forget(self) -> None:
        """Start anew, after any error: the ids may be another server's."""
        self._seen.clear()

    def _drop(self, now: float) -> None:
        while len(self._seen) > 1 and self._is_old(self._seen[1], now):
            self._seen.popleft()

    def _is_old(self, seen: tuple[float, int], now: float) -> bool:
        return now - seen[0] >= self._age


class Missing(NamedTuple):
    """What is to be done about a range of ids."""

    ids: Sequence[int]
    """The least of the ids that nobody has inserted, below ``end``."""
    total: int
    """How many these are altogether."""
    end: int
    """The last id that was looked at, or the one before the first in flight."""
    in_flight: int | None
    """The first id in flight, if there is one."""


def missing_ids(
    first: int, last: int, *, peeked: Sequence[int], committed: Sequence[int], limit: int, most: int
) -> Missing:
    """Return which of the ids from ``first`` to ``last`` are missing, up to the first in flight.

    Beyond that there may be further ids of the same transaction, which it has drawn and not inserted yet.

    :param peeked: the ids in this range that the peek has seen, in order
    :param committed: those that the read after it has seen, in order
    :param limit: how many ids each of the two returns at most: what lies beyond the last of so many wasn't looked at
    :param most: how many missing ids to return at most
    """
    end = min([last, *(seen[-1] for seen in (peeked, committed) if len(seen) >= limit)])
    there = set(committed)
    in_flight = next((each for each in peeked if each <= end and each not in there), None)
    if in_flight is not None:
        end = in_flight - 1
    total = max(0, end - first + 1 - sum(1 for each in committed if first <= each <= end))
    ids = list(islice((each for each in range(first, end + 1) if each not in there), min(most, total)))
    return Missing(ids, total, end, in_flight)


logger = logging.getLogger(__name__)

# How long ago an id must have been drawn before those below it are taken, in seconds: a thousand times what it takes
# to insert a row, so that hardly any writer is refused.
_AGE = 0.1
# While a gap is open it is looked at after the first of these, and ever later up to the second, in seconds.
_LOOK_AFTER, _LOOK_AFTER_AT_MOST = 0.010, 0.050
# How many rows each of a round's two reads returns at most.
_ROUND = 5000
# What lies this far below the first event has been pruned; what lies nearer may be still to come.
_BELOW_FIRST = 1000
# Ids that jumped this far were set by hand: to fill that would do more harm.
_MOST_MISSING = 1_000_000
# How long what was checked of table and server holds for noops, in seconds; and how long to wait after a denied one.
_CHECK_PERIOD = 1.0
_DENIED_PERIOD = 1.0
# When to tell, and tell again, what holds a gap open, in seconds.
_TELL_PERIOD = 10.0

# What @@read_only says of servers that may be written to.
_WRITABLE = ("0", "OFF")
_HOLDERS = """
SELECT trx_mysql_thread_id, trx_started FROM information_schema.innodb_trx
WHERE trx_rows_modified > 0 OR trx_rows_locked > 0 ORDER BY trx_started LIMIT 3
"""


class _Outcome(Enum):
    GO_ON = auto()
    """The next page may show more."""
    WAIT = auto()
    AGAIN = auto()
    """Time has been spent waiting."""


class Gaps:
    """Fills the gaps of one table.

    :param statements: where noops are written: on the primary
    :param insist: raise rather than wait for somebody else, if noops can't be written
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
        self._turn = asyncio.Lock()
        self._seen = 0
        self._checked_at = self._fit_at = self._denied_at = self._told_denial_at = float("-inf")
        self.floor = 0
        """Below this id everything has been pruned."""
        self.replaced: TableReplaced | None = None
        """Once set, nothing that was known of the table is true any more."""

    async def open(self) -> None:
        """Check that gaps can be filled.

        :raises TableRefused: if not
        """
        await self._statements.use(self._open)

    async def _open(self, connection: Any) -> None:
        await self._check_fit(connection)
        if not await self._filler.may(connection):
            self._deny()

    def saw(self, id: int) -> None:
        """Take in that there is a committed row of this id. Ids up to here have been drawn, even if it is deleted."""
        self._seen = max(self._seen, id)
        self._heads.saw(self._seen, time.monotonic())

    def forget(self) -> None:
        """Take nothing for granted, after any error: the next statement may reach another server."""
        self._heads.forget()
        self._checked_at = self._fit_at = float("-inf")

    @property
    def unchecked_for(self) -> float:
        """How long ago it was checked that the table is the one that was opened, in seconds."""
        return time.monotonic() - self._checked_at

    async def check(self, position: int, *, anew: bool) -> None:
        """Check that AUTO_INCREMENT is beyond ``position``, and beyond every id that was ever seen here.

        :raises CursorAhead: if it isn't beyond ``position``
        :raises TableReplaced: if it has gone back
        """
        if anew or position > self._seen:
            await self._statements.use(lambda connection: self._check_ids(connection, position))

    async def _check_ids(self, connection: Any, position: int) -> None:
        # Before it is asked: rows that are seen meanwhile may be newer than the answer.
        seen = self._seen
        following = await next_id(self._driver, connection, self._found)
        if following is None:
            self._replace("the table is gone")
        if following <= seen:
            self._replace(f"its AUTO_INCREMENT has gone back to {following}, below event {seen}")
        if following <= position:
            raise CursorAhead(table=self._settings.name, cursor=str(position), last=str(following - 1 or ""))
        self._checked_at = time.monotonic()

    def _replace(self, what: str) -> NoReturn:
        self.replaced = TableReplaced(table=self._settings.name, what=what)
        raise self.replaced

    async def _check_fit(self, connection: Any) -> None:
        await is_fit(self._driver, connection, self._settings, self._found)
        source = await replicates_from(self._driver, connection, self._found)
        if source is not None:
            raise TableRefused(
                table=self._settings.name,
                reason=f"the server replicates from {source}: a noop here would break that",
                remedy="stream from the primary, or give its pool too: source(replica_pool, primary=primary_pool)",
            )
        self._fit_at = time.monotonic()

    async def resolve(self, position: int, woken: TimedEvent | None) -> None:
        """Return once the ids after ``position`` have rows, or some of them."""
        began = told = time.monotonic()
        wait = _LOOK_AFTER
        while True:
            # In turn: several streams would take the same ids.
            async with self._turn:
                try:
                    outcome = await self._statements.use(lambda connection: self._try(connection, position))
                except Exception:
                    self.forget()
                    raise
            if outcome is _Outcome.GO_ON:
                return
            now = time.monotonic()
            if now - told > _TELL_PERIOD:
                told = now
                await self._tell(position, now - began)
            if outcome is _Outcome.WAIT:
                due = self._heads.due(position, now) or wait
                await wait_for_wakeup(min(wait, due), woken)
                wait = min(wait * 1.5, _LOOK_AFTER_AT_MOST)

    async def _try(self, connection: Any, position: int) -> _Outcome:
        [(following, head, read_only)] = await self._fetch(connection, self._queries.look, position)
        self.saw(head or 0)
        if following == position + 1:
            return _Outcome.GO_ON
        now = time.monotonic()
        aged = self._heads.at(now)
        if aged <= position or now - self._denied_at < _DENIED_PERIOD:
            return _Outcome.WAIT
        if (await self._peek(connection, self._queries.next, position))[0][0] == position + 1:
            # In flight; and what is behind it may be the same writer's.
            return _Outcome.WAIT
        if (following or aged + 1) - position > _BELOW_FIRST:
            await self._find_floor(connection, following, aged)
            if following is not None and following <= self.floor:
                return _Outcome.GO_ON
        return await self._round(connection, max(position + 1, self.floor), aged, read_only)

    async def _round(self, connection: Any, first: int, aged: int, read_only: object) -> _Outcome:
        peeked = _ids(await self._peek(connection, self._queries.ids, first, aged, _ROUND))
        committed = _ids(await self._fetch(connection, self._queries.ids, first, aged, _ROUND))
        missing = missing_ids(
            first, aged, peeked=peeked, committed=committed, limit=_ROUND, most=self._filler.batch
        )
        if not missing.ids:
            return _Outcome.GO_ON if missing.end >= first else _Outcome.WAIT
        if missing.total > _MOST_MISSING:
            raise TableRefused(
                table=self._settings.name,
                reason=f"{missing.total} of the ids from {first} to {missing.end} are missing",
                remedy="was an id or AUTO_INCREMENT set by hand? Move the cursor past the jump",
            )
        if not committed or missing.ids[-1] > committed[-1]:
            # The newest rows were deleted; or all, with the counter of ids.
            await self._check_ids(connection, first - 1)
        if time.monotonic() - self._fit_at > _CHECK_PERIOD:
            await self._check_fit(connection)
            await self._check_ids(connection, first - 1)
        if str(read_only) not in _WRITABLE:
            self._filler.denial = "the server is read-only"
            taking = FillOutcome.DENIED
        else:
            taking = await self._filler.take(connection, missing.ids)
        if taking is FillOutcome.DENIED:
            self._deny()
            return _Outcome.WAIT
        return _Outcome.GO_ON if taking is FillOutcome.FILLED else _Outcome.AGAIN

    async def _find_floor(self, connection: Any, following: int | None, aged: int) -> None:
        """Look how far the beginning of the table was pruned."""
        # By a peek, as the first rows may be in flight, however many they are.
        [(least, event)] = await self._peek(connection, self._queries.bottom, _BELOW_FIRST + 1)
        if least is None:
            # Whatever was there has been deleted; what is still to come lies as near as in any pruned table.
            least = event = aged + 1
        # Without an event as far as one looks, there are noops: to go on below them would be to go on for ever.
        floor = least if event is None else min(least, max(1, event - _BELOW_FIRST))
        self.floor = floor if following is None else min(floor, following)

    def _deny(self) -> None:
        self._denied_at = now = time.monotonic()
        if self._insist:
            raise TableRefused(
                table=self._settings.name,
                reason=f"noops can't be inserted: {self._filler.denial}",
                remedy="grant INSERT on it to the user that fills its gaps, on a server that may be written to",
            )
        if now - self._told_denial_at > _TELL_PERIOD:
            self._told_denial_at = now
            logger.warning(
                "%s: noops can't be inserted, so the stream will stay at each gap that rolled-back transactions leave,"
                " until fill_gaps() has filled it, run by a user who may: grant INSERT on it (%s)",
                self._settings.name,
                self._filler.denial,
            )

    async def _tell(self, position: int, seconds: float) -> None:
        rows = await self._statements.use(
            lambda connection: unless_denied(self._driver, connection, _HOLDERS)
        )
        logger.warning(
            "%s: the event after %d has been waited for since %.0f s: its id was drawn, or is locked, by an open"
            " transaction%s",
            self._settings.name,
            position,
            seconds,
            " (needs PROCESS to be told which)"
            if rows is None
            else "".join(f" (thread {thread}, since {since})" for thread, since in rows),
        )

    async def _fetch(self, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
        return await self._driver.fetch(connection, sql, *args)

    async def _peek(self, connection: Any, sql: str, *args: Any) -> Sequence[Row]:
        return await peek(self._driver, connection, sql, *args)

    async def aclose(self) -> None:
        """Give back the connection."""
        await self._statements.aclose()


def _ids(rows: Sequence[Row]) -> list[int]:
    return [row[0] for row in rows]
