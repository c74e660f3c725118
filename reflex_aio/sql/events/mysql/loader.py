"""MySQL and MariaDB: loading pages, of which only that is handed out which no id is missing from."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from reflex_aio.errors import TableRefused
from reflex_aio.event import Event
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.dialect import EventsSettings
from reflex_aio.sql.events.loader import Loader, Page, Position, check_loaded, safe_prefix
from reflex_aio.sql.events.mysql.catalog import replicates_from
from reflex_aio.sql.events.mysql.gaps import Gaps
from reflex_aio.sql.events.mysql.queries import Queries, batch_of
from reflex_aio.sql.schema.mysql import FoundEvents
from reflex_aio.sql.wakeups.notifier import TimedEvent
from reflex_aio.tasks import shielded

__all__ = ["MysqlLoader"]

logger = logging.getLogger(__name__)

# How long ago it was checked at least, when a page is empty, that the table is still the one that was opened, before it
# is checked again, in seconds.
_CHECK_PERIOD = 1.0
# How often to look on a replica whether the primary's noops have come, in seconds.
_REPLICA_PERIOD = 0.1


class MysqlLoader(Loader):
    """Loads the events of one table.

    A committed row proves itself, wherever it is read: on a replica too, whose gaps are filled on the primary.

    :param pool: where the rows are read
    :param primary: a pool of the primary, if ``pool`` leads to a replica
    :param fill_gaps: raise, rather than wait for somebody else to fill gaps, if noops can't be written
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
        self._primary = primary
        self._filler = fill_gaps
        self._statements = self._borrow(pool)
        self._gaps: Gaps | None = None
        self._queries: Queries
        self._gap_since: dict[Position, float] = {}
        self.topic = ""
        self.lags = False

    @property
    def obsolete(self) -> bool:
        return self._gaps is not None and self._gaps.replaced is not None

    def _borrow(self, pool: Any) -> PinnedConnection:
        settings = self._settings
        return PinnedConnection(self._driver, pool, table=settings.name, timeout=settings.query_timeout)

    async def open(self) -> None:
        settings = self._settings
        found, source = await self._statements.use(self._look)
        self._queries = Queries(settings, found.name, found.timestamp_type)
        self.topic, self.lags = found.topic, source is not None
        # No row of it: that a column is missing is better told now than by the first read.
        await self._statements.fetch(self._queries.page, 0, 0)
        if source is not None and self._primary is None:
            if self._filler:
                raise TableRefused(
                    table=settings.name,
                    reason=f"the server replicates from {source}, and takes no noops",
                    remedy="fill gaps on the primary",
                )
            logger.warning(
                "%s: read on a replica of %s, where a noop would break replication: the stream will stay at each gap"
                " until fill_gaps(), running on the primary, has filled it; primary= does without",
                settings.name,
                source,
            )
            return
        if source is None and self._primary is not None:
            raise TableRefused(
                table=settings.name,
                reason="primary is given, but the pool to read from doesn't lead to a replica",
                remedy="leave primary out to stream from a primary",
            )
        statements = self._borrow(self._primary) if source is not None else self._statements
        gaps = Gaps(settings, self._driver, statements, found, insist=self._filler)
        try:
            await gaps.open()
        except BaseException:
            await shielded(gaps.aclose())
            raise
        self._gaps = gaps

    async def _look(self, connection: Any) -> tuple[FoundEvents, str | None]:
        found = await FoundEvents.of(self._driver, connection, self._settings.schema)
        return found, await replicates_from(self._driver, connection, found)

    async def check(self, position: Position, *, anew: bool) -> None:
        if self._gaps is not None:
            await self._gaps.check(position, anew=anew)

    async def head(self, lag: float | None) -> Position:
        if lag:
            before = int((self._settings.clock() - lag) * 1_000_000)
            rows = await self._statements.fetch(self._queries.head_by_age, before)
        else:
            rows = await self._statements.fetch(self._queries.head)
        # The next stream may be opened much later.
        self._statements.release_soon()
        head = int(rows[0][0] or 0) if rows else 0
        if self._gaps is not None:
            self._gaps.saw(head)
        return head

    async def load(self, position: Position, through: PinnedConnection) -> Page:
        gaps, size = self._gaps, self._settings.page_size
        if gaps is not None and gaps.replaced is not None:
            raise gaps.replaced

        async def read(connection: Any) -> Page:
            began = time.perf_counter()
            rows = await self._driver.fetch(connection, self._queries.page, position, size)
            self._settings.hooks.page_loaded(self._settings.name, len(rows), time.perf_counter() - began)
            return await self._page(connection, rows, position)

        try:
            page = await through.use(read)
        except Exception:
            if gaps is not None:
                gaps.forget()
            raise
        if gaps is not None and page.position == position and gaps.unchecked_for > _CHECK_PERIOD:
            # Of a table that began anew, nothing would come until its ids have passed this position.
            await self.check(page.position, anew=True)
        if self._gap_since and page.position > position:
            self._report_resolved(position, page.position)
        return page

    async def _page(self, connection: Any, rows: Sequence[Row], position: Position) -> Page:
        settings, gaps = self._settings, self._gaps
        if gaps is not None and rows:
            gaps.saw(rows[-1][0])
        ids = [row[0] for row in rows]
        count, end = safe_prefix(ids, position, gaps.floor - 1 if gaps is not None else 0)
        gap = count < len(rows)
        if gap and end not in self._gap_since:
            self._gap_since[end] = time.monotonic()
            settings.hooks.gap_detected(settings.name, end, ids[count])
        more = len(rows) == settings.page_size and not gap
        safe = rows[:count] if gap else rows
        if settings.loader is None:
            return Page(lambda batch: self._events(safe, batch=batch), end, more, gap)
        events = self._events(safe)
        if events:
            events = check_loaded(await settings.loader(connection, events), events)
        return Page(events, end, more, gap)

    def _events(self, rows: Sequence[Row], *, batch: bool = False) -> Sequence[Event]:
        settings, began = self._settings, time.perf_counter()
        made = batch_of(rows, settings)
        events = made if batch else list(made)
        settings.hooks.page_decoded(settings.name, len(events), time.perf_counter() - began)
        return events

    def _report_resolved(self, position: Position, end: Position) -> None:
        settings, now = self._settings, time.monotonic()
        for after in [after for after in self._gap_since if position <= after < end]:
            settings.hooks.gap_resolved(settings.name, after, now - self._gap_since.pop(after))

    async def resolve(self, position: Position, woken: TimedEvent | None = None) -> None:
        if self._gaps is not None:
            await self._gaps.resolve(position, woken)
            return
        # What fills the gap comes from the primary, with or without a wake-up.
        await asyncio.sleep(min(self._settings.poll_period, _REPLICA_PERIOD))

    def upkeep_due(self) -> float | None:
        # What pages show is enough to know which ids are old.
        return None

    async def upkeep(self) -> None:
        pass

    async def aclose(self) -> None:
        while self._gap_since:
            self._settings.hooks.gap_abandoned(self._settings.name, self._gap_since.popitem()[0])
        gaps = [] if self._gaps is None else [self._gaps.aclose()]
        await asyncio.gather(*gaps, self._statements.aclose())
