"""PostgreSQL: loading pages of events up to the first unresolved gap."""

import asyncio
import logging
import time
from functools import partial
from typing import Any, NoReturn

from reflex_aio.errors import DatabaseError, SchemaError, StreamStopped, TableRefused
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.loader import Loader, Page, Position, ReplicaGaps, safe_prefix
from reflex_aio.sql.events.postgres.gap_fill import GapFiller
from reflex_aio.sql.events.postgres.gaps import SCAN_INTERVAL, Gaps, Resolved
from reflex_aio.sql.events.postgres.queries import TIMESTAMP_TYPES, PageColumns, Queries
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.schema.postgres import FoundEvents
from reflex_aio.sql.schema.table import local_time_difference
from reflex_aio.tasks import shielded

__all__ = ["PostgresLoader"]

logger = logging.getLogger(__name__)

# The interval of checks whether a standby has replayed enough WAL, in seconds.
_REPLAY_INTERVAL = 0.005
_IN_RECOVERY = "SELECT pg_is_in_recovery()"
_REPLAYED = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn() - '0/0' >= $1::int8"
# When a page is empty and the last scan is older than this, a scan checks whether the table was replaced, in seconds.
_CHECK_INTERVAL = 2.0
# The number of consecutive checked pages that may come from another server than the scan before them.
_MOST_STRANGERS = 3
# The SQLSTATEs of a page that exceeds the limits of a value or the server's memory.
_TOO_LARGE = ("54000", "53200")


