"""MySQL and MariaDB: checks of an events table and its server for filling gaps with noops."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.errors import TableNotFound, TableRefused
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.drivers.mysql import error_number
from reflex_aio.sql.events.settings import EventsSettings
from reflex_aio.sql.schema.mysql import FoundEvents

__all__ = ["check_fillable", "fetch_unless_denied", "next_id", "replicates_from"]

_FILLABLE = """
SELECT t.engine, (
    SELECT extra LIKE '%%auto_increment%%' FROM information_schema.columns
    WHERE table_schema = %s AND table_name = %s AND column_name = %s
), EXISTS (
    SELECT 1 FROM information_schema.statistics s WHERE s.table_schema = %s AND s.table_name = %s AND s.non_unique = 0
    GROUP BY s.index_name HAVING COUNT(*) = 1 AND MIN(s.column_name) = %s AND MIN(s.sub_part) IS NULL
)
FROM information_schema.tables t WHERE t.table_schema = %s AND t.table_name = %s
"""
_NEXT_ID = "SELECT auto_increment FROM information_schema.tables WHERE table_schema = %s AND table_name = %s"
# By default, MySQL caches this view for a day.
_DISABLE_CACHE = """
SET @reflex_aio_expiry = @@SESSION.information_schema_stats_expiry, SESSION information_schema_stats_expiry = 0
"""
_RESTORE_CACHE = "SET SESSION information_schema_stats_expiry = @reflex_aio_expiry"

# The configured sources of replication, whether it is running or not. The members of a replication group certify their
# writes, and are not replicas in this sense.
_SOURCES = """
SELECT host FROM performance_schema.replication_connection_configuration
WHERE channel_name NOT LIKE 'group\\_replication\\_%%' AND host <> ''
"""
_SOURCES_OF_MARIADB = "SHOW ALL SLAVES STATUS"
_MASTER_HOST = 3
# Needs no privilege.
_RUNNING_ON_MARIADB = "SHOW GLOBAL STATUS LIKE 'Slaves_running'"
_DENIED = (1044, 1142, 1227)


async def check_fillable(
    driver: Driver, connection: Any, settings: EventsSettings, found: FoundEvents
) -> None:
    """Check that a noop prevents other rows with its id, and that ids are drawn from AUTO_INCREMENT.

    :raises TableNotFound: if the table does not exist any more
    :raises TableRefused: if not
    """
    table, id_column = (found.schema, found.table), settings.columns.id
    rows = await driver.fetch(connection, _FILLABLE, *table, id_column, *table, id_column, *table)
    if not rows:
        raise TableNotFound(table=settings.name)
    engine, auto_increment, unique = rows[0]
    reason = remedy = ""
    if engine != "InnoDB":
        reason = f"its engine is {engine}, which has no transactions as InnoDB has"
        remedy = "ALTER TABLE ... ENGINE = InnoDB"
    elif not auto_increment:
        reason, remedy = f"its {id_column} isn't AUTO_INCREMENT", f"make {id_column} AUTO_INCREMENT"
    elif not unique:
        reason = (
            "its id has no unique index of its own, so a noop would not prevent the event of a late writer"
        )
        remedy = f"create a unique index on {id_column} alone"
    if reason:
        raise TableRefused(table=settings.name, reason=reason, remedy=remedy)


async def next_id(driver: Driver, connection: Any, found: FoundEvents) -> int | None:
    """Return the next id of AUTO_INCREMENT, or ``None`` if the table does not exist any more."""
    if not found.is_mariadb:
        await driver.fetch(connection, _DISABLE_CACHE)
    rows = await driver.fetch(connection, _NEXT_ID, found.schema, found.table)
    if not found.is_mariadb:
        await driver.fetch(connection, _RESTORE_CACHE)
    return None if not rows or rows[0][0] is None else int(rows[0][0])


async def replicates_from(driver: Driver, connection: Any, found: FoundEvents) -> str | None:
    """Return the server that this one replicates from, according to its configuration; ``None`` if there is none.

    Without the privilege to read the configuration, it is not ``None`` while replication is running (MariaDB), or never
    (MySQL).
    """
    if not found.is_mariadb:
        sources = await fetch_unless_denied(driver, connection, _SOURCES)
        return sources[0][0] if sources else None
    sources = await fetch_unless_denied(driver, connection, _SOURCES_OF_MARIADB)
    if sources is not None:
        return sources[0][_MASTER_HOST] if sources else None
    running = await driver.fetch(connection, _RUNNING_ON_MARIADB)
    return "a server that this user may not see" if running and int(running[0][1]) else None


async def fetch_unless_denied(driver: Driver, connection: Any, statement: str) -> Sequence[Row] | None:
    """Run a statement and return its rows, or ``None`` if the user lacks the privilege."""
    try:
        return await driver.fetch(connection, statement)
    except Exception as exc:
        if error_number(exc) in _DENIED:
            return None
        raise
