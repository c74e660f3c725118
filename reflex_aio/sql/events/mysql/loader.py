"""MySQL and MariaDB: loading pages of events up to the first missing id."""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from reflex_aio.errors import TableRefused
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.loader import Loader, Page, Position, ReplicaGaps, safe_prefix
from reflex_aio.sql.events.mysql.gap_fill import replicates_from
from reflex_aio.sql.events.mysql.gaps import Gaps
from reflex_aio.sql.events.mysql.queries import Queries, decode_rows
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.schema.mysql import FoundEvents
from reflex_aio.tasks import shielded

__all__ = ["MysqlLoader"]

logger = logging.getLogger(__name__)

# When a page is empty and the last check is older than this, it is checked whether the table was replaced, in seconds.
_CHECK_INTERVAL = 1.0


class MysqlLoader(Loader):
    """Loads the events of one table.

    A committed row proves that its id is resolved, wherever it is read: also on a replica, whose gaps are filled on the
    primary. ``fill_gaps`` only makes it an error if noops cannot be inserted.
    """

    def __init__(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, primary: Any, fill_gaps: bool
    ) -> None:
        super().__init__(settings, driver, pool, primary=primary, fill_gaps=fill_gaps)
        self._gaps: Gaps | None = None
        self._queries: Queries
        # The query for a page, by the size at which values are cut off.
        self._page_sql: dict[int, str] = {}

    @property
    def obsolete(self) -> bool:
        return self._gaps is not None and self._gaps.replaced is not None

    async def open(self) -> None:
        settings = self._settings
        found, source = await self._statements.use(self._find)
        self._queries = Queries(settings, found.name, found.timestamp_type, utf8=found.utf8)
        self.topic, self.lags = found.topic, source is not None
        if found.local_time:
            logger.warning(
                '%s: the times in column "%s", a datetime, are read as UTC, but the time zone of the server is %s:'
                " writers that insert NOW() must set the time zone of their sessions to UTC (insert() need not)",
                settings.name,
                settings.columns.timestamp,
                found.time_zone,
            )
        # Without rows: a missing column is reported now rather than by the first read.
        await self._statements.fetch(self._queries.page(0), 0, 0)
        if source is not None and self._primary is None:
            if self._fill_gaps:
                raise TableRefused(
                    table=settings.name,
                    reason=f"the server replicates from {source}, and takes no noops",
                    remedy="fill gaps on the primary",
                )
            logger.warning(
                "%s: read on a replica of %s, where a noop would break replication, so the stream will wait at each gap"
                " until fill_gaps(), running on the primary, has filled it; with primary= it is not needed",
                settings.name,
                source,
            )
            self.gaps = ReplicaGaps(settings)
            return
        if source is None and self._primary is not None:
            raise TableRefused(
                table=settings.name,
                reason="primary is given, but the pool to read from does not connect to a replica",
                remedy="leave primary out to stream from a primary",
            )
        statements = self._pin(self._primary) if source is not None else self._statements
        gaps = Gaps(settings, self._driver, statements, found, insist=self._fill_gaps)
        try:
            await gaps.open()
        except BaseException:
            await shielded(gaps.aclose())
            raise
        self.gaps = self._gaps = gaps

    async def _find(self, connection: Any) -> tuple[FoundEvents, str | None]:
        found = await FoundEvents.of(self._driver, connection, self._settings.schema)
        return found, await replicates_from(self._driver, connection, found)

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

    async def load(self, position: Position, statements: PinnedConnection) -> Page:
        gaps = self._gaps
        if gaps is None:
            page = await statements.use(self._read, position)
        else:
            if gaps.replaced is not None:
                raise gaps.replaced
            try:
                page = await statements.use(self._read, position)
            except Exception:
                gaps.forget()
                raise
            if page.position == position and time.monotonic() - gaps.checked_at > _CHECK_INTERVAL:
                # If the ids of the table were restarted, no page would have events until they exceed this position.
                await gaps.check(position, replaced=True)
        if self._gaps_since and page.position > position:
            self._report_resolved(position, page.position)
        return page

    async def _read(self, connection: Any, position: Position) -> Page:
        settings, gaps, began = self._settings, self._gaps, time.perf_counter()
        rows, ids, full = await self._fetch(connection, position)
        settings.hooks.page_loaded(settings.name, len(rows), time.perf_counter() - began)
        if gaps is not None and ids:
            gaps.saw(ids[-1])
        count, end = safe_prefix(ids, position, gaps.floor - 1 if gaps is not None else 0)
        gap = count < len(rows)
        if gap:
            self._report_gap(end, ids[count])
        decode = partial(decode_rows, rows, ids, settings, count)
        return await self._page(connection, decode, end, full and not gap, gap)

    async def _fetch(self, connection: Any, position: Position) -> tuple[Sequence[Row], list[int], bool]:
        """Return rows, their ids, and whether there may be further rows."""
        limits = self._limits
        while True:
            count, limit = limits.count, limits.value_size
            if (sql := self._page_sql.get(limit)) is None:
                sql = self._page_sql[limit] = self._queries.page(limit)
            rows = await self._driver.fetch(connection, sql, position, count)
            ids = [row[0] for row in rows]
            if 0 not in ids:
                full = len(rows) == count
                if full and limits.reduced:
                    limits.kept(max(len(value or b"") for row in rows for value in row[4:]))
                return rows, ids, full
            limits.exceeded(limit + 1)
            if first := ids.index(0):
                # Values that were cut off, and the events after them, are loaded by further queries.
                return rows[:first], ids[:first], True

    async def aclose(self) -> None:
        if self._gaps is None:
            await super().aclose()
        else:
            await asyncio.gather(self._gaps.aclose(), super().aclose())
