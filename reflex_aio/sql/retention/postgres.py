"""PostgreSQL: deleting old events in batches, measuring backlogs, and the statements for partitioned tables."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from reflex_aio.errors import TableNotFound, TableRefused
from reflex_aio.event import NOOP_TYPE
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.retention.prune import Backlog, Batch, Batches, Extent, Found, RetentionDialect
from reflex_aio.sql.schema.names import EventsSchema, Name
from reflex_aio.sql.schema.postgres import FoundEvents

__all__ = ["Family", "Partition", "PostgresPartitions", "PostgresRetentionDialect"]

# The limit of a statement's wait for the locks of rows, or of the table.
_LIMIT_LOCK_WAITS = "SET LOCAL lock_timeout = '1s'"
# The SQLSTATEs of a lock timeout, a deadlock, and a serialization failure.
_LOCKED = ("55P03", "40P01", "40001")

# The comment on a partition that is detached in order to be dropped, with the oid of the table. It distinguishes what
# an interrupted call has left behind from what was detached by hand, to be kept.
_MARK = "reflex_aio: to be dropped"
# The limit of a statement's wait for the users of a partition, in milliseconds, and the SQLSTATE of its timeout.
_LOCK_TIMEOUT = 2000
_LOCK_NOT_AVAILABLE = "55P03"

# $1: the table, $2: the id column. No row if there is no such table; the last column is NULL unless the table is
# partitioned by ranges of the id alone.
_ROOT = """
SELECT quote_ident(n.nspname), c.oid::int8, pg_get_serial_sequence($1, $2),
       (SELECT true FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $2
        WHERE p.partrelid = c.oid AND p.partstrat = 'r' AND p.partnatts = 1 AND p.partattrs[0] = a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)
"""
# The bounds are returned as text: numbers, MINVALUE or MAXVALUE. They are NULL for a default partition.
_PARTITIONS = r"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), i.inhdetachpending,
       substring(pg_get_expr(c.relpartbound, c.oid) FROM '^FOR VALUES FROM \(''?(-?\d+|MINVALUE)''?\)'),
       substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''?(-?\d+|MAXVALUE)''?\)$'),
       coalesce(obj_description(c.oid, 'pg_class') = $2, false)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.inhparent = $1::int8::oid
"""
_DETACHED = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') = $1
"""

_INFINITY = 2**63


class PostgresRetentionDialect(RetentionDialect):
    """Retention on PostgreSQL."""

    async def open(self, driver: Driver, connection: Any, schema: EventsSchema) -> Batches:
        return _Batches(driver, schema, (await FoundEvents.of(driver, connection, schema)).name)

    async def extent(self, driver: Driver, connection: Any, schema: EventsSchema) -> Extent:
        table, event_id = schema.table.quoted('"'), f'"{schema.columns.id}"'
        rows = await driver.fetch(
            connection, f"SELECT min({event_id})::int8, max({event_id})::int8 FROM {table}"
        )
        return Extent.of(*rows[0])

    async def backlogs(
        self, driver: Driver, connection: Any, schema: EventsSchema, cursors: Sequence[int], limit: int
    ) -> Sequence[Backlog]:
        columns, table = schema.columns, schema.table.quoted('"')
        event_id = f'"{columns.id}"'
        events = (
            f"FROM {table} AS event WHERE event.{event_id} > given.cursor"
            f' AND ("{columns.type}", "{columns.foreign_id}"::text)'
            f" IS DISTINCT FROM ({NOOP_TYPE}, '{schema.noop_foreign_id}'::text)"
        )
        age = f"extract(epoch FROM clock_timestamp()) - {_time_sql(columns.timestamp)}"
        rows = await driver.fetch(
            connection,
            f"SELECT (SELECT count(*) FROM (SELECT {events} LIMIT $2) AS counted),"
            f" (SELECT ({age})::float8 {events} ORDER BY event.{event_id} LIMIT 1)"
            " FROM unnest($1::int8[]) WITH ORDINALITY AS given(cursor, place) ORDER BY given.place",
            cursors,
            limit,
        )
        # The age of the first event is negative if the clock was set back.
        return [Backlog(row[0], max(0.0, row[1] or 0.0)) for row in rows]


def _time_sql(column: str) -> str:
    """Return the expression for a column's time in seconds since 1970, which is finite. NULL counts as old."""
    # A timestamp without time zone is interpreted as UTC, as is its epoch. greatest() ignores NULL.
    return f"extract(epoch FROM least(greatest(\"{column}\", 'epoch'), '9999-12-31'))"


