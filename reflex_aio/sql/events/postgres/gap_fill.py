"""PostgreSQL: taking missing ids for noops, so that no writer can come late with one of them."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from typing import Any

from reflex_aio.errors import DatabaseError, TableRefused
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.dialect import EventsSettings
from reflex_aio.sql.events.postgres.queries import Queries, insert_noops_sql

__all__ = ["GapFiller"]

logger = logging.getLogger(__name__)

# Noops per statement at most. One id that a late writer has in hand must not hold back those below it: when a statement
# has waited for one in vain, the next takes fewer ids by this factor, and when it hasn't, more.
_MOST, _FACTOR = 1000, 8
# How long a statement waits for a late writer, in seconds, as long as that is well within what a query may take.
_LOCK_TIMEOUT = 1.0
# A lock was waited for too long; a deadlock.
_IN_HAND = ("55P03", "40P01")
# What lies this far below the first event has been pruned; what lies nearer may be still to come.
_BELOW_FIRST = 1000
# A sequence that jumped this far was set by hand: to fill that would do more harm.
_MOST_MISSING = 1_000_000

# Whether an index makes the id unique by itself: a partitioned table's key of id and another column doesn't.
_UNIQUE = """
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = to_regclass($1) AND a.attname = $2 AND i.indnkeyatts = 1
        AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
), has_table_privilege(to_regclass($1), 'INSERT')
"""


class GapFiller:
    """Takes the ids that are missing after a position. Never before these have been resolved."""

    def __init__(
        self,
        settings: EventsSettings,
        driver: Driver,
        statements: PinnedConnection,
        name: str,
        queries: Queries,
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._statements = statements
        self._name = name
        self._bottom = queries.bottom
        self._insert = insert_noops_sql(settings, name)
        lock_timeout = min(_LOCK_TIMEOUT, settings.query_timeout / 4)
        self._limit = f"SET LOCAL lock_timeout = {max(1, int(lock_timeout * 1000))}"
        self._batch = _MOST

    async def open(self) -> None:
        """Check that noops can be inserted and will hold.

        :raises TableRefused: if not
        """
        unique, allowed = (await self._statements.fetch(_UNIQUE, self._name, self._settings.columns.id))[0]
        reason = remedy = ""
        if not unique:
            reason = "nothing makes its id unique by itself, so a noop wouldn't keep a late writer out"
            remedy = (
                f"create a unique index on {self._settings.columns.id} alone, or stream without fill_gaps"
            )
        elif not allowed:
            reason, remedy = (
                "noops can't be inserted",
                "grant INSERT on it to the user that streams with fill_gaps=True",
            )
        if reason:
            raise TableRefused(table=self._settings.name, reason=reason, remedy=remedy)

    async def is_whole(
        self, connection: Any, start: int, position: int, limit: int, ids: Sequence[int]
    ) -> bool:
        """Tell whether every id above ``position``, up to ``limit``, is among ``ids``; if not, take those missing.

        What was taken, or belongs to a writer who was quicker, is there for the next read.

        :param start: the first id that the sequence gave out
        :raises TableRefused: if more are missing than can have been drawn by writers
        """
        count = bisect_right(ids, limit)
        if limit - position == count:
            return True
        first = max(position + 1, await self._first(connection, start, limit))
        if limit - first + 1 - count > _MOST_MISSING:
            raise TableRefused(
                table=self._settings.name,
                reason=f"{limit - first + 1 - count} ids are missing between {first} and {limit}",
                remedy="was its sequence set by hand? Move the cursor past the jump",
            )
        there = set(ids)
        missing = list(islice((i for i in range(first, limit + 1) if i not in there), self._batch))
        if not missing:
            return True
        if await self._taken(connection, missing):
            self._batch = min(self._batch * _FACTOR, _MOST)
        else:
            self._batch = max(len(missing) // _FACTOR, 1)
        return False

    async def _first(self, connection: Any, start: int, limit: int) -> int:
        """Return the first id that may be missing, rather than have been pruned."""
        least, event = (await self._driver.fetch(connection, self._bottom, _BELOW_FIRST + 1))[0]
        if least is None:
            # Whatever was there has been deleted; what is still to come lies as near as in any pruned table.
            least = event = limit + 1
        if event is None:
            # Noops as far as one looks: to go on below them would be to go on for ever.
            return int(least)
        return int(min(least, max(start, event - _BELOW_FIRST)))

    async def _taken(self, connection: Any, ids: Sequence[int]) -> bool:
        """Take ``ids``; tell whether that could be done without waiting for a writer for too long."""
        fetch, settings = self._driver.fetch, self._settings
        await fetch(connection, "BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            await fetch(connection, self._limit)
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
