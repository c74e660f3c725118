"""PostgreSQL: scans of the catalogs for an events table, its sequence, and the transactions that draw ids from it."""

from collections.abc import Sequence
from dataclasses import dataclass

from reflex_aio.errors import TableRefused, TableReplaced
from reflex_aio.sql.drivers.base import Row
from reflex_aio.sql.events.postgres.horizon import Holder

__all__ = ["Scan", "describe_sql", "identity_sql", "scan_sql"]

# It ties the rows of one statement and the locks of another to one table. It changes if the table is created again, or
# its sequence is restarted, which gives that a new file. {server} adds values that change when a server restarts.
_IDENTITY = """
(SELECT hashtextextended(
     concat_ws(' ', coalesce(to_regclass({table})::oid, 0), coalesce(max(relfilenode), 0){server}), 0)
 FROM pg_class WHERE oid = {sequence})
"""
_SERVER = ", extract(epoch FROM pg_postmaster_start_time()), pg_is_in_recovery()"

# The table with its partitions and inheritance children, as reading it reads those; all sequences that feed or belong
# to their id columns; and the defaults of these columns that draw from no sequence. $1: the table, $2: the sequence,
# $3: the id column.
_CATALOG = """
WITH RECURSIVE family AS (
    SELECT to_regclass($1)::oid AS rel
    UNION
    SELECT inhrelid FROM pg_inherits JOIN family ON inhparent = rel
), ids AS (
    SELECT attrelid AS rel, attnum FROM pg_attribute JOIN family ON attrelid = rel
    WHERE attname = $3 AND NOT attisdropped
), defaults AS (
    SELECT d.oid, d.adrelid, s.oid AS sequence
    FROM ids
    JOIN pg_attrdef d ON d.adrelid = ids.rel AND d.adnum = ids.attnum
    LEFT JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid
        AND p.refclassid = 'pg_class'::regclass AND p.refobjid <> d.adrelid
    LEFT JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S'
), feeds AS (
    SELECT sequence FROM defaults WHERE sequence IS NOT NULL
    UNION
    SELECT s.oid
    FROM ids
    JOIN pg_depend p ON p.refclassid = 'pg_class'::regclass AND p.refobjid = ids.rel AND p.refobjsubid = ids.attnum
        AND p.classid = 'pg_class'::regclass AND p.deptype IN ('a', 'i')
    JOIN pg_class s ON s.oid = p.objid AND s.relkind = 'S'
)
SELECT (to_regclass($1)::oid)::int8, ARRAY(SELECT sequence::int8 FROM feeds ORDER BY 1),
       ARRAY(SELECT adrelid::regclass::text FROM defaults GROUP BY oid, adrelid HAVING count(sequence) = 0),
       s.relfilenode::int8, quote_ident(n.nspname) || '.' || quote_ident(s.relname),
       q.seqstart, q.seqmin, q.seqincrement, q.seqcache, q.seqcycle,
       EXISTS (SELECT FROM pg_class c JOIN family ON c.oid = rel WHERE c.relpersistence = 'u'),
       coalesce(row_security_active(to_regclass($1)::oid), false) AND NOT EXISTS (
           SELECT FROM pg_policy WHERE polrelid = to_regclass($1) AND polpermissive AND polcmd IN ('r', '*')
               AND EXISTS (SELECT FROM unnest(polroles) role WHERE role = 0 OR pg_has_role(role, 'USAGE'))),
       EXISTS (SELECT FROM pg_subscription_rel JOIN family ON srrelid = rel), pg_is_in_recovery(),
       extract(epoch FROM pg_postmaster_start_time())::float8
"""
_FROM = """
FROM (VALUES (1)) AS one
LEFT JOIN pg_class s ON s.oid = {sequence}
LEFT JOIN pg_namespace n ON n.oid = s.relnamespace
LEFT JOIN pg_sequence q ON q.seqrelid = s.oid
"""


def identity_sql(table: str, sequence: str, *, server: bool) -> str:
    """Return the expression for the identity of one incarnation of a table. The arguments are placeholders.

    :param server: whether it must also identify the server, and the run of the server
    """
    return _IDENTITY.format(table=table, sequence=sequence, server=_SERVER if server else "")


def describe_sql() -> str:
    """Return the statement that describes a table whose sequence is not yet known. $2 is not used: pass 0."""
    first = "CASE WHEN $2::int8 = 0 THEN (SELECT min(sequence) FROM feeds) ELSE $2::int8::oid END"
    return f"{_CATALOG}, 0::int8, 0::int8, NULL::text, ARRAY[]::text[] {_FROM.format(sequence=first)}"


