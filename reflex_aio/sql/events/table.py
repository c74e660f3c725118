"""The table object of an events table: inserting, streaming, and operating on it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Self
from uuid import UUID

from reflex_aio.checks import check_bool, check_count
from reflex_aio.event import DEFAULT_PAGE_BYTES
from reflex_aio.hooks import Hooks, installed
from reflex_aio.metadata import MetadataCodec
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection, driver_of_pool
from reflex_aio.sql.events.dialect import wakeable_dialect
from reflex_aio.sql.events.insert import EventInserts
from reflex_aio.sql.events.settings import EventsSettings, Inserter, PageLoader, Wakeups
from reflex_aio.sql.events.source import TableSource
from reflex_aio.sql.events.values import NewEvent
from reflex_aio.sql.retention.partitions import Partitions
from reflex_aio.sql.retention.prune import Backlog, Extent, Pruned, Retention, RetentionDialect, prune
from reflex_aio.sql.schema.names import EventColumns, EventsSchema, ForeignIdType, Name
from reflex_aio.sql.schema.table import SchemaDialect, Table
from reflex_aio.sql.wakeups.notifier import Notifier
from reflex_aio.stream import EventStream

__all__ = ["EventsTable"]


class EventsTable(Table[EventsSchema]):
    """A table of events. It holds settings only: one object serves any number of connections, pools and event loops.

    :param name: the table's name, ``table`` or ``schema.table``. It is quoted, so case is significant
    :param columns: the names of its columns
    :param foreign_id: the type of its foreign ids, ``"text"``, ``"bigint"`` or ``"uuid"``
    :param metadata: whether it has a column for metadata, which is bytes; or a codec that encodes the values given to
        :meth:`insert`, such as ``JsonCodec(Order)``: see :mod:`reflex_aio.metadata`
    :param trace: whether it has a column for traces
    :param page_size: the number of events that one query loads
    :param page_bytes: the size of the metadata and traces that it loads at most, unless a single event is larger, in
        bytes: it loads fewer events where they are large. A stream keeps at most two pages. The recent events that
        streams at the head share have the same limit, at 400 bytes for an event without metadata and trace
    :param poll_period: the time after which a stream polls without a wake-up, in seconds
    :param poll_floor: where wake-ups do not cover the inserts of other processes, streams poll more often while events
        arrive: after a tenth of the time since the last one, but not before this time, in seconds
    :param query_timeout: the time limit of a stream's query, after which the server counts as lost, in seconds
    :param wakeups: the way in which streams are woken by new events. ``"commit"``: by the inserting process, after the
        commit, at almost no cost; ``"transaction"``: by a NOTIFY in the writer's transaction, which delays the commits
        of other writers; ``"trigger"``: by a trigger that :meth:`ddl` then creates, for writers in other languages;
        ``None``: not at all, streams poll
    :param notifier: notifies streams instead of NOTIFY on a separate connection
    :param include_noops: deliver the noops that fill gaps too
    :param loader: an async function of a connection and the events of a page that was read on it, which returns those
        to deliver, in the same order and with the same ids
    :param inserter: an async function of a connection, foreign id, type, metadata and trace, which :meth:`insert` calls
        to insert the event. It returns the event's id
    :param hooks: receive metrics; by default those installed for the process
    :param clock: returns the time, in seconds since 1970
    :raises ValueError: if an argument is out of range, or a name is not accepted
    :raises TypeError: if an argument has the wrong type
    """

    def __init__(
        self,
        name: str,
        *,
        columns: EventColumns | None = None,
        foreign_id: ForeignIdType = "text",
        metadata: bool | MetadataCodec[Any] = False,
        trace: bool = False,
        page_size: int = 1000,
        page_bytes: int = DEFAULT_PAGE_BYTES,
        poll_period: float = 1.0,
        poll_floor: float = 0.05,
        query_timeout: float = 30.0,
        wakeups: Wakeups = "commit",
        notifier: Notifier | None = None,
        include_noops: bool = False,
        loader: PageLoader | None = None,
        inserter: Inserter | None = None,
        hooks: Hooks | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(
            EventsSchema(
                Name.parse(name),
                EventColumns() if columns is None else columns,
                foreign_id=foreign_id,
                metadata=isinstance(metadata, MetadataCodec) or metadata,
                trace=trace,
                trigger=wakeups == "trigger",
            ),
            locals(),
        )
        self._settings = EventsSettings(
            schema=self.schema,
            page_size=page_size,
            page_bytes=page_bytes,
            poll_period=poll_period,
            poll_floor=poll_floor,
            query_timeout=query_timeout,
            wakeups=wakeups,
            notifier=notifier,
            include_noops=include_noops,
            loader=loader,
            inserter=inserter,
            codec=metadata if isinstance(metadata, MetadataCodec) else None,
            hooks=installed() if hooks is None else hooks,
            clock=clock,
        )
        self._inserts = EventInserts(self._settings)

    @property
    def has_metadata(self) -> bool:
        """True if the table has a column for metadata."""
        return self.schema.metadata

    # The table itself.

    def ddl_statements(self, dialect: str = "postgres") -> list[str]:
        wakeable_dialect(dialect, self._settings)
        return super().ddl_statements(dialect)

    async def create(self, connection: Any) -> None:
        """Create the table unless it exists. Several services may do so at the same time.

        :raises TypeError: if ``connection`` is not a connection
        """
        wakeable_dialect(driver_of_connection(connection).dialect, self._settings)
        await super().create(connection)

    async def drop(self, connection: Any) -> None:
        """Drop the table with its events, if it exists.

        :raises TypeError: if ``connection`` is not a connection
        """
        driver = driver_of_connection(connection)
        await driver.fetch(connection, dialect_part(SchemaDialect, driver.dialect).drop(self.schema))

    async def as_found(self, connection: Any) -> Self:
        """Return a table object whose foreign ids, metadata and traces are those of the table in the database.

        For programs that receive only its name, and perhaps the names of its columns.

        :raises TableNotFound: if there is no such table
        :raises TypeError: if ``connection`` is not a connection
        """
        driver = driver_of_connection(connection)
        dialect, schema = dialect_part(SchemaDialect, driver.dialect), self.schema
        found = (await dialect.described(driver, connection, schema)).columns
        columns = schema.columns
        foreign_id = found.get(columns.foreign_id)
        texts = next(
            column.types
            for column in dialect.expected(replace(schema, foreign_id="text"))
            if column.name == columns.foreign_id
        )
        kind: ForeignIdType = "bigint"
        if foreign_id is None or foreign_id.type in texts:
            kind = "text"
        elif foreign_id.type == "uuid":
            kind = "uuid"
        return self.replace(
            foreign_id=kind,
            metadata=columns.metadata in found,
            trace=columns.trace in found,
        )

    # Writing.

    async def insert(
        self,
        connection: Any,
        foreign_id: str | int | UUID,
        type: int,
        *,
        metadata: object = None,
        trace: bytes | None = None,
    ) -> str:
        """Insert an event on ``connection``, in the transaction that is open on it, and return the event's id.

        Except for the errors below, exceptions of the client library are raised unchanged, for the caller's transaction
        handling.

        :param connection: a connection, or one acquired from a pool
        :param foreign_id: the id of the row that changed
        :param type: the kind of change
        :param metadata: bytes; or, for a table with a codec, a value that the codec encodes
        :param trace: by default the one that the hooks return, if the table has traces
        :raises TypeError: if a value has the wrong type
        :raises ValueError: if a value is out of range, or the table does not have its column
        :raises TableNotFound: if there is no such table
        :raises SchemaError: if a column is missing, or has another type
        :raises DatabaseError: if a trigger or a rule suppressed the row
        """
        return await self._inserts.insert(connection, foreign_id, type, metadata, trace)

    async def insert_many(self, connection: Any, events: Iterable[NewEvent]) -> list[str]:
        """Insert events in order, all or none, and return their ids. See :meth:`insert`.

        This takes one statement; on MySQL and MariaDB several, in a transaction or a savepoint, if one would exceed the
        server's ``max_allowed_packet``. PostgreSQL refuses it on a table with an ALSO or INSTEAD rule; use a trigger
        then.

        :param events: tuples of foreign id, type, and optionally metadata and trace
        """
        return await self._inserts.insert_many(connection, events)

    async def wake(self, connection: Any) -> None:
        """Wake the streams of the table now, also those of other processes, if the database has notifications.

        For events whose commit is not detected: in a transaction of aiomysql or asyncmy that
        :func:`~reflex_aio.sql.transaction` has not begun, or inserted without :meth:`insert`. Call it after the commit.
            A
        missing call costs time, as streams poll, but no event. A superfluous call is harmless, as is one with
        ``wakeups=None``, which does nothing.

        :param connection: any connection to the table's database; the table's schema may be queried once
        :raises TypeError: if it is not a connection
        """
        await self._inserts.wake(connection)

    # Reading.

    def source(self, pool: Any, *, primary: Any = None, fill_gaps: bool = False) -> TableSource:
        """Return the source that streams the table's events through ``pool``, for a :class:`~reflex_aio.Spec`.

        :param pool: a pool, of which connections are in use while there is something to read
        :param primary: a pool that connects to the primary, if ``pool`` connects to a standby. Without it, a stream on
            a standby waits at each gap until :meth:`fill_gaps`, running on the primary, has filled it
        :param fill_gaps: fill every missing id with a noop before passing it, for tables whose writers draw ids in
            other transactions than they insert them, choose them by hand, or in blocks. Such a writer that is late gets
            a unique violation; with ON CONFLICT DO NOTHING it is not informed that its event is lost. This needs the
            INSERT privilege, and a unique index on the id alone. On MySQL and MariaDB gaps are always passed in this
            way; there it makes a missing privilege an error
        :raises TypeError: if a pool is not a pool, or ``fill_gaps`` is not a bool
        :raises ValueError: if both ``primary`` and ``fill_gaps`` are given
        """
        driver = driver_of_pool(pool)
        wakeable_dialect(driver.dialect, self._settings)
        check_bool("fill_gaps", fill_gaps)
        if primary is not None:
            if driver_of_pool(primary) is not driver:
                raise TypeError(
                    f"pool and primary belong to different client libraries: {pool!r}, {primary!r}"
                )
            if fill_gaps:
                raise ValueError("a standby takes no noops: use fill_gaps=True with a stream on the primary")
        return TableSource(self._settings, driver, pool, primary=primary, fill_gaps=fill_gaps)

    def stream(
        self,
        pool: Any,
        after: str = "",
        *,
        from_head: bool = False,
        to_head: bool = False,
        lag: float | None = None,
        primary: Any = None,
        fill_gaps: bool = False,
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``.

        Short for ``source(pool, ...).stream(after, ...)``: see :meth:`source` and :class:`~reflex_aio.stream.Source`.
        """
        source = self.source(pool, primary=primary, fill_gaps=fill_gaps)
        return source.stream(after, from_head=from_head, to_head=to_head, lag=lag)

    async def fill_gaps(self, pool: Any, after: str = "") -> None:
        """Fill the table's gaps with noops as they are resolved, until cancelled.

        For streams on standbys without ``primary``. Run it on the primary; several at the same time are harmless.

        :param pool: a pool that connects to the primary
        :param after: the cursor to begin after; earlier gaps remain
        :raises ReflexError: if the database cannot be reached, or the gaps cannot be filled. Call it again then
        """
        async with self.replace(include_noops=True, loader=None).stream(
            pool, after, fill_gaps=True
        ) as stream:
            while await stream.read_page():
                pass

    # Operations.

    async def extent(self, connection: Any) -> Extent:
        """Return the first and the last id of the table.

        :raises TableNotFound: if there is no such table
        :raises TypeError: if ``connection`` is not a connection
        """
        driver = driver_of_connection(connection)
        with driver.errors(self.name, schema_only=True):
            return await dialect_part(RetentionDialect, driver.dialect).extent(
                driver, connection, self.schema
            )

    async def backlogs(
        self, connection: Any, cursors: Iterable[str], *, limit: int = 100_000
    ) -> dict[str, Backlog]:
        """Return the backlog of each of some cursors, for monitoring.

        It counts the visible events, which may include some that a stream has still to wait for. The statement reads as
        many rows as it counts.

        :param cursors: ids of events, or ``""`` for the beginning
        :param limit: the greatest number of events to count after a cursor; a count of ``limit`` means *at least*
        :raises InvalidCursor: if one is not an event id
        :raises ValueError: if ``limit`` is less than 1
        :raises TableNotFound: if there is no such table
        :raises TypeError: if an argument has the wrong type
        """
        check_count("limit", limit, least=1)
        given = list(dict.fromkeys(cursors))
        positions = [int(check_cursor(cursor, "int")) if cursor != "" else 0 for cursor in given]
        driver = driver_of_connection(connection)
        with driver.errors(self.name, schema_only=True):
            found = await dialect_part(RetentionDialect, driver.dialect).backlogs(
                driver, connection, self.schema, positions, limit
            )
        return dict(zip(given, found, strict=True))

    async def prune(
        self,
        pool: Any,
        retention: Retention,
        *,
        dry_run: bool = False,
        batch_size: int = 1000,
        pause: float = 3.0,
        progress: Callable[[Pruned], object] | None = None,
    ) -> Pruned:
        """Delete the events that ``retention`` does not keep, oldest first, in batches that are committed one by one.

        It may be cancelled at any time: deleted events remain deleted, and the next call continues. Several at the same
        time are harmless. Writers are not delayed. The newest row is never deleted, nor are the event of the slowest
        consumer's cursor and those after it. See :class:`Retention`.

        :param dry_run: count the events, but delete nothing
        :param batch_size: the greatest number of rows in a batch; smaller while batches take long
        :param pause: the pause after each batch, as a multiple of the batch's duration: 3 keeps the server busy for a
            quarter of the time, 0 for all of it
        :param progress: called after each batch
        :raises DatabaseError: if another transaction has locked old events for long, or for other errors of the
            database, such as a foreign key
        :raises TableNotFound: if there is no such table
        :raises ConnectionLost: if the server cannot be reached
        :raises ValueError: if a number is out of range
        :raises TypeError: if an argument has the wrong type
        """
        return await prune(
            self.schema,
            pool,
            retention,
            dry_run=dry_run,
            batch_size=batch_size,
            pause=pause,
            progress=progress,
        )

    def partitions(self, size: int) -> Partitions:
        """Return the partitions of a table that is, or will be, partitioned by ranges of ids, on PostgreSQL.

        :param size: the number of ids in each new partition
        :raises ValueError: if it is less than 1
        :raises TypeError: if it is not an int
        """
        return Partitions(self.schema, size=size)
