"""Deleting old events: which may go, and which never."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

from reflex_aio.cursor import CursorStore
from reflex_aio.errors import DatabaseError, InvalidCursor
from reflex_aio.sql.cursors.store import check_cursor
from reflex_aio.sql.dialect import dialect_part
from reflex_aio.sql.drivers import driver_of_pool
from reflex_aio.sql.retention.dialect import Batch, Batches, Found, RetentionDialect
from reflex_aio.sql.schema.names import EventsSchema

__all__ = ["PruneLimit", "Pruned", "Retention", "Slowest", "prune", "slowest"]


@dataclass(frozen=True, slots=True)
class Slowest:
    """The consumer that is furthest behind."""

    consumer: str
    """Its name; ``""`` if there is no consumer at all."""
    position: int
    """The id of the last event that it consumed; 0 if it has consumed none, or its cursor isn't an event's id."""


async def slowest(
    stores: Iterable[CursorStore], *, ignore: Collection[str] = (), expect: Collection[str] = ()
) -> Slowest:
    """Return the slowest of the consumers with cursors in some stores, or expected there.

    :param ignore: patterns of the names of consumers that don't count, as of files
    :param expect: names of consumers that count without a cursor, too
    """
    positions: dict[str, int] = {}
    for store in stores:
        for name, cursor in (await store.all()).items():
            # Of a consumer in two stores, the cursor that is further behind.
            position = _position(cursor)
            positions[name] = min(position, positions.get(name, position))
    for name in expect:
        positions.setdefault(name, 0)
    return min(
        (
            Slowest(name, position)
            for name, position in sorted(positions.items())
            if not any(fnmatchcase(name, pattern) for pattern in ignore)
        ),
        key=lambda each: each.position,
        default=Slowest("", 0),
    )


def _position(cursor: str) -> int:
    try:
        return int(check_cursor(cursor, "int"))
    except InvalidCursor:
        return 0


logger = logging.getLogger(__name__)

PruneLimit: TypeAlias = Literal["consumer", "age", "noop", "before", "newest"]
"""What keeps the first row that wasn't deleted: see :class:`Pruned`."""

# A batch that takes longer than the second of these is halved, one that takes less than the first is doubled: seconds.
_SHORT, _LONG = 0.02, 0.1
# How many rows the first batch has.
_FIRST = 100
# How often in a row a batch may meet the locks of another transaction, and how long they are waited for, in seconds.
_TRIES = 10
_LOCKED_PAUSE = 0.5
_NEVER = 2**62


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which events may be deleted: those before the first one that any of this keeps.

    At least one of ``older_than`` and ``before`` is to be given, and ``cursors`` or ``force``.

    :param older_than: the age that events are deleted at, in seconds, by the database's clock when the pruning begins.
        Times don't always follow ids: the first event that is younger keeps all that come after it
    :param before: the id of the first event to keep
    :param cursors: the store, or stores, where the consumers of these events keep their cursors. The event of the
        slowest consumer's cursor is kept, with all that come after it. A cursor that is no event's id keeps everything
    :param ignore: names of consumers that don't count, such as those of other events tables. Patterns, as of files:
        ``{"payments-*"}``
    :param expect: names of consumers that count even while they have no cursor: they keep everything until they do
    :param force: don't ask how far consumers are; those behind miss what is deleted
    :param noop_age: how old a noop has to be to be deleted, in seconds: longer than any transaction of a writer lasts.
        A noop that is gone doesn't keep a late writer from its id any more, and streams would miss that event
    :raises ValueError: if nothing tells what to keep, or a number is out of its range
    :raises InvalidCursor: if ``before`` is no event id
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
            raise ValueError("which events may be deleted? Give older_than, before, or both")
        for what, seconds in (("older_than", self.older_than), ("noop_age", self.noop_age)):
            if seconds is not None:
                _check_number(what, seconds)
        if self.before is not None:
            check_cursor(self.before, "int")
        object.__setattr__(self, "cursors", _stores(self.cursors))
        for what, names in (("ignore", self.ignore), ("expect", self.expect)):
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"{what} {names!r} is not accepted: a collection of names is")
            object.__setattr__(self, what, frozenset(names))
        if not isinstance(self.force, bool):
            raise TypeError(f"force {self.force!r} is a {type(self.force).__name__}: accepted is a bool")
        if not self.stores and not self.force:
            raise ValueError(
                "how far are the consumers? Give cursors=cursors_table.store(pool), or force=True to delete what they"
                " may have still to come to"
            )

    @property
    def stores(self) -> Sequence[CursorStore]:
        """The stores to ask how far the consumers are."""
        stores: Sequence[CursorStore] = () if self.force else self.cursors  # type: ignore[assignment]
        return stores