class _Batches(Batches):
    def __init__(self, driver: Driver, schema: EventsSchema, table: str) -> None:
        columns = schema.columns
        event_id = f'"{columns.id}"'
        time = f"({_time_sql(columns.timestamp)} * 1000000)::int8"
        noop = (
            f'("{columns.type}", "{columns.foreign_id}"::text)'
            f" IS NOT DISTINCT FROM ({NOOP_TYPE}, '{schema.noop_foreign_id}'::text)"
        )
        self._driver = driver
        self._found = (
            f"SELECT min({event_id})::int8, max({event_id})::int8,"
            f" (extract(epoch FROM clock_timestamp()) * 1000000)::int8 FROM {table}"
        )
        self._next = (
            "SELECT count(*), max(id), min(id) FILTER (WHERE time >= $4), min(id) FILTER (WHERE noop AND time >= $5)"
            f" FROM (SELECT {event_id}::int8 AS id, {time} AS time, {noop} AS noop FROM {table} AS event"
            f" WHERE {event_id} > $1 AND {event_id} < $2 ORDER BY event.{event_id} LIMIT $3) AS batch"
        )
        self._delete = (
            f"WITH deleted AS (DELETE FROM {table} WHERE {event_id} > $1 AND {event_id} <= $2 RETURNING 1)"
            " SELECT count(*) FROM deleted"
        )

    async def found(self, connection: Any) -> Found:
        return Found(*(await self._driver.fetch(connection, self._found))[0])

    async def next(
        self, connection: Any, after: int, end: int, limit: int, *, young_us: int, young_noop_us: int
    ) -> Batch:
        rows = await self._driver.fetch(connection, self._next, after, end, limit, young_us, young_noop_us)
        return Batch(*rows[0])

    async def delete(self, connection: Any, after: int, last: int) -> int | None:
        fetch = self._driver.fetch
        # At a higher level, a row that another transaction has deleted meanwhile would be an error.
        await fetch(connection, "BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            await fetch(connection, _LIMIT_LOCK_WAITS)
            count: int = (await fetch(connection, self._delete, after, last))[0][0]
        except Exception as exc:
            if getattr(exc, "sqlstate", None) not in _LOCKED:
                raise
            await fetch(connection, "ROLLBACK")
            return None
        await fetch(connection, "COMMIT")
        return count


class Partition(NamedTuple):
    """A partition of the ids from ``first`` up to, but not including, ``end``."""

    name: str
    """With the schema, quoted."""
    first: int
    end: int
    pending: bool
    """True if it is being detached, and so is no longer read."""
    marked: bool
    """True if an earlier call began to drop it."""


class Family(NamedTuple):
    """A partitioned table as it was found."""

    partitions: Sequence[Partition]
    """In the order of their ids."""
    last: int
    """The last id that was drawn; 0 if there is none."""

    @property
    def end(self) -> int:
        """The first id without a partition."""
        return max((each.end for each in self.partitions), default=0)


class PostgresPartitions:
    """The partitions of one events table."""

    def __init__(
        self, schema: EventsSchema, driver: Driver, *, namespace: str, root: int, sequence: str
    ) -> None:
        self._schema = schema
        self._driver = driver
        self._name = f'{namespace}."{schema.table.table}"'
        self._namespace = namespace
        self._root = root
        self._sequence = sequence
        self._mark = f"{_MARK} {root}"

    @classmethod
    async def find(cls, driver: Driver, connection: Any, schema: EventsSchema) -> "PostgresPartitions":
        """Find the table.

        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it is not partitioned by ranges of its id, which one sequence feeds
        """
        columns, table = schema.columns, schema.table.quoted('"')
        rows = await driver.fetch(connection, _ROOT, table, columns.id)
        if not rows:
            raise TableNotFound(table=str(schema.table))
        namespace, root, sequence, by_id = rows[0]
        if not by_id or sequence is None:
            raise TableRefused(
                table=str(schema.table),
                reason=f"it isn't partitioned by ranges of {columns.id}"
                if not by_id
                else f"no sequence belongs to its {columns.id}",
                remedy="create it as partitions(size).ddl() does; prune() is for tables without partitions",
            )
        return cls(schema, driver, namespace=namespace, root=root, sequence=sequence)

    async def family(self, connection: Any) -> Family:
        """Return the present partitions.

        :raises TableRefused: if one is a default partition, with which others cannot be detached concurrently
        """
        fetch = self._driver.fetch
        found = []
        for name, pending, first, end, marked in await fetch(connection, _PARTITIONS, self._root, self._mark):
            if first is None or end is None:
                raise TableRefused(
                    table=str(self._schema.table),
                    reason=f"{name} is a default partition",
                    remedy="give its rows partitions of their own, and drop it",
                )
            found.append(Partition(name, _bound(first), _bound(end), pending, marked))
        last, called = (await fetch(connection, f"SELECT last_value, is_called FROM {self._sequence}"))[0]
        return Family(sorted(found, key=lambda each: each.first), int(last) if called else int(last) - 1)

    async def add(self, connection: Any, first: int, end: int) -> str:
        """Create and attach a partition, in the caller's transaction; return its name. Writers continue meanwhile."""
        table = self._schema.table.table
        name = f"{self._namespace}.{Name(f'{table}_from_{max(first, 0)}').quoted(chr(34))}"
        lower = "MINVALUE" if first < 0 else str(first)
        fetch = self._driver.fetch
        # CREATE TABLE ... PARTITION OF would block all writers and readers of the table.
        await fetch(
            connection,
            f"CREATE TABLE {name} (LIKE {self._name} INCLUDING ALL EXCLUDING IDENTITY EXCLUDING COMMENTS)",
        )
        await fetch(
            connection,
            f"ALTER TABLE {self._name} ATTACH PARTITION {name} FOR VALUES FROM ({lower}) TO ({end})",
        )
        return name

    async def lock(self, connection: Any) -> None:
        """Prevent other processes from adding partitions, until the end of the caller's transaction."""
        await self._driver.fetch(connection, f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT}")
        await self._driver.fetch(
            connection,
            "SELECT pg_advisory_xact_lock(hashtext('reflex_aio partitions'), $1::int8::oid::int)",
            self._root,
        )

    async def drop(self, connection: Any, partition: Partition) -> bool:
        """Detach and drop a partition; return ``False`` if it was in use for too long.

        No transaction may be open. If this is interrupted, the next call, or :meth:`drop_detached`, continues.
        """
        fetch, name = self._driver.fetch, partition.name
        if partition.pending and not partition.marked:
            return False
        await fetch(connection, f"SET lock_timeout = {_LOCK_TIMEOUT}")
        detach = f"ALTER TABLE {self._name} DETACH PARTITION {name}"
        dropped = True
        try:
            await fetch(connection, f"COMMENT ON TABLE {name} IS '{self._mark}'")
            # Without CONCURRENTLY it would block all writers and readers of the table.
            await fetch(connection, f"{detach} {'FINALIZE' if partition.pending else 'CONCURRENTLY'}")
            await fetch(connection, f"DROP TABLE {name}")
        except Exception as exc:
            if getattr(exc, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                raise
            dropped = False
        await fetch(connection, "RESET lock_timeout")
        return dropped

    async def drop_detached(self, connection: Any) -> list[str]:
        """Drop the partitions that an interrupted call has detached; return their names."""
        detached = [row[0] for row in await self._driver.fetch(connection, _DETACHED, self._mark)]
        for name in detached:
            await self._driver.fetch(connection, f"DROP TABLE {name}")
        return detached


def _bound(text: str) -> int:
    return {"MINVALUE": -_INFINITY, "MAXVALUE": _INFINITY}.get(text) or int(text)
