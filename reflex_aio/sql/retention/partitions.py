"""Events tables that are partitioned by ranges of ids, on PostgreSQL: adding partitions, and dropping old ones."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from reflex_aio.checks import check_count
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_pool
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.retention.postgres import PostgresPartitions
from reflex_aio.sql.retention.prune import Pruned, Retention, low_watermark, prune
from reflex_aio.sql.schema.names import EventsSchema
from reflex_aio.sql.schema.table import SchemaDialect

__all__ = ["Dropped", "Partitions"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Dropped:
    """The result of dropping old partitions."""

    partitions: tuple[str, ...]
    """The names of the dropped partitions."""
    busy: tuple[str, ...]
    """The names of the partitions that were in use for too long. The next call begins with them."""
    kept: Pruned
    """The first event that is kept, and the reason. ``events`` counts the events before it, in the dropped partitions
    and in the one that also has newer events."""


class Partitions:
    """The partitions of an events table. See :meth:`~reflex_aio.sql.events.table.EventsTable.partitions`.

    Ids are drawn from the sequence of the table itself, which streams read: partitions do not affect them. An insert
    fails if there is no partition for its id: call :meth:`extend` in time, and monitor :meth:`room`.

    :param size: the number of ids in each new partition
    """

    def __init__(self, schema: EventsSchema, *, size: int) -> None:
        self._schema = schema
        self._size = check_count("size", size, least=1)

    def ddl(self) -> str:
        """Return the statements that create the table, for a migration. :meth:`extend` creates its partitions."""
        return "".join(f"{statement};\n" for statement in self.ddl_statements())

    def ddl_statements(self) -> list[str]:
        """Return the statements of :meth:`ddl` one by one, for migration tools such as Alembic."""
        return dialect_part(SchemaDialect, "postgres").statements(replace(self._schema, partitioned=True))

    async def room(self, pool: Any) -> int:
        """Return the number of ids that are left until inserts fail.

        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it is not partitioned by ranges of ids
        :raises TypeError: if ``pool`` is not a pool that connects to PostgreSQL
        """
        driver = _postgres_driver(pool)
        with driver.errors(str(self._schema.table)):
            async with driver.acquire(pool) as connection:
                table = await PostgresPartitions.find(driver, connection, self._schema)
                family = await table.family(connection)
        return max(0, family.end - 1 - family.last)

    async def extend(self, pool: Any, *, ahead: int = 2) -> list[str]:
        """Create partitions until there is room for the ids of ``ahead`` partitions; return their names.

        Writers and streams continue meanwhile. Several services may do so at the same time. It logs a warning if there
        was room for the ids of less than one partition: then it is called too rarely, or the partitions are too small.

        :raises ValueError: if ``ahead`` is less than 1, or a partition's name would be longer than 63 bytes
        :raises DatabaseError: if the table was locked for seconds, or for other errors of the database
        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it is not partitioned by ranges of ids
        :raises TypeError: if an argument has the wrong type, or ``pool`` does not connect to PostgreSQL
        """
        check_count("ahead", ahead, least=1)
        driver = _postgres_driver(pool)
        made: list[str] = []
        with driver.errors(str(self._schema.table)):
            async with driver.acquire(pool) as connection:
                table = await PostgresPartitions.find(driver, connection, self._schema)
                async with driver.begin(connection):
                    await table.lock(connection)
                    family = await table.family(connection)
                    # The first partition includes all ids that were drawn before.
                    end = family.end if family.partitions else family.last // self._size * self._size
                    if family.partitions and end - 1 - family.last < self._size:
                        logger.warning(
                            "%s: there is room for %d more events: create partitions earlier, or larger ones",
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
        """Drop the partitions of which ``retention`` keeps no event. Writers and streams continue meanwhile.

        It first reads the events that may be deleted, as :meth:`EventsTable.prune` does with ``dry_run``, which calls
        ``progress``. It may be cancelled at any time: the next call continues.

        :param dry_run: drop nothing
        :raises DatabaseError: for the errors of the database
        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it is not partitioned by ranges of ids
        :raises ConnectionLost: if the server cannot be reached
        :raises TypeError: if ``pool`` is not a pool that connects to PostgreSQL
        """
        driver, schema = _postgres_driver(pool), self._schema
        dropped: list[str] = []
        busy: list[str] = []
        with driver.errors(str(schema.table)):
            async with driver.acquire(pool) as connection:
                table = await PostgresPartitions.find(driver, connection, schema)
                if not dry_run:
                    dropped += await table.drop_detached(connection)
        kept = await prune(
            schema, pool, retention, dry_run=True, batch_size=10_000, pause=0.5, progress=progress
        )
        with driver.errors(str(schema.table)):
            async with driver.acquire(pool) as connection:
                partitions = (await table.family(connection)).partitions
        for partition in partitions:
            end = int(kept.end)
            if not retention.force:
                # Again before each: a consumer may have been rewound, or be new.
                watermark = await low_watermark(
                    retention.stores, ignore=retention.ignore, expect=retention.expect
                )
                end = min(end, watermark.position)
            if partition.end > end and not partition.pending:
                break
            if not dry_run:
                # The time limit is for one partition, not for all of them.
                with driver.errors(str(schema.table)):
                    async with driver.acquire(pool) as connection:
                        gone = await table.drop(connection, partition)
                if not gone:
                    # No other partition can be detached while this one is being detached.
                    busy.append(partition.name)
                    break
            dropped.append(partition.name)
        return Dropped(tuple(dropped), tuple(busy), kept)


def _postgres_driver(pool: Any) -> Driver:
    driver = driver_of_pool(pool)
    if driver.dialect != "postgres":
        raise TypeError(
            f"{pool!r} is a pool of {driver.name}: accepted is a pool that connects to PostgreSQL"
        )
    return driver
