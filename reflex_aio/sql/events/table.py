"""The events table: inserting events in the caller's transaction, and streaming them."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Self

from reflex_aio.hooks import Hooks, installed
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_connection, driver_of_pool
from reflex_aio.sql.events.dialect import EventsSettings, Inserter, PageLoader, Wakeups, wakeable_dialect
from reflex_aio.sql.events.insert import Inserts
from reflex_aio.sql.events.source import TableSource
from reflex_aio.sql.events.values import NewEvent
from reflex_aio.sql.retention.backlog import Backlog, Extent
from reflex_aio.sql.retention.dialect import RetentionDialect
from reflex_aio.sql.retention.partitions import Partitions
from reflex_aio.sql.retention.prune import Pruned, Retention, prune
from reflex_aio.sql.schema.dialect import SchemaDialect
from reflex_aio.sql.schema.names import EventColumns, EventsSchema, ForeignIdType, Name
from reflex_aio.sql.schema.table import Table
from reflex_aio.sql.wakeups.notifier import Notifier
from reflex_aio.stream import EventStream

__all__ = ["EventsTable"]


class EventsTable(Table[EventsSchema]):
    """A table of events. Holds settings alone: one object serves any number of connections, pools and event loops.

    :param name: the table's name, ``table`` or ``schema.table``; quoted, so case counts
    :param columns: the names of its columns
    :param foreign_id: the type of its foreign ids, ``"text"`` or ``"bigint"``
    :param metadata: whether it has a column for metadata
    :param trace: whether it has a column for traces
    :param page_size: how many events are loaded by one query
    :param poll_period: how long a stream waits for a wake-up before it looks all the same, in seconds
    :param poll_floor: where nothing tells of what other processes insert, streams look more often than that while
        something happens: after a tenth of the time that nothing has, but after no less than this, in seconds
    :param query_timeout: how long a query of a stream may take before the server counts as lost, in seconds
    :param wakeups: what tells streams of new events. ``"commit"``: this process, after the commit, at next to no cost;
        ``"transaction"``: a NOTIFY in the writer's transaction, which holds up other writers' commits;
        ``"trigger"``: the trigger that :meth:`ddl` then makes, for writers that aren't Python;
        ``None``: nothing, streams poll
    :param notifier: another way to tell streams of new events than NOTIFY over a connection of its own
    :param include_noops: hand out the noops that fill gaps, too
    :param loader: an async function of a connection and the events of a page read on it, which returns those to hand
        out, in the same order, with the same ids
    :param inserter: an async function of a connection, foreign id, type, metadata and trace, which inserts the event
        instead of :meth:`insert` and returns its id
    :param hooks: told what happens; by default those installed for the process
    :param clock: tells the time, in seconds since 1970
    :raises ValueError: if an argument is out of its range, or no name
    :raises TypeError: if an argument has the wrong type
    """

    def __init__(
        self,
        name: str,
        *,
        columns: EventColumns | None = None,
        foreign_id: ForeignIdType = "text",
        metadata: bool = False,
        trace: bool = False,
        page_size: int = 1000,
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
                metadata=metadata,
                trace=trace,
                trigger=wakeups == "trigger",
            ),
            locals(),
        )
        self._settings = EventsSettings(
            schema=self.schema,
            page_size=page_size,
            poll_period=poll_period,
            poll_floor=poll_floor,
            query_timeout=query_timeout,
            wakeups=wakeups,
            notifier=notifier,
            include_noops=include_noops,
            loader=loader,
            inserter=inserter,
            hooks=installed() if hooks is None else hooks,
            clock=clock,
        )
        self._inserts = Inserts(self._settings)

    @property
    def has_metadata(self) -> bool:
        """Whether the table has a column for metadata."""
        return self._settings.schema.metadata

    # The table itself.

    def ddl(self, dialect: str = "postgres") -> str:
        """Return the statements that make the table, for a migration.

        :raises ValueError: if there is no such dialect, or it doesn't have the wake-ups of this table
        """
        wakeable_dialect(dialect, self._settings)
        return super().ddl(dialect)

    async def create(self, connection: Any) -> None:
        """Make the table if there is none.

        :raises TypeError: if ``connection`` isn't one
        """
        wakeable_dialect(driver_of_connection(connection).dialect, self._settings)
        await super().create(connection)

    async def drop(self, connection: Any) -> None:
        """Remove the table with its events, if there is one.

        :raises TypeError: if ``connection`` isn't one
        """
        driver = driver_of_connection(connection)
        await driver.fetch(connection, dialect_part(SchemaDialect, driver.dialect).drop(self.schema))

    async def as_found(self, connection: Any) -> Self:
        """Return a table object with the foreign ids, and with metadata and traces or not, that the real table has.

        For programs that are given no more than its name, and perhaps those of its columns.

        :raises TableNotFound: if there is no such table
        :raises TypeError: if ``connection`` isn't one
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
        return self.replace(
            foreign_id="text" if foreign_id is None or foreign_id.type in texts else "bigint",
            metadata=columns.metadata in found,
            trace=columns.trace in found,
        )

    # Writing.

    async def insert(
        self,
        connection: Any,
        foreign_id: str | int,
        type: int,
        *,
        metadata: bytes | None = None,
        trace: bytes | None = None,
    ) -> str:
        """Insert an event on ``connection``, in the transaction that is open on it, and return the event's id.

        What the database refuses is raised as the client library's own exception, for the caller's transaction
        handling.

        :param connection: a connection, or one acquired from a pool
        :param foreign_id: the id of the row that changed
        :param type: how it changed
        :param trace: by default what the hooks say, if the table has traces
        :raises TypeError: if a value has the wrong type
        :raises ValueError: if a value is out of its range, or belongs in a column that the table doesn't have
        :raises TableNotFound: if there is no such table
        :raises SchemaError: if a column is missing, or of another type
        :raises DatabaseError: if a trigger or a rule has kept the event out of the table
        """
        return await self._inserts.insert(connection, foreign_id, type, metadata, trace)

    async def insert_many(self, connection: Any, events: Iterable[NewEvent]) -> list[str]:
        """Insert events in the order given, all or none, and return their ids. See :meth:`insert`.

        They go by one statement; on MySQL and MariaDB by several, in a transaction or a savepoint, if one would be
        longer than the server's ``max_allowed_packet``. PostgreSQL refuses it where the table has a rule that does
        something more, or instead: a trigger may do that.

        :param events: for each event its foreign id, type, and if need be metadata and trace
        """
        return await self._inserts.insert_many(connection, events)

    async def wake(self, connection: Any) -> None:
        """Wake the streams of the table at once; those of other processes too, where the database carries that.

        For events that were committed in a way that nothing tells of: in a transaction of aiomysql or asyncmy that
        :func:`~reflex_aio.sql.transaction` hasn't begun, or by other statements than :meth:`insert`. To be called after
        the commit. A call that is left out costs time, as streams poll, but no event; one too many does no harm, nor
        does one with ``wakeups=None``, which wakes nobody.

        :param connection: one that leads to the table, the one that was committed or another; it may be asked once
            which table the name stands for
        :raises TypeError: if it isn't a connection
        """
        await self._inserts.wake(connection)

    # Reading.

    def source(self, pool: Any, *, primary: Any = None, fill_gaps: bool = False) -> TableSource:
        """Return the source that streams the table's events through ``pool``, for a :class:`~reflex_aio.Spec`.

        :param pool: a pool, from which connections are borrowed while there is something to read
        :param primary: a pool that leads to the primary, if ``pool`` leads to a standby. Without it, a stream on a
            standby stays at each gap until :meth:`fill_gaps`, running on the primary, has filled it
        :param fill_gaps: take every missing id for a noop before passing it, for tables whose writers draw ids in other
            transactions than they insert them, choose them by hand, or in blocks. Such a writer who comes late gets a
            unique violation, and one who says a bare ON CONFLICT DO NOTHING is not told that its event is lost. Needs
            the INSERT privilege, and a unique index on the id alone. On MySQL and MariaDB that is how gaps are passed
            in any case; there it makes the lack of the privilege an error
        :raises TypeError: if a pool isn't one, or ``fill_gaps`` no bool
        :raises ValueError: if both ``primary`` and ``fill_gaps`` are given
        """
        driver = driver_of_pool(pool)
        wakeable_dialect(driver.dialect, self._settings)
        if not isinstance(fill_gaps, bool):
            raise TypeError(f"fill_gaps {fill_gaps!r} is a {type(fill_gaps).__name__}: accepted is a bool")
        if primary is not None:
            if driver_of_pool(primary) is not driver:
                raise TypeError(
                    f"pool and primary belong to different client libraries: {pool!r}, {primary!r}"
                )
            if fill_gaps:
                raise ValueError("a standby takes no noops: fill_gaps=True goes with a stream on the primary")
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

    async def extent(self, connection: Any) -> Extent:
        """Return the first and the last of the ids that the table has now.

        :raises TableNotFound: if there is no such table
        :raises TypeError: if ``connection`` isn't one
        """
        driver = driver_of_connection(connection)
        with driver.errors(self.name, schema_only=True):
            oldest, newest = await dialect_part(RetentionDialect, driver.dialect).extent(
                driver, connection, self.schema
            )
        return Extent(*("" if event_id is None else str(event_id) for event_id in (oldest, newest)))

    async def backlogs(
        self, connection: Any, cursors: Iterable[str], *, limit: int = 100_000
    ) -> dict[str, Backlog]:
        """Return what is after each of some cursors, for those who watch consumers.

        It counts what is visible now, so it may count events that a stream has still to wait for. One statement reads
        as many rows as it counts.

        :param cursors: ids of events, or ``""`` for the beginning
        :param limit: count up to so many events after a cursor; a number as great as this means *at least*
        :raises InvalidCursor: if one is no event id
        :raises ValueError: if ``limit`` is less than 1
        :raises TableNotFound: if there is no such table
        :raises TypeError: if ``connection`` isn't one
        """
        if limit < 1:
            raise ValueError(f"limit {limit} is out of range: accepted is a number from 1")
        given = list(dict.fromkeys(cursors))
        positions = [int(check_cursor(cursor, "int")) if cursor != "" else 0 for cursor in given]
        driver = driver_of_connection(connection)
        with driver.errors(self.name, schema_only=True):
            found = await dialect_part(RetentionDialect, driver.dialect).backlogs(
                driver, connection, self.schema, positions, limit
            )
        # A clock that was set back makes no age negative.
        return {
            cursor: Backlog(count, max(0.0, age or 0.0))
            for cursor, (count, age) in zip(given, found, strict=True)
        }

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
        """Delete the events that ``retention`` doesn't keep, oldest first, in batches that are committed one by one.

        May be cancelled at any time: what is deleted stays so, and the next call goes on. Several at once do no harm.
        Writers aren't held up. The newest row is never deleted, nor is the event of the slowest consumer's cursor, or
        what comes after it; ``retention`` tells more.

        :param dry_run: delete nothing, count what would be
        :param batch_size: how many rows to delete at once at most; fewer while that takes long
        :param pause: how long to rest after each batch, as a multiple of the time that it took: 3 keeps the server busy
            for a quarter of the time, 0 for all of it
        :param progress: called after each batch, with how far it has come
        :raises DatabaseError: if another transaction has locked old events for long, or for what else the database
            reports, such as a foreign key
        :raises TableNotFound: if there is no such table
        :raises ConnectionLost: if the server can't be reached
        :raises ValueError: if a number is out of its range
        :raises TypeError: if ``pool`` isn't one
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
        """Return the partitions of the table, which is, or is to be, partitioned by ranges of ids, on PostgreSQL.

        :param size: how many ids each new partition takes
        :raises ValueError: if it is less than 1
        :raises TypeError: if it is no int
        """
        return Partitions(self.schema, size=size)

    async def fill_gaps(self, pool: Any, after: str = "") -> None:
        """Fill the table's gaps with noops as they resolve, until cancelled.

        For those who stream from standbys without ``primary``. Run it against the primary;
        several at once do no harm.

        :param pool: a pool that leads to the primary
        :param after: the cursor to begin after; gaps before it stay
        :raises ReflexError: if the database can't be reached, or the table not be fenced. Begin again then
        """
        async with self.replace(include_noops=True, loader=None).stream(
            pool, after, fill_gaps=True
        ) as stream:
            while await stream.read_page():
                pass
