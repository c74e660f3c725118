"""Events tables that are partitioned by ranges of ids, on PostgreSQL: old events go by whole partitions."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_pool
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.retention.postgres import PostgresPartitions
from reflex_aio.sql.retention.prune import Pruned, Retention, prune, slowest
from reflex_aio.sql.schema.dialect import SchemaDialect
from reflex_aio.sql.schema.names import EventsSchema

__all__ = ["Dropped", "Partitions"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dropped:
    """What has become of the partitions that may go."""

    partitions: tuple[str, ...]
    """The names of those that were dropped."""
    busy: tuple[str, ...]
    """The names of those that others have used for too long: the next time, they go first."""
    kept: Pruned
    """The first event that is kept, and what keeps it; ``events`` is how many are before it, in partitions that were
    dropped and in the one that has newer events too."""


class Partitions:
    """The partitions of an events table: :meth:`~reflex_aio.sql.events.table.EventsTable.partitions` makes it.

    Ids are drawn from the sequence of the table itself, and streams read that: partitions are no concern of theirs. An
    insert for whose id there is no partition fails: call :meth:`extend` in time, and watch :meth:`room`.

    :param size: how many ids each new partition takes
    """

    def __init__(self, schema: EventsSchema, *, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"size {size!r} is a {type(size).__name__}: accepted is an int")
        if size < 1:
            raise ValueError(f"size {size} is out of range: accepted is a number of ids from 1")
        self._schema = schema
        self._size = size

    def ddl(self) -> str:
        """Return the statements that make the table, for a migration. :meth:`extend` makes its partitions."""
        return dialect_part(SchemaDialect, "postgres").ddl(replace(self._schema, partitioned=True))

    async def room(self, pool: Any) -> int:
        """Return how many ids there are until inserts fail.

        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it isn't partitioned by ranges of ids
        :raises TypeError: if it isn't a pool that leads to PostgreSQL
        """
        driver = _driver(pool)
        with driver.errors(str(self._schema.table)):
            async with driver.acquire(pool) as connection:
                table = await PostgresPartitions.find(driver, connection, self._schema)
                family = await table.family(connection)
        return max(0, family.end - 1 - family.last)

    async def extend(self, pool: Any, *, ahead: int = 2) -> list[str]:
        """Make partitions, until there is room for ``ahead`` times as many ids as one takes; return their names.

        Writers and streams go on meanwhile. Several services may do so at once. Logs a warning if there was room for
        less than a partition's ids: then it is called too seldom, or the partitions are too small.

        :raises ValueError: if ``ahead`` is less than 1, or a partition's name would be longer than 63 bytes
        :raises DatabaseError: if the table has been locked by others for seconds, or for what else the database reports
        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it isn't partitioned by ranges of ids
        :raises TypeError: if it isn't a pool that leads to PostgreSQL
        """
        if ahead < 1:
            raise ValueError(f"ahead {ahead} is out of range: accepted is a number of partitions from 1")
        driver = _driver(pool)
        made: list[str] = []
        with driver.errors(str(self._schema.table)):
            async with driver.acquire(pool) as connection:
                table = await PostgresPartitions.find(driver, connection, self._schema)
                async with driver.begin(connection):
                    await table.lock(connection)
                    family = await table.family(connection)
                    # The first one takes all that was drawn before.
                    end = family.end if family.partitions else family.last // self._size * self._size
                    if family.partitions and end - 1 - family.last < self._size:
                        logger.warning(
                            "%s: there is room for %d more events: make partitions sooner, or larger ones",
                            str(self._schema.table),
                            max(0, end - 1 - family.last),
                        )
                    while end - 1 - family.last < ahead * self._size:
                        first = end if family.partitions or made else -1
                        made.append(await table.add(connection, first, end + self._size))
                        end += self._size
        return made

    async def prune(
        self,
        pool: Any,
        retention: Retention,
        *,
        dry_run: bool = False,
        progress: Callable[[Pruned], object] | None = None,
    ) -> Dropped:
        """Drop the partitions of which ``retention`` keeps no event. Writers and streams go on meanwhile.

        It reads the events that may go first, as :meth:`EventsTable.prune` does with ``dry_run``; ``progress`` is told
        of that. May be cancelled at any time: the next call goes on.

        :param dry_run: drop nothing
        :raises DatabaseError: for what the database reports
        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it isn't partitioned by ranges of ids
        :raises ConnectionLost: if the server can't be reached
        :raises TypeError: if it isn't a pool that leads to PostgreSQL
        """
        driver, schema = _driver(pool), self._schema
        dropped: list[str] = []
        busy: list[str] = []
        with driver.errors(str(schema.table)):
            async with driver.acquire(pool) as connection:
                table = await PostgresPartitions.find(driver, connection, schema)
                if not dry_run:
                    dropped += await table.drop_left(connection)
        kept = await prune(
            schema, pool, retention, dry_run=True, batch_size=10_000, pause=0.5, progress=progress
        )
        with driver.errors(str(schema.table)):
            async with driver.acquire(pool) as connection:
                for partition in (await table.family(connection)).partitions:
                    end = int(kept.end)
                    if not retention.force:
                        # Once more before each: a consumer may have been rewound, or be new.
                        found = await slowest(
                            retention.stores, ignore=retention.ignore, expect=retention.expect
                        )
                        end = min(end, found.position)
                    if partition.end > end and not partition.pending:
                        break
                    if dry_run or await table.drop(connection, partition):
                        dropped.append(partition.name)
                        continue
                    # While one is being detached, no other can be.
                    busy.append(partition.name)
                    break
        return Dropped(tuple(dropped), tuple(busy), kept)


def _driver(pool: Any) -> Driver:
    driver = driver_of_pool(pool)
    if driver.dialect != "postgres":
        raise TypeError(f"{pool!r} is a pool of {driver.name}: accepted is one that leads to PostgreSQL")
    return driver
