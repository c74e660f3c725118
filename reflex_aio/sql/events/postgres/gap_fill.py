"""PostgreSQL: filling missing ids with noops, so that no late writer can insert an event with one of them."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice
from typing import Any

from reflex_aio.errors import TableRefused
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.drivers.pinned_connection import PinnedConnection
from reflex_aio.sql.events.postgres.queries import Queries, insert_noops_sql
from reflex_aio.sql.events.settings import EventsSettings

__all__ = ["GapFiller"]

logger = logging.getLogger(__name__)

# The greatest number of noops per statement, and the factor by which it changes. One id that a late writer has locked
# must not delay those below it: after a statement that waited for a lock until its timeout, the next one takes fewer
# ids, and otherwise more.
_MOST, _FACTOR = 1000, 8
# The limit of a statement's wait for a late writer, in seconds, as long as that is well below the time limit of a
# query.
_LOCK_TIMEOUT = 1.0
# The SQLSTATEs of a lock timeout and a deadlock.
_LOCKED = ("55P03", "40P01")
# The number of consecutive reads that may find the same ids missing after noops were committed in their place.
_MOST_TRIES = 5
# Missing ids this far below the first event were pruned; an event may still appear with an id closer to it.
_BELOW_FIRST = 1000
# A sequence that jumped by more than this was set by hand: filling the jump would do more harm than good.
_MOST_MISSING = 1_000_000

# Whether an index on the id alone is unique. That of a partitioned table, on the id and another column, is not enough.
_UNIQUE = """
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = to_regclass($1) AND a.attname = $2 AND i.indnkeyatts = 1
        AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
), has_table_privilege(to_regclass($1), 'INSERT')
"""


class GapFiller:
    """Fills the missing ids after a position. They must be resolved before."""

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
        self._filled_from = self._tries = 0

    async def open(self) -> None:
        """Check that noops can be inserted, and that they prevent other rows with the same id.

        :raises TableRefused: if not
        """
        unique, allowed = (await self._statements.fetch(_UNIQUE, self._name, self._settings.columns.id))[0]
        reason = remedy = ""
        if not unique:
            reason = "its id has no unique index of its own, so a noop would not prevent the event of a late writer"
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

    async def fill(self, connection: Any, start: int, position: int, limit: int, ids: Sequence[int]) -> bool:
        """Return whether ``ids`` contains every id after ``position``, up to ``limit``; if not, fill missing ids.

        The next read returns the noops, or the events of writers that were faster.

        :param start: the first id of the sequence
        :raises TableRefused: if more ids are missing than writers can have drawn, or the table keeps noops out
        """
        count = bisect_right(ids, limit)
        if limit - position == count:
            return True
        first = max(position + 1, await self._first_missing(connection, start, limit))
        if limit - first + 1 - count > _MOST_MISSING:
            raise TableRefused(
                table=self._settings.name,
                reason=f"{limit - first + 1 - count} ids are missing between {first} and {limit}",
                remedy="if its sequence was set by hand, move the cursor past the jump",
            )
        present = set(ids)
        missing = list(islice((i for i in range(first, limit + 1) if i not in present), self._batch))
        if not missing:
            return True
        self._tries = self._tries + 1 if missing[0] == self._filled_from else 0
        if self._tries == _MOST_TRIES:
            raise TableRefused(
                table=self._settings.name,
                reason=f"id {missing[0]} is missing though {_MOST_TRIES} noops were inserted with it",
                remedy="let noops pass its triggers and rules, or stream without fill_gaps",
            )
        self._filled_from = 0
        if await self._insert_noops(connection, missing):
            self._filled_from = missing[0]
            self._batch = min(self._batch * _FACTOR, _MOST)
        else:
            self._batch = max(len(missing) // _FACTOR, 1)
        return False

    async def _first_missing(self, connection: Any, start: int, limit: int) -> int:
        """Return the first id that may be missing, rather than pruned."""
        least, event = (await self._driver.fetch(connection, self._bottom, _BELOW_FIRST + 1))[0]
        if least is None:
            # All rows have been deleted. An event that is still to come is as close to them as in any pruned table.
            least = event = limit + 1
        if event is None:
            # The first rows are all noops: filling the ids below them would never end.
            return int(least)
        return int(min(least, max(start, event - _BELOW_FIRST)))

    async def _insert_noops(self, connection: Any, ids: Sequence[int]) -> bool:
        """Insert noops; return ``False`` if a writer's lock on one of the ids prevented it."""
        fetch, settings = self._driver.fetch, self._settings
        await fetch(connection, "BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            await fetch(connection, self._limit)
            noops = (await fetch(connection, self._insert, ids))[0][0]
        except Exception as exc:
            if getattr(exc, "sqlstate", None) not in _LOCKED:
                raise
            await fetch(connection, "ROLLBACK")
            return False
        await fetch(connection, "COMMIT")
        if noops:
            logger.debug("%s: inserted %d noops for ids from %d to %d", settings.name, noops, ids[0], ids[-1])
            settings.hooks.gap_filled(settings.name, noops)
        return True
