"""PostgreSQL: loading pages, at the beginning of which everything is resolved."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from reflex_aio.errors import (
    CursorAhead,
    DatabaseError,
    SchemaError,
    StreamStopped,
    TableRefused,
)
from reflex_aio.event import Event
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.dialect import EventsSettings
from reflex_aio.sql.events.loader import Loader, Page, Position, check_loaded, safe_prefix
from reflex_aio.sql.events.postgres.gap_fill import GapFiller
from reflex_aio.sql.events.postgres.gaps import Gaps, Resolved
from reflex_aio.sql.events.postgres.queries import TIMESTAMP_TYPES, Columns, Queries
from reflex_aio.sql.schema.postgres import FoundEvents
from reflex_aio.sql.wakeups.notifier import TimedEvent
from reflex_aio.tasks import shielded

__all__ = ["PostgresLoader"]

logger = logging.getLogger(__name__)

# How often a standby is asked whether it has replayed enough, in seconds.
_REPLAY_PERIOD = 0.005
_IN_RECOVERY = "SELECT pg_is_in_recovery()"
_REPLAYED = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn() - '0/0' >= $1::int8"
# How old the last scan may be when a page is empty, before it is looked whether the table is still the one that was
# opened, in seconds.
_CHECK_PERIOD = 2.0
# How many reads in a row may find another server than the scan before them.
_STRANGERS = 3
# How often to look whether the primary's noops have come, in seconds.
_STANDBY_PERIOD = 0.1

# What the server says of a page that doesn't fit into a value or its memory.
_TOO_LARGE = ("54000", "53200")


class _PageSql(Protocol):
    def __call__(self, size: int, *, packed: bool) -> str: ...


class PostgresLoader(Loader):
    """Loads the events of one table.

    :param pool: where the rows are read
    :param primary: a pool of the primary, if ``pool`` leads to a standby
    :param fill_gaps: take every id that is missing for a noop, before it is passed
    """

    def __init__(
        self,
        settings: EventsSettings,
        driver: Driver,
        pool: Any,
        *,
        primary: Any = None,
        fill_gaps: bool = False,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._pool = pool
        self._primary = primary
        self._fill_gaps = fill_gaps
        self._statements = self._borrow(pool)
        self._gaps: Gaps | None = None
        self._filler: GapFiller | None = None
        self._queries: Queries
        self._name = settings.name
        self._page_size = settings.page_size
        self._packed = True
        self._strangers = 0
        self._promoted = False
        # Whether the last page had a gap, and the next one had best be read so that gaps may be passed.
        self._gappy = False
        self._gap_since: dict[Position, float] = {}
        self.topic = ""
        self.lags = False

    @property
    def obsolete(self) -> bool:
        return self._promoted or (self._gaps is not None and self._gaps.replaced is not None)

    def _borrow(self, pool: Any) -> PinnedConnection:
        settings = self._settings
        return PinnedConnection(self._driver, pool, table=settings.name, timeout=settings.query_timeout)

    async def open(self) -> None:
        settings, columns = self._settings, self._settings.columns
        found = await self._statements.use(
            lambda connection: FoundEvents.of(self._driver, connection, settings.schema)
        )
        self._name, self.topic, standby, timestamp_type = (
            found.name,
            found.topic,
            found.in_recovery,
            found.timestamp_type,
        )
        if timestamp_type not in TIMESTAMP_TYPES:
            difference = f"is {timestamp_type or 'missing'}: accepted is {TIMESTAMP_TYPES[0]}"
            raise SchemaError(table=settings.name, differences=[f'column "{columns.timestamp}" {difference}'])
        self.lags = standby
        self._queries = Queries(
            settings, self._name, timestamp_type, one_server=not standby, partitioned=found.partitioned
        )
        # No row of it: that a column is missing is better told now than by the first read.
        await self._statements.fetch(self._queries.page(0), 0)
        if standby and self._primary is None:
            if self._fill_gaps:
                raise TableRefused(
                    table=settings.name,
                    reason="a standby takes no noops",
                    remedy="stream with fill_gaps=True on the primary",
                )
            logger.warning(
                "%s: read on a standby, which knows nothing of the primary's open transactions: the stream will stay at"
                " each gap until fill_gaps(), running on the primary, has filled it; primary= does without",
                settings.name,
            )
            return
        if not standby and self._primary is not None:
            raise TableRefused(
                table=settings.name,
                reason="primary is given, but the pool to read from doesn't lead to a standby",
                remedy="leave primary out to stream from a primary",
            )
        gaps = Gaps(
            self._borrow(self._primary if standby else self._pool),
            table=settings.name,
            name=self._name,
            id_column=columns.id,
            fenced=self._fill_gaps,
            standby=standby,
        )
        try:
            await gaps.open()
            if self._fill_gaps:
                self._filler = GapFiller(settings, self._driver, self._statements, self._name, self._queries)
                await self._filler.open()
        except BaseException:
            await shielded(gaps.aclose())
            raise
        self._gaps = gaps

    async def check(self, position: Position, *, anew: bool) -> None:
        if self._gaps is None:
            return
        if anew or position > self._gaps.scan.top:
            await self._gaps.renew()
        if position <= self._gaps.scan.top:
            return
        # The newest rows may have been deleted: only the sequence knows how far the ids have come.
        last = await self._gaps.last_drawn()
        if last is not None and position > last:
            raise CursorAhead(table=self._settings.name, cursor=str(position), last=str(last or ""))

    async def head(self, lag: float | None) -> Position:
        if lag:
            rows = await self._statements.fetch(self._queries.head_by_age, self._settings.clock() - lag)
        else:
            rows = await self._statements.fetch(self._queries.head)
        # The next stream may be opened much later.
        self._statements.release_soon()
        head = int(rows[0][0] or 0) if rows else 0
        if self._gaps is not None:
            self._gaps.saw(head)
        return head

    async def load(self, position: Position, through: PinnedConnection) -> Page:
        """Load the page after ``position``; on a standby, once that has replayed what the primary has resolved.

        :raises StreamStopped: if the standby was promoted
        """
        if self._gaps is not None and self._gaps.replaced is not None:
            raise self._gaps.replaced
        # Taken before the statement is sent: what a scan resolves, only later statements are sure to see.
        resolved = self._gaps.resolved if self._gaps is not None else None
        checked = resolved is not None and resolved.position > position and self._gappy

        async def read(connection: Any) -> Page | None:
            if checked:
                assert resolved is not None
                return await self._checked_page(connection, position, resolved)
            columns = await self._fetch(connection, self._queries.page, position)
            return await self._page(connection, columns, position, 0)

        try:
            # Outside of the time limit: a standby may be behind for as long as it likes.
            page = await through.use(read)
            while page is None:
                await asyncio.sleep(_REPLAY_PERIOD)
                page = await through.use(read)
        except Exception:
            if self._gaps is not None:
                self._gaps.forget()
            raise
        if self._gaps is not None and page.position == position and self._gaps.age > _CHECK_PERIOD:
            # Of a table that began anew, nothing would come until its ids have passed this position.
            await self.check(page.position, anew=True)
        self._gappy = page.gap or (self._gappy and checked)
        if self._gaps is not None and page.position > position:
            self._gaps.flowing = True
        if self._gap_since and page.position > position:
            self._report_resolved(position, page.position)
        return page

    async def _checked_page(self, connection: Any, position: Position, resolved: Resolved) -> Page | None:
        gaps = self._gaps
        assert gaps is not None
        # On the connection that reads, as a pool may lead to several standbys.
        if resolved.wal is not None and not await self._has_replayed(connection, resolved.wal):
            return None
        columns = await self._fetch(
            connection, self._queries.checked_page, position, self._name, gaps.sequence
        )
        if columns.identity != resolved.identity:
            # A restart, or a pool that leads to several servers: what the scan resolved isn't true of these rows.
            self._strangers += 1
            if self._strangers > _STRANGERS:
                raise DatabaseError(
                    f"{self._settings.name}: rows and locks come from different servers: give a DSN that leads to one"
                )
            gaps.forget()
            return Page((), position, False, True)
        self._strangers = 0
        ids = columns.ids
        limit = min(ids[-1], resolved.position) if columns.full else resolved.position
        if self._filler is not None:
            start = gaps.scan.start or 1
            if not await self._filler.is_whole(connection, start, position, limit, ids):
                limit = 0
        return await self._page(connection, columns, position, limit)

    async def _has_replayed(self, connection: Any, wal: int) -> bool:
        in_recovery, replayed = (await self._driver.fetch(connection, _REPLAYED, wal))[0]
        if not in_recovery:
            self._stop_promoted()
        return bool(replayed)

    def _stop_promoted(self) -> NoReturn:
        self._promoted = True
        raise StreamStopped(f"{self._settings.name}: the standby was promoted to a primary")

    async def _fetch(self, connection: Any, sql: _PageSql, position: Position, *args: Any) -> Columns:
        settings = self._settings
        began = time.perf_counter()
        while True:
            size, packed = self._page_size, self._packed
            try:
                with self._driver.errors(settings.name):
                    [row] = await self._driver.fetch(connection, sql(size, packed=packed), position, *args)
            except DatabaseError as exc:
                if exc.sqlstate not in _TOO_LARGE or size == 1:
                    raise
                self._page_size = size // 2
                logger.warning("%s: %d events make too large a page: %s", settings.name, size, exc)
                continue
            columns = Columns(row, position, size, settings, packed=packed)
            if not columns.torn:
                break
            # A table with such ids has more of them.
            self._packed = False
        settings.hooks.page_loaded(settings.name, len(columns.ids), time.perf_counter() - began)
        return columns

    async def _page(self, connection: Any, columns: Columns, position: Position, resolved: Position) -> Page:
        ids = columns.ids
        count, end = safe_prefix(ids, position, resolved)
        gap = count < len(ids)
        if gap and end not in self._gap_since:
            self._gap_since[end] = time.monotonic()
            self._settings.hooks.gap_detected(self._settings.name, end, ids[count])
        if not columns.complete:
            await self._refuse_untimed(connection, position)
        more = columns.full and not gap
        if self._settings.loader is None:
            return Page(lambda batch: self._events(columns, count, batch=batch), end, more, gap)
        events = self._events(columns, count)
        if events:
            events = check_loaded(await self._settings.loader(connection, events), events)
        return Page(events, end, more, gap)

    def _events(self, columns: Columns, count: int, *, batch: bool = False) -> Sequence[Event]:
        began = time.perf_counter()
        made = columns.batch(count)
        events = made if batch else list(made)
        self._settings.hooks.page_decoded(self._settings.name, len(events), time.perf_counter() - began)
        return events

    async def _refuse_untimed(self, connection: Any, position: Position) -> NoReturn:
        found = await self._driver.fetch(connection, self._queries.untimed, position)
        event = f"event {found[0][0]}" if found else f"an event after {position}"
        problem = f'column "{self._settings.columns.timestamp}" of {event} is NULL'
        raise SchemaError(table=self._settings.name, differences=[problem])

    def _report_resolved(self, position: Position, end: Position) -> None:
        settings, now = self._settings, time.monotonic()
        for after in [after for after in self._gap_since if position <= after < end]:
            settings.hooks.gap_resolved(settings.name, after, now - self._gap_since.pop(after))

    async def resolve(self, position: Position, woken: TimedEvent | None = None) -> None:
        if self._gaps is not None:
            await self._gaps.resolve(position, woken)
            # Only a page that is checked may pass what was resolved.
            self._gappy = True
            return
        # A standby: what fills the gap comes from the primary, with or without a wake-up.
        await asyncio.sleep(min(self._settings.poll_period, _STANDBY_PERIOD))
        if not (await self._statements.fetch(_IN_RECOVERY))[0][0]:
            self._stop_promoted()

    def upkeep_due(self) -> float | None:
        return None if self._gaps is None else self._gaps.upkeep_due()

    async def upkeep(self) -> None:
        if self._gaps is not None:
            await self._gaps.renew()

    async def aclose(self) -> None:
        while self._gap_since:
            self._settings.hooks.gap_abandoned(self._settings.name, self._gap_since.popitem()[0])
        gaps = [] if self._gaps is None else [self._gaps.aclose()]
        await asyncio.gather(*gaps, self._statements.aclose())