class PostgresLoader(Loader):
    """Loads the events of one table."""

    def __init__(
        self, settings: EventsSettings, driver: Driver, pool: Any, *, primary: Any, fill_gaps: bool
    ) -> None:
        super().__init__(settings, driver, pool, primary=primary, fill_gaps=fill_gaps)
        self._pool = pool
        self._gaps: Gaps | None = None
        self._filler: GapFiller | None = None
        self._queries: Queries
        self._name = settings.name
        self._packed = True
        self._wide = False
        # The query for a page, by the limits, whether it is packed, and whether it is checked.
        self._page_sql: dict[tuple[int, int, bool, bool], str] = {}
        self._strangers = 0
        self._promoted = False

    @property
    def obsolete(self) -> bool:
        return self._promoted or (self._gaps is not None and self._gaps.replaced is not None)

    async def open(self) -> None:
        settings, columns = self._settings, self._settings.columns
        found = await self._statements.use(partial(FoundEvents.of, self._driver, schema=settings.schema))
        timestamp_type = found.timestamp_type
        if timestamp_type not in TIMESTAMP_TYPES:
            difference = f"is {timestamp_type or 'missing'}: accepted is {TIMESTAMP_TYPES[0]}"
            raise SchemaError(table=settings.name, differences=[f'column "{columns.timestamp}" {difference}'])
        if found.local_time:
            raise SchemaError(table=settings.name, differences=[local_time_difference(columns.timestamp)])
        self._name, self.topic, standby = found.name, found.topic, found.in_recovery
        self.lags = standby
        self._wide = found.event_type == "bigint"
        self._queries = Queries(
            settings,
            self._name,
            timestamp_type,
            one_server=not standby,
            partitioned=found.partitioned,
            wide_types=self._wide,
        )
        # Without rows: a missing column is reported now rather than by the first read.
        await self._statements.fetch(self._queries.page(0), 0)
        if standby and self._primary is None:
            if self._fill_gaps:
                raise TableRefused(
                    table=settings.name,
                    reason="a standby takes no noops",
                    remedy="stream with fill_gaps=True on the primary",
                )
            logger.warning(
                "%s: a standby does not know the open transactions of the primary, so the stream will wait at each gap"
                " until fill_gaps(), running on the primary, has filled it; with primary= it is not needed",
                settings.name,
            )
            self.gaps = ReplicaGaps(settings, self._check_standby)
            return
        if not standby and self._primary is not None:
            raise TableRefused(
                table=settings.name,
                reason="primary is given, but the pool to read from does not connect to a standby",
                remedy="leave primary out to stream from a primary",
            )
        gaps = Gaps(
            self._pin(self._primary if standby else self._pool),
            table=settings.name,
            name=self._name,
            id_column=columns.id,
            filled=self._fill_gaps,
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
        self.gaps = self._gaps = gaps

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

    async def load(self, position: Position, statements: PinnedConnection) -> Page:
        """Load the page after ``position``; on a standby, once it has replayed what was resolved on the primary.

        :raises StreamStopped: if the standby was promoted
        """
        gaps = self._gaps
        if gaps is None:
            page = await statements.use(self._read, position, None)
            assert page is not None
        else:
            if gaps.replaced is not None:
                raise gaps.replaced
            # Taken before the statement is sent: what a scan resolves is only certain for later statements.
            resolved = gaps.resolved if gaps.suspected and gaps.resolved.position > position else None
            try:
                page = await statements.use(self._read, position, resolved)
                # Not within the time limit of one use: a standby may lag by any time.
                while page is None:
                    await asyncio.sleep(_REPLAY_INTERVAL)
                    page = await statements.use(self._read, position, resolved)
            except Exception:
                gaps.forget()
                raise
            if page.position > position:
                gaps.due_at = gaps.scanned_at + SCAN_INTERVAL
            elif time.monotonic() - gaps.scanned_at > _CHECK_INTERVAL:
                # If the ids of the table were restarted, no page would have events until they exceed this position.
                await gaps.check(position, replaced=True)
            gaps.suspected = page.gap or (gaps.suspected and resolved is not None)
        if self._gaps_since and page.position > position:
            self._report_resolved(position, page.position)
        return page

    async def _read(self, connection: Any, position: Position, resolved: Resolved | None) -> Page | None:
        """Read a page, which may pass ``resolved`` ids; ``None`` if a standby has not replayed enough WAL."""
        settings, limit = self._settings, 0
        if resolved is None:
            columns = await self._fetch(connection, position, checked=False)
        else:
            assert self._gaps is not None
            # On the connection that reads, as a pool may connect to several standbys.
            if resolved.wal is not None and not await self._has_replayed(connection, resolved.wal):
                return None
            columns = await self._fetch(connection, position, checked=True)
            if columns.identity != resolved.identity:
                # After a restart, or with a pool that connects to several servers, the scan is not valid for these
                # rows.
                self._strangers += 1
                if self._strangers > _MOST_STRANGERS:
                    raise DatabaseError(
                        f"{settings.name}: rows and locks come from different servers: use a DSN that connects to one"
                    )
                self._gaps.forget()
                return Page((), position, False, True)
            self._strangers = 0
            # Nothing is known of the ids behind a full page.
            limit = min(columns.ids[-1], resolved.position) if columns.full else resolved.position
            if self._filler is not None:
                start = self._gaps.last_scan.start or 1
                if not await self._filler.fill(connection, start, position, limit, columns.ids):
                    limit = 0
        ids = columns.ids
        count, end = safe_prefix(ids, position, limit)
        gap = count < len(ids)
        if gap:
            self._report_gap(end, ids[count])
        return await self._page(
            connection, partial(columns.decode, count), end, columns.full and not gap, gap
        )

    async def _fetch(self, connection: Any, position: Position, *, checked: bool) -> PageColumns:
        settings, limits, began = self._settings, self._limits, time.perf_counter()
        arguments: tuple[Any, ...] = (position,)
        if checked:
            assert self._gaps is not None
            arguments = position, self._name, self._gaps.sequence
        while True:
            size, limit, packed = limits.count, limits.value_size, self._packed
            key = size, limit, packed, checked
            if (sql := self._page_sql.get(key)) is None:
                sql = self._page_sql[key] = self._queries.page(size, limit, packed=packed, checked=checked)
            try:
                [row] = await self._driver.fetch(connection, sql, *arguments)
            except Exception as exc:
                if getattr(exc, "sqlstate", None) not in _TOO_LARGE:
                    raise
                if size == 1:
                    raise await self._too_large(connection, position, exc) from exc
                logger.warning("%s: a page of %d events is too large: %s", settings.name, size, exc)
                limits.refused()
                continue
            columns = PageColumns(row, position, size, limit, settings, packed=packed, wide=self._wide)
            if columns.torn:
                # A table with such foreign ids or types has more of them.
                self._packed = False
                continue
            if columns.largest > limit:
                limits.exceeded(columns.largest)
                if not columns.ids:
                    continue
            elif columns.full:
                limits.kept(columns.largest)
            break
        settings.hooks.page_loaded(settings.name, len(columns.ids), time.perf_counter() - began)
        return columns

    async def _too_large(self, connection: Any, position: Position, exc: Exception) -> DatabaseError:
        [[event_id]] = await self._driver.fetch(connection, self._queries.next, position)
        return DatabaseError(
            f"{self._settings.name}: the server does not return event {event_id}, which is too large: {exc}",
            sqlstate=getattr(exc, "sqlstate", None),
        )

    async def _has_replayed(self, connection: Any, wal: int) -> bool:
        in_recovery, replayed = (await self._driver.fetch(connection, _REPLAYED, wal))[0]
        if not in_recovery:
            self._stop_promoted()
        return bool(replayed)

    async def _check_standby(self) -> None:
        if not (await self._statements.fetch(_IN_RECOVERY))[0][0]:
            self._stop_promoted()

    def _stop_promoted(self) -> NoReturn:
        self._promoted = True
        raise StreamStopped(f"{self._settings.name}: the standby was promoted to a primary")

    async def aclose(self) -> None:
        if self._gaps is None:
            await super().aclose()
        else:
            await asyncio.gather(self._gaps.aclose(), super().aclose())