def scan_sql(table: str, id_column: str, *, server: bool) -> str:
    """Return the statement that describes a table and lists the holders of its sequence. Both names are quoted.

    The greatest id comes from the statement's snapshot, which is older than every row of pg_locks that it reads.
    Reading the sequence instead would take the very lock that the statement looks for.

    :param server: see :func:`identity_sql`
    """
    identity = identity_sql("$1", "$2::int8::oid", server=server)
    return f"""{_CATALOG}, {identity}, coalesce((SELECT max({id_column}) FROM {table}), 0),
       (SELECT xmin::text FROM {table} AS event ORDER BY event.{id_column} DESC LIMIT 1),
       ARRAY(SELECT virtualtransaction || ' ' || coalesce(pid::text, '') FROM pg_locks
             WHERE locktype = 'relation' AND relation = $2::int8::oid AND mode = 'RowExclusiveLock' AND granted
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
{_FROM.format(sequence="$2::int8::oid")}"""


@dataclass(frozen=True, slots=True)
class Scan:
    """A table in the catalogs and in pg_locks at one moment."""

    table: int | None
    sequences: Sequence[int]
    odd_defaults: Sequence[str]
    relfilenode: int | None
    sequence_name: str | None
    start: int | None
    least: int | None
    increment: int | None
    cache: int | None
    cycle: bool | None
    unlogged: bool
    hidden: bool
    replicated: bool
    in_recovery: bool
    started: float
    identity: int
    top: int
    top_version: str | None
    """The transaction that inserted the row with the greatest id."""
    holders: Sequence[Holder]

    @classmethod
    def of(cls, row: Row) -> "Scan":
        """Return the scan of a row of :func:`describe_sql` or :func:`scan_sql`."""
        texts = [text.partition(" ") for text in row[-1]]
        holders = [Holder(key, int(pid) if pid else None) for key, _, pid in texts]
        return cls(*row[:-1], holders)  # type: ignore[call-arg]

    def check(self, table: str, *, filled: bool) -> None:
        """Refuse a table whose gaps cannot be distinguished from events that are still to come.

        :param filled: whether noops take the missing ids, so that the time at which an id was drawn does not matter
        :raises TableRefused: with a remedy
        """
        reason = remedy = ""
        if self.odd_defaults:
            reason = f"the id of {', '.join(self.odd_defaults)} has a default that draws from no sequence"
            remedy = "give the id column of the table and of all its partitions one identity or sequence"
        elif not self.sequences:
            reason = "no sequence feeds its id"
            remedy = "make the id column GENERATED ALWAYS AS IDENTITY, as ddl() does"
        elif len(self.sequences) > 1:
            reason = f"{len(self.sequences)} sequences feed its id or belong to it"
            remedy = "leave one for the table and all its partitions: ALTER SEQUENCE ... OWNED BY NONE, DROP DEFAULT"
        elif self.replicated:
            reason = "a logical replication subscription fills it, in another order than that of its ids"
            remedy = "stream from the publisher"
        elif self.unlogged:
            reason = "it is UNLOGGED: a crash empties it, and new events get the ids of old ones"
            remedy = "ALTER TABLE ... SET LOGGED"
        elif self.hidden:
            reason = "its row security has no policy that lets this user read, so that no event is visible"
            remedy = "create a policy FOR SELECT to this user, or stream as a user with BYPASSRLS"
        elif self.cache is None or self.increment is None or self.start is None or self.least is None:
            reason = "its sequence has disappeared"
            remedy = "check whether the table is being changed"
        elif self.cache != 1 and not filled:
            reason = (
                f"its sequence {self.sequence_name} assigns ids in blocks of {self.cache}, so out of order"
            )
            remedy = f"ALTER SEQUENCE {self.sequence_name} CACHE 1, or stream with fill_gaps=True"
        elif self.increment < 1 or self.start < 1:
            reason = (
                f"its sequence {self.sequence_name} starts at {self.start} and increments by {self.increment}"
            )
            remedy = f"ALTER SEQUENCE {self.sequence_name} INCREMENT BY 1, with ids above 0"
        elif self.least < 1:
            reason = (
                f"its sequence {self.sequence_name} can give ids from {self.least}, which no cursor is before"
            )
            remedy = f"ALTER SEQUENCE {self.sequence_name} MINVALUE 1"
        elif self.cycle:
            reason = f"its sequence {self.sequence_name} starts again when it is exhausted"
            remedy = f"ALTER SEQUENCE {self.sequence_name} NO CYCLE"
        elif self.in_recovery:
            reason = "the server is a standby, where the locks of the primary can't be seen"
            remedy = (
                "stream from the primary, or give its pool too: source(standby_pool, primary=primary_pool)"
            )
        if reason:
            raise TableRefused(table=table, reason=reason, remedy=remedy)

    def compare(self, before: "Scan", table: str) -> None:
        """Check that an earlier scan is of the same table.

        :raises TableReplaced: if it is not
        """
        if self.table != before.table:
            raise TableReplaced(table=table, what="the table was dropped, and perhaps created again,")
        if self.sequences != before.sequences:
            raise TableReplaced(table=table, what="the id's sequence was replaced")
