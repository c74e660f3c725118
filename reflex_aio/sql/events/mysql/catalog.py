"""MySQL and MariaDB: what the catalogs tell of an events table and its server, and what is refused."""

from collections.abc import Sequence
from typing import Any

from reflex_aio.errors import TableNotFound, TableRefused
from reflex_aio.sql.drivers.base import Driver, Row
from reflex_aio.sql.events.dialect import EventsSettings
from reflex_aio.sql.schema.mysql import FoundEvents

__all__ = ["is_fit", "next_id", "replicates_from", "unless_denied"]

_FIT = """
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
# MySQL keeps what this view says for a day.
_LOOK_AFRESH = """
SET @reflex_aio_expiry = @@SESSION.information_schema_stats_expiry, SESSION information_schema_stats_expiry = 0
"""
_RESTORE = "SET SESSION information_schema_stats_expiry = @reflex_aio_expiry"

# The sources that a server is set up to replicate from, whether it does so at the moment or not. The members of a
# group certify what they write, and are no replicas in this sense.
_SOURCES = """
SELECT host FROM performance_schema.replication_connection_configuration
WHERE channel_name NOT LIKE 'group\\_replication\\_%%' AND host <> ''
"""
_SOURCES_OF_MARIADB = "SHOW ALL SLAVES STATUS"
_MASTER_HOST = 3
# What every user may know.
_RUNNING_ON_MARIADB = "SHOW GLOBAL STATUS LIKE 'Slaves_running'"
_DENIED = (1044, 1142, 1227)


async def is_fit(driver: Driver, connection: Any, settings: EventsSettings, found: FoundEvents) -> None:
    """Check that a noop keeps everybody else from its id, and that ids are drawn from AUTO_INCREMENT.

    :raises TableNotFound: if the table isn't there any more
    :raises TableRefused: if not
    """
    where, id_column = (found.schema, found.table), settings.columns.id
    rows = await driver.fetch(connection, _FIT, *where, id_column, *where, id_column, *where)
    if not rows:
        raise TableNotFound(table=settings.name)
    engine, draws, unique = rows[0]
    reason = remedy = ""
    if engine != "InnoDB":
        reason = f"its engine is {engine}, which has no transactions as InnoDB has"
        remedy = "ALTER TABLE ... ENGINE = InnoDB"
    elif not draws:
        reason, remedy = f"its {id_column} isn't AUTO_INCREMENT", f"make {id_column} AUTO_INCREMENT"
    elif not unique:
        reason = "nothing makes its id unique by itself, so a noop wouldn't keep a late writer out"
        remedy = f"create a unique index on {id_column} alone"
    if reason:
        raise TableRefused(table=settings.name, reason=reason, remedy=remedy)


async def next_id(driver: Driver, connection: Any, found: FoundEvents) -> int | None:
    """Return the id that AUTO_INCREMENT will give out next, or ``None`` if the table is gone."""
    if not found.is_mariadb:
        await driver.fetch(connection, _LOOK_AFRESH)
    rows = await driver.fetch(connection, _NEXT_ID, found.schema, found.table)
    if not found.is_mariadb:
        await driver.fetch(connection, _RESTORE)
    return None if not rows or rows[0][0] is None else int(rows[0][0])


async def replicates_from(driver: Driver, connection: Any, found: FoundEvents) -> str | None:
    """Return which server this one is a replica of, by its configuration; ``None`` if of none.

    Users who may not know that are told whether it is replicating now (MariaDB), or nothing (MySQL).
    """
    if not found.is_mariadb:
        sources = await unless_denied(driver, connection, _SOURCES)
        return sources[0][0] if sources else None
    sources = await unless_denied(driver, connection, _SOURCES_OF_MARIADB)
    if sources is not None:
        return sources[0][_MASTER_HOST] if sources else None
    running = await driver.fetch(connection, _RUNNING_ON_MARIADB)
    return "a server that this user may not know" if running and int(running[0][1]) else None


async def unless_denied(driver: Driver, connection: Any, statement: str) -> Sequence[Row] | None:
    """Run a statement and return its rows, or ``None`` if the user hasn't the privilege."""
    try:
        return await driver.fetch(connection, statement)
    except Exception as exc:
        if exc.args and exc.args[0] in _DENIED:
            return None
        raise
