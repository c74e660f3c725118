"""PostgreSQL: taking missing ids for noops, so that no writer can come late with one of them."""

import logging
from collections.abc import Sequence
from itertools import islice
from typing import Any

from reflex_aio.errors import DatabaseError, TableRefused
from reflex_aio.sql.borrow import Borrowed
from reflex_aio.sql.dialects.postgres_queries import Queries, insert_noops_sql
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.settings import EventsSettings

__all__ = ["Fence"]

logger = logging.getLogger(__name__)

# Noops per statement, and how long a statement waits for a late writer who has the id in hand, in milliseconds.
_BATCH = 1000
_LOCK_TIMEOUT_MS = 1000
# A lock was waited for too long; a deadlock.
_IN_HAND = ("55P03", "40P01")
# What lies this far below the first row has been pruned; what lies nearer may be still to come.
_BELOW_FIRST = 1000
# A sequence that jumped this far was set by hand: to fill that would do more harm.
_MOST_MISSING = 1_000_000

# Whether an index makes the id unique by itself: a partitioned table's key of id and another column doesn't.
_UNIQUE = """
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = to_regclass($1) AND a.attname = $2 AND i.indnkeyatts = 1
        AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
), has_table_privilege(to_regclass($1), 'INSERT')
"""


class Fence:
    """Takes the ids that are missing after a position. Never before these have been settled."""

    def __init__(
        self, settings: EventsSettings, driver: Driver, statements: Borrowed, name: str, queries: Queries
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._statements = statements
        self._name = name
        self._bottom = queries.bottom
        self._insert = insert_noops_sql(settings, name)

    async def open(self) -> None:
        """Check that noops can be inserted and will hold.

        :raises TableRefused: if not
        """
        unique, allowed = (await self._statements.fetch(_UNIQUE, self._name, self._settings.columns.id))[0]
        reason = remedy = ""
        if not unique:
            reason = "nothing makes its id unique by itself, so a noop wouldn't keep a late writer out"
            remedy = f"create a unique index on {self._settings.columns.id} alone, or stream without fence"
        elif not allowed:
            reason, remedy = (
                "noops can't be inserted",
                "grant INSERT on it to the user that streams with fence=True",
            )
        if reason:
            raise TableRefused(table=self._settings.name, reason=reason, remedy=remedy)

    async def is_whole(
        self, connection: Any, start: int, position: int, limit: int, rows: Sequence[Row]
    ) -> bool:
        """Tell whether every id above ``position``, up to ``limit``, is among ``rows``; if not, take those missing.

        What was taken, or belongs to a writer who was quicker, is there for the next read.

        :param start: the first id that the sequence gave out
        :raises TableRefused: if more are missing than can have been drawn by writers
        """
        count = sum(1 for row in rows if row[0] <= limit)
        if limit - position == count:
            return True
        bottom = (await self._driver.fetch(connection, self._bottom))[0][0]
        if bottom is None:
            return True
        first = max(position + 1, min(bottom, max(start, bottom - _BELOW_FIRST)))
        if limit - first + 1 - count > _MOST_MISSING:
            raise TableRefused(
                table=self._settings.name,
                reason=f"{limit - first + 1 - count} ids are missing between {first} and {limit}",
                remedy="was its sequence set by hand? Move the cursor past the jump",
            )
        there = {row[0] for row in rows}
        missing = list(islice((i for i in range(first, limit + 1) if i not in there), _BATCH))
        if not missing:
            return True
        await self._take(connection, missing)
        return False

    async def _take(self, connection: Any, ids: Sequence[int]) -> None:
        while not await self._taken(connection, ids):
            if len(ids) == 1:
                return
            # One id that a writer has in hand must not hold back those below it.
            ids = ids[: max(1, len(ids) // 8)]

    async def _taken(self, connection: Any, ids: Sequence[int]) -> bool:
        fetch, settings = self._driver.fetch, self._settings
        await fetch(connection, "BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            await fetch(connection, f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
            with self._driver.errors(settings.name):
                noops = (await fetch(connection, self._insert, ids))[0][0]
        except DatabaseError as exc:
            if exc.sqlstate not in _IN_HAND:
                raise
            await fetch(connection, "ROLLBACK")
            return False
        await fetch(connection, "COMMIT")
        if noops:
            logger.debug("%s: %d ids from %d to %d are noops now", settings.name, noops, ids[0], ids[-1])
            settings.hooks.gap_filled(settings.name, noops)
        return True
