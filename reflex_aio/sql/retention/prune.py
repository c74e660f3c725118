"""Pruning: deleting the events that a retention policy and the slowest consumer allow, in batches; and backlogs."""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from reflex_aio.checks import check_bool, check_count, check_seconds, wrong_type
from reflex_aio.cursor import CursorStore
from reflex_aio.errors import DatabaseError, InvalidCursor
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_pool
from reflex_aio.sql.drivers.base import Driver
from reflex_aio.sql.schema.names import EventsSchema

__all__ = [
    "Backlog",
    "Batch",
    "Batches",
    "Extent",
    "Found",
    "LowWatermark",
    "PruneLimit",
    "Pruned",
    "Retention",
    "RetentionDialect",
    "low_watermark",
    "prune",
]

logger = logging.getLogger(__name__)

PruneLimit: TypeAlias = Literal["consumer", "age", "noop", "before", "newest"]
"""The reason why the first remaining row was not deleted: see :class:`Pruned`."""

# The size of a batch is halved if one takes longer than the second time, and doubled if it takes less than the first,
# in seconds.
_SHORT, _LONG = 0.02, 0.1
# The number of rows in the first batch.
_FIRST_SIZE = 100
_LARGEST_BATCH = 100_000
# The number of consecutive batches that may find rows locked by another transaction, and the pause after each, in
# seconds.
_MOST_LOCKED = 10
_LOCKED_PAUSE = 0.5
_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Extent:
    """The first and the last id of a table, including those of noops; ``""`` if the table is empty."""

    oldest: str
    newest: str

    @classmethod
    def of(cls, oldest: int | None, newest: int | None) -> Self:
        """Return the extent of a table whose least and greatest id are given, or ``None`` if it is empty."""
        return cls(*("" if event_id is None else str(event_id) for event_id in (oldest, newest)))


@dataclass(frozen=True, slots=True)
class Backlog:
    """The events that a consumer has not handled yet."""

    events: int
    """The number of events after its cursor."""
    seconds: float
    """The age of the first of them, by the database's clock; 0 if there is none."""


class Found(NamedTuple):
    """A table before events are deleted."""

    oldest: int | None
    """The least visible id, including noops; ``None`` if there is no row."""
    newest: int | None
    """The greatest visible id."""
    now_us: int
    """The time of the database's clock, in microseconds since 1970."""


class Batch(NamedTuple):
    """A batch of rows, in the order of their ids."""

    rows: int
    """The number of rows. If it is 0, the other values are ``None``."""
    last: int | None
    """The greatest id."""
    young: int | None
    """The least id of the rows that are too young to be deleted."""
    young_noop: int | None
    """The least id of the noops that are too young to be deleted."""


class Batches(ABC):
    """Reads and deletes the rows of one table. No transaction may be open on the connections that are passed to it."""

    @abstractmethod
    async def found(self, connection: Any) -> Found:
        """Return the present extent of the table."""

    @abstractmethod
    async def next(
        self, connection: Any, after: int, end: int, limit: int, *, young_us: int, young_noop_us: int
    ) -> Batch:
        """Return the first rows, at most ``limit``, with ids greater than ``after`` and less than ``end``.

        :param young_us: the time from which rows are too young to be deleted, in microseconds since 1970
        :param young_noop_us: the same for noops
        """

    @abstractmethod
    async def delete(self, connection: Any, after: int, last: int) -> int | None:
        """Delete the rows with ids greater than ``after``, up to ``last``, and commit; return their number.

        If other transactions have locked some of them for more than about a second, delete nothing and return ``None``.
        """


class RetentionDialect(ABC):
    """Deleting the events of one database, and measuring backlogs. It has no state."""

    @abstractmethod
    async def open(self, driver: Driver, connection: Any, schema: EventsSchema) -> Batches:
        """Find the table.

        :raises TableNotFound: if there is no such table
        :raises TableRefused: if it is not a table from which rows can be deleted
        """

    @abstractmethod
    async def extent(self, driver: Driver, connection: Any, schema: EventsSchema) -> Extent:
        """Return the least and the greatest visible id, including those of noops."""

    @abstractmethod
    async def backlogs(
        self, driver: Driver, connection: Any, schema: EventsSchema, cursors: Sequence[int], limit: int
    ) -> Sequence[Backlog]:
        """Return the backlog of each cursor, without noops.

        :param limit: the greatest number of events to count
        """


@dataclass(frozen=True, slots=True)
class LowWatermark:
    """The lowest position of the consumers, those that must not miss events."""

    consumer: str
    """The name of the slowest consumer; ``""`` if there is no consumer."""
    position: int
    """The id of the last event that it handled; 0 if there is none, or its cursor is not an event id."""