@dataclass(frozen=True, slots=True)
class Pruned:
    """How far a pruning has come."""

    events: int
    """How many rows were deleted, noops included; of a dry run, how many would be."""
    first: str
    """The least id when it began; ``""`` if the table was empty."""
    position: str
    """The id up to which there is nothing any more; ``"0"`` before the first batch."""
    end: str
    """The first id that is kept."""
    limit: PruneLimit
    """What keeps it: ``"consumer"``, the cursor of the slowest one; ``"age"``, its own; ``"noop"``: a noop there that
    isn't old enough; ``"before"``, as asked for; ``"newest"``: the newest row always stays, as it tells where the head
    is."""
    consumer: str
    """The slowest consumer, if that is what keeps it; ``""`` also if none has a cursor yet, which keeps everything."""


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
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"batch_size {batch_size!r} is a {type(batch_size).__name__}: accepted is an int")
    if not 1 <= batch_size <= 100_000:
        raise ValueError(f"batch_size {batch_size} is out of range: accepted is 1 to 100000")
    _check_number("pause", pause)
    driver = driver_of_pool(pool)
    with driver.errors(str(schema.table)):
        async with driver.acquire(pool) as connection:
            batches = await dialect_part(RetentionDialect, driver.dialect).open(driver, connection, schema)
            found = await batches.found(connection)
    pruning = _Pruning(schema, pool, retention, batches, found, dry_run=dry_run, most=batch_size)
    while await pruning.step():
        if progress is not None:
            progress(pruning.pruned)
        # However busy the server is, it is ours for the same part of the time.
        await asyncio.sleep(pruning.took * pause)
    return pruning.pruned


class _Pruning:
    """One pruning, step by step. Each batch is committed: to begin anew is to go on."""

    def __init__(
        self,
        schema: EventsSchema,
        pool: Any,
        retention: Retention,
        batches: Batches,
        found: Found,
        *,
        dry_run: bool,
        most: int,
    ) -> None:
        self._table = str(schema.table)
        self._driver = driver_of_pool(pool)
        self._pool = pool
        self._retention = retention
        self._batches = batches
        self._dry_run = dry_run
        self._most = most
        self._size = min(most, _FIRST)
        self._locked = 0
        self._position = 0
        self._events = 0
        age, noop_age = retention.older_than, retention.noop_age
        self._young_us = _NEVER if age is None else found.now_us - int(age * 1_000_000)
        self._young_noop_us = found.now_us - int(noop_age * 1_000_000)
        self._first = "" if found.oldest is None else str(found.oldest)
        self._kept: dict[PruneLimit, int] = {"newest": found.newest or 0}
        if retention.before is not None:
            self._kept["before"] = int(retention.before)
        self._consumer = ""
        self.took = 0.0
        """How long the database was kept busy by the last step, in seconds."""

    @property
    def pruned(self) -> Pruned:
        """How far it has come."""
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
        """Return the first id to keep, and why; of several reasons, the one that is the least in the user's hand."""
        order: tuple[PruneLimit, ...] = ("newest", "noop", "consumer", "age", "before")
        limit = min((limit for limit in order if limit in self._kept), key=self._kept.__getitem__)
        return limit, self._kept[limit]

    async def step(self) -> bool:
        """Delete a batch; tell whether there may be more."""
        await self._ask_consumers()
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
                    # Once more, without them.
                    self.took = 0.0
                    return True
                deleted: int | None = batch.rows
                if not self._dry_run:
                    deleted = await self._batches.delete(connection, self._position, batch.last)
                self.took = time.monotonic() - began
        if deleted is None:
            self._meet_locks(batch.last)
            return True
        self._locked = 0
        self._events += deleted
        self._position = batch.last
        if self.took > _LONG:
            self._size = max(1, self._size // 2)
        elif self.took < _SHORT:
            self._size = min(self._most, self._size * 2)
        return True

    async def _ask_consumers(self) -> None:
        # Before each batch: one may have been rewound, or be new.
        if self._retention.force:
            return
        ignore, expect = self._retention.ignore, self._retention.expect
        found = await slowest(self._retention.stores, ignore=ignore, expect=expect)
        self._kept["consumer"], self._consumer = found.position, found.consumer

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
        # Batches end below all that is known to be kept, so it is less than what was found before.
        self._kept[limit] = id
        return True

    def _meet_locks(self, last: int) -> None:
        """Go on with fewer rows, later, as another transaction has locked some.

        :raises DatabaseError: if that has been so for long
        """
        self._locked += 1
        self._size = max(1, self._size // 8)
        self.took = max(self.took, _LOCKED_PAUSE)
        told = f"{self._table}: another transaction has locked events after {self._position}, up to {last}"
        if self._locked >= _TRIES:
            raise DatabaseError(f"{told}, for as long as {_TRIES} tries; what was deleted before stays so")
        logger.info("%s; trying again with fewer", told)


def _check_number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} {value!r} is a {type(value).__name__}: accepted is a number from 0")
    if not 0 <= value < math.inf:
        raise ValueError(f"{what} {value} is out of range: accepted is a number from 0")


def _stores(given: object) -> tuple[CursorStore, ...]:
    # A cursors table has a connection for each call in place of a pool.
    wanted = "a cursor store is, as of cursors_table.store(pool), or several"
    stores = (given,) if isinstance(given, CursorStore) else given
    if isinstance(stores, (str, bytes)) or not isinstance(stores, Iterable):
        raise TypeError(f"cursors {given!r} is not accepted: {wanted}")
    found = tuple(stores)
    for store in found:
        if not isinstance(store, CursorStore):
            raise TypeError(f"cursors {store!r} is not accepted: {wanted}")
    return found