async def low_watermark(
    stores: Iterable[CursorStore], *, ignore: Collection[str] = (), expect: Collection[str] = ()
) -> LowWatermark:
    """Return the low watermark of the consumers with cursors in the stores, and of the expected consumers.

    :param ignore: patterns of the names of consumers to ignore, as of files
    :param expect: the names of consumers that count even without a cursor
    """
    positions: dict[str, int] = {}
    for store in stores:
        for name, cursor in (await store.all()).items():
            # For a consumer in two stores, the lower cursor counts.
            position = _position(cursor)
            positions[name] = min(position, positions.get(name, position))
    for name in expect:
        positions.setdefault(name, 0)
    return min(
        (
            LowWatermark(name, position)
            for name, position in sorted(positions.items())
            if not any(fnmatchcase(name, pattern) for pattern in ignore)
        ),
        key=lambda each: each.position,
        default=LowWatermark("", 0),
    )


def _position(cursor: str) -> int:
    try:
        return int(check_cursor(cursor, "int"))
    except InvalidCursor:
        return 0


@dataclass(frozen=True, kw_only=True)
class Retention:
    """A retention policy: events may be deleted up to the first one that any of these criteria keeps.

    At least one of ``older_than`` and ``before`` is required, and ``cursors`` or ``force``.

    :param older_than: the age at which events are deleted, in seconds, by the database's clock at the start of the
        pruning. Times do not always increase with ids: the first event that is younger keeps all events after it
    :param before: the id of the first event to keep
    :param cursors: the cursor store or stores of the consumers of these events. The event of the slowest consumer's
        cursor is kept, and all events after it. A cursor that is not an event id keeps all events
    :param ignore: the names of consumers to ignore, such as those of other events tables. These are patterns, as of
        files: ``{"payments-*"}``
    :param expect: the names of consumers that keep all events while they have no cursor
    :param force: ignore the consumers; those that are behind miss the deleted events
    :param noop_age: the age at which noops are deleted, in seconds: longer than any transaction of a writer. Without
        its noop, a late writer could use the id, and streams would miss the event
    :raises ValueError: if a required argument is missing, or a number is out of range
    :raises InvalidCursor: if ``before`` is not an event id
    :raises TypeError: if an argument has the wrong type
    """

    older_than: float | None = None
    before: str | None = None
    cursors: CursorStore | Iterable[CursorStore] = ()
    ignore: Collection[str] = ()
    expect: Collection[str] = ()
    force: bool = False
    noop_age: float = 3600.0

    def __post_init__(self) -> None:
        if self.older_than is None and self.before is None:
            raise ValueError("no event may be deleted: pass older_than, before, or both")
        check_seconds("older_than", self.older_than, zero=True, none=True)
        check_seconds("noop_age", self.noop_age, zero=True)
        if self.before is not None:
            check_cursor(self.before, "int")
        object.__setattr__(self, "cursors", _check_stores(self.cursors))
        for what, names in (("ignore", self.ignore), ("expect", self.expect)):
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise wrong_type(what, names, "a collection of names")
            object.__setattr__(self, what, frozenset(names))
        check_bool("force", self.force)
        if not self.stores and not self.force:
            raise ValueError(
                "the positions of the consumers are unknown: pass cursors=cursors_table.store(pool), or force=True to"
                " delete events that they may not have handled"
            )

    @property
    def stores(self) -> Sequence[CursorStore]:
        """The cursor stores of the consumers; empty with ``force``."""
        stores: Sequence[CursorStore] = () if self.force else self.cursors  # type: ignore[assignment]
        return stores


@dataclass(frozen=True, slots=True)
class Pruned:
    """The progress of a pruning."""

    events: int
    """The number of deleted rows, including noops; in a dry run, of those that would be deleted."""
    first: str
    """The least id at the start; ``""`` if the table was empty."""
    position: str
    """The id up to which all rows are deleted; ``"0"`` before the first batch."""
    end: str
    """The id of the first event that is kept."""
    limit: PruneLimit
    """The reason to keep it: ``"consumer"``: the cursor of the slowest consumer; ``"age"``: its age; ``"noop"``: it is
    a noop that is too young; ``"before"``: the argument of this name; ``"newest"``: the newest row is always kept,
    as the head of the table."""
    consumer: str
    """The slowest consumer, if that is the reason; ``""`` also if no consumer has a cursor, which keeps all events."""


async def prune(
    schema: EventsSchema,
    pool: Any,
    retention: Retention,
    *,
    dry_run: bool,
    batch_size: int,
    pause: float,
    progress: Callable[[Pruned], object] | None,
) -> Pruned:
    """Delete old events: see :meth:`~reflex_aio.sql.events.table.EventsTable.prune`."""
    check_count("batch_size", batch_size, least=1, most=_LARGEST_BATCH)
    check_seconds("pause", pause, zero=True)
    driver = driver_of_pool(pool)
    with driver.errors(str(schema.table)):
        async with driver.acquire(pool) as connection:
            batches = await dialect_part(RetentionDialect, driver.dialect).open(driver, connection, schema)
            found = await batches.found(connection)
    pruning = _Pruning(schema, pool, retention, batches, found, dry_run=dry_run, largest=batch_size)
    while await pruning.step():
        if progress is not None:
            progress(pruning.pruned)
        # Proportional to the duration of the batch, so that the share of the server's time is constant.
        await asyncio.sleep(pruning.seconds * pause)
    return pruning.pruned


class _Pruning:
    """One pruning. Each batch is committed, so that a new pruning continues where this one ends."""

    def __init__(
        self,
        schema: EventsSchema,
        pool: Any,
        retention: Retention,
        batches: Batches,
        found: Found,
        *,
        dry_run: bool,
        largest: int,
    ) -> None:
        self._table = str(schema.table)
        self._driver = driver_of_pool(pool)
        self._pool = pool
        self._retention = retention
        self._batches = batches
        self._dry_run = dry_run
        self._largest = largest
        self._size = min(largest, _FIRST_SIZE)
        self._locked = 0
        self._position = 0
        self._events = 0
        age, noop_age = retention.older_than, retention.noop_age
        self._young_us = _NEVER if age is None else found.now_us - int(age * 1_000_000)
        self._young_noop_us = found.now_us - int(noop_age * 1_000_000)
        self._first = "" if found.oldest is None else str(found.oldest)
        # The first id to keep, for each reason.
        self._kept: dict[PruneLimit, int] = {"newest": found.newest or 0}
        if retention.before is not None:
            self._kept["before"] = int(retention.before)
        self._consumer = ""
        self.seconds = 0.0
        """The time for which the last step kept the database busy, in seconds."""

    @property
    def pruned(self) -> Pruned:
        """The progress."""
        limit, end = self._end()
        return Pruned(
            events=self._events,
            first=self._first,
            position=str(self._position),
            end=str(end),
            limit=limit,
            consumer=self._consumer if limit == "consumer" else "",
        )

    def _end(self) -> tuple[PruneLimit, int]:
        """Return the first id to keep and the reason; of several reasons, the one that the user can influence least."""
        order: tuple[PruneLimit, ...] = ("newest", "noop", "consumer", "age", "before")
        limit = min((limit for limit in order if limit in self._kept), key=self._kept.__getitem__)
        return limit, self._kept[limit]

    async def step(self) -> bool:
        """Delete a batch; return whether there may be more."""
        await self._update_low_watermark()
        _, end = self._end()
        if end <= self._position + 1:
            return False
        with self._driver.errors(self._table):
            async with self._driver.acquire(self._pool) as connection:
                began = time.monotonic()
                batch = await self._next(connection, end)
                if batch.last is None:
                    self._position = end - 1
                    return False
                if self._keep("age", batch.young) | self._keep("noop", batch.young_noop):
                    # The next step reads the batch again, without them.
                    self.seconds = 0.0
                    return True
                deleted: int | None = batch.rows
                if not self._dry_run:
                    deleted = await self._batches.delete(connection, self._position, batch.last)
                self.seconds = time.monotonic() - began
        if deleted is None:
            self._back_off(batch.last)
            return True
        self._locked = 0
        self._events += deleted
        self._position = batch.last
        if self.seconds > _LONG:
            self._size = max(1, self._size // 2)
        elif self.seconds < _SHORT:
            self._size = min(self._largest, self._size * 2)
        return True

    async def _update_low_watermark(self) -> None:
        # Before each batch: a consumer may have been rewound, or be new.
        if self._retention.force:
            return
        ignore, expect = self._retention.ignore, self._retention.expect
        watermark = await low_watermark(self._retention.stores, ignore=ignore, expect=expect)
        self._kept["consumer"], self._consumer = watermark.position, watermark.consumer

    async def _next(self, connection: Any, end: int) -> Batch:
        return await self._batches.next(
            connection,
            self._position,
            end,
            self._size,
            young_us=self._young_us,
            young_noop_us=self._young_noop_us,
        )

    def _keep(self, limit: PruneLimit, id: int | None) -> bool:
        if id is None:
            return False
        # A batch ends below all ids that are known to be kept, so this id is lower than any found before.
        self._kept[limit] = id
        return True

    def _back_off(self, last: int) -> None:
        """Continue later with fewer rows, as another transaction has locked some.

        :raises DatabaseError: if rows have been locked for long
        """
        self._locked += 1
        self._size = max(1, self._size // 8)
        self.seconds = max(self.seconds, _LOCKED_PAUSE)
        problem = f"{self._table}: another transaction has locked events after {self._position}, up to {last}"
        if self._locked >= _MOST_LOCKED:
            raise DatabaseError(
                f"{problem}, for {_MOST_LOCKED} attempts; the events before them remain deleted"
            )
        logger.info("%s; retrying with fewer", problem)


def _check_stores(cursors: object) -> tuple[CursorStore, ...]:
    accepted = "a cursor store, such as cursors_table.store(pool), or several"
    stores = (cursors,) if isinstance(cursors, CursorStore) else cursors
    if isinstance(stores, (str, bytes)) or not isinstance(stores, Iterable):
        raise wrong_type("cursors", cursors, accepted)
    found = tuple(stores)
    for store in found:
        # In particular a cursors table, whose methods expect a connection.
        if not isinstance(store, CursorStore):
            raise wrong_type("cursors", store, accepted)
    return found
