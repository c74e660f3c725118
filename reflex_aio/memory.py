"""Events, cursors, leases and attempts in memory, for tests and single processes. They keep the whole contract."""

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar
from uuid import UUID

import anyio
import anyio.lowlevel

from reflex_aio.attempts import Attempts, AttemptStore, check_attempt
from reflex_aio.checks import check_instance, wrong_type
from reflex_aio.cursor import CursorStore, is_behind, is_number
from reflex_aio.errors import CursorAhead, CursorConflict, InvalidCursor, LeaseLost
from reflex_aio.event import DEFAULT_PAGE_BYTES, Event, check_event, fitting
from reflex_aio.lease import Lease, LeaseState, LeaseStore, check_lease, check_ttl
from reflex_aio.stream import EventStream, StreamOptions

__all__ = ["MemoryAttemptStore", "MemoryCursorStore", "MemoryEvents", "MemoryLeaseStore"]

_PAGE = 1000
# int() takes long for longer ones, and refuses those of more than 4,300 digits.
_LONGEST_CURSOR = 20
# The longest sleep before the clock is read again, since it may be set in the meantime. In seconds.
_CLOCK_PERIOD = 1.0


class MemoryEvents:
    """A list of events, and the source that streams them.

    :param clock: returns the time, in seconds since 1970
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._events: list[Event] = []
        self._inserted = anyio.Event()

    async def insert(
        self,
        foreign_id: str | int | UUID,
        type: int,
        *,
        metadata: bytes | None = None,
        trace: bytes | None = None,
    ) -> str:
        """Append an event, and return its id.

        :raises TypeError: if a value has the wrong type
        :raises ValueError: if a value is out of range
        """
        stored_id, stored_type = check_event(foreign_id, type, metadata, trace)
        event_id = str(len(self._events) + 1)
        now = round(self._clock() * 1_000_000)
        if self._events:
            # The bisection in _old_enough needs the order, even if the clock was set back.
            now = max(now, self._events[-1].timestamp_us)
        self._events.append(Event(event_id, stored_type, stored_id, now, metadata, trace))
        inserted, self._inserted = self._inserted, anyio.Event()
        inserted.set()
        return event_id

    def stream(
        self, after: str = "", *, from_head: bool = False, to_head: bool = False, lag: float | None = None
    ) -> EventStream:
        """Return a stream of the events after the cursor ``after``.

        See :class:`~reflex_aio.stream.Source`.

        :raises InvalidCursor: if ``after`` is not an event id
        :raises CursorAhead: when the stream is opened, if ``after`` is greater than the newest event's id
        """
        return _MemoryStream(self, _position(after), StreamOptions(from_head, to_head, lag))

    async def head(self) -> str:
        """Return the cursor of the newest event, or ``""`` if there is none."""
        return _cursor(len(self._events))

    def _old_enough(self, lag: float | None) -> int:
        """Return the number of events that are at least ``lag`` seconds old, from the first on."""
        if not lag:
            return len(self._events)
        newest = round((self._clock() - lag) * 1_000_000)
        return bisect_right(self._events, newest, key=lambda event: event.timestamp_us)

    async def _next(self, position: int, lag: float | None) -> None:
        """Wait until there may be another event after ``position`` that is ``lag`` seconds old."""
        if position == len(self._events):
            await self._inserted.wait()
        else:
            due = self._events[position].timestamp_us / 1_000_000 + (lag or 0.0)
            await anyio.sleep(min(max(0.0, due - self._clock()), _CLOCK_PERIOD))


class _MemoryStream(EventStream):
    def __init__(self, source: MemoryEvents, position: int, options: StreamOptions) -> None:
        super().__init__(_cursor(position))
        self._source = source
        self._position = position
        self._options = options
        self._head = 0

    async def _open(self) -> str:
        self._head = self._source._old_enough(self._options.lag)
        if self._options.from_head:
            self._position = self._head
        elif self._position > len(self._source._events):
            last = await self._source.head()
            raise CursorAhead(table="MemoryEvents", cursor=_cursor(self._position), last=last)
        return _cursor(self._position)

    async def _read(self) -> Sequence[Event]:
        source, lag = self._source, self._options.lag
        # Without a checkpoint, a reader of many events would not let other tasks run.
        await anyio.lowlevel.checkpoint()
        if self._options.to_head:
            end = self._head
        else:
            while (end := source._old_enough(lag)) <= self._position:
                await source._next(self._position, lag)
        page = source._events[self._position : min(end, self._position + _PAGE)]
        del page[fitting(page, DEFAULT_PAGE_BYTES) :]
        self._position += len(page)
        return page

    async def _close(self) -> None:
        """Do nothing: the stream holds no resources."""


@dataclass(frozen=True, slots=True)
class _Grant:
    owner: str
    epoch: int
    expires: float


@dataclass(frozen=True, slots=True)
class _MemoryLease(Lease):
    """A lease with the store that made it."""

    store: "MemoryLeaseStore" = field(repr=False)


class MemoryCursorStore(CursorStore):
    """Cursors in a dictionary.

    Numeric cursors move forward only. Other cursors have no known order: they can be set to any value, unless
    ``expected=`` is given.

    :param cursors: initial cursors by consumer; event ids may be integers
    """

    fence_type: ClassVar[type[Lease] | None] = _MemoryLease

    def __init__(self, cursors: Mapping[str, str | int] = {}) -> None:
        self._cursors = {name: str(cursor) for name, cursor in cursors.items()}

    async def get(self, name: str) -> str:
        """Return the cursor of the consumer ``name``, or ``""`` if it has none."""
        return self._cursors.get(name, "")

    async def set(
        self, name: str, cursor: str, *, expected: str | None = None, fence: Lease | None = None
    ) -> None:
        """Move the cursor of the consumer ``name`` forward. See :class:`~reflex_aio.cursor.CursorStore`.

        :raises TypeError: if ``cursor`` is not a string, or ``fence`` is not a lease of a :class:`MemoryLeaseStore`
        """
        _check_cursor(cursor)
        if fence is not None:
            _check_held(fence)
        stored = self._cursors.get(name, "")
        if expected is not None and stored != expected:
            raise CursorConflict(consumer=name, stored=stored, given=cursor, expected=expected)
        if _is_behind(cursor, stored):
            raise CursorConflict(consumer=name, stored=stored, given=cursor)
        self._cursors[name] = cursor

    async def rewind(self, name: str, cursor: str) -> None:
        """Set the cursor of the consumer ``name`` to any value, also backwards.

        :raises TypeError: if ``cursor`` is not a string
        """
        _check_cursor(cursor)
        self._cursors[name] = cursor

    async def all(self) -> Mapping[str, str]:
        """Return the stored cursors by consumer."""
        return dict(self._cursors)


class MemoryLeaseStore(LeaseStore):
    """Leases in a dictionary. A :class:`MemoryCursorStore` can compare them.

    :param clock: returns the time, in seconds from any origin
    """

    lease_type: type[Lease] = _MemoryLease

    def __init__(self, *, clock: Callable[[], float] = anyio.current_time) -> None:
        self._clock = clock
        self._grants: dict[str, _Grant] = {}

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """Acquire ``name`` for ``owner``, or return ``None``. See :class:`~reflex_aio.lease.LeaseStore`.

        :raises TypeError: if an argument has the wrong type
        :raises ValueError: if an argument is out of range
        """
        check_lease(name, owner)
        check_ttl(ttl)
        now = self._clock()
        grant = self._grants.get(name, _Grant("", 0, now))
        held = grant.owner != "" and grant.expires > now
        if held and grant.owner != owner:
            return None
        epoch = grant.epoch if held else grant.epoch + 1
        self._grants[name] = _Grant(owner, epoch, now + ttl)
        return _MemoryLease(name, owner, epoch, self)

    async def renew(self, lease: Lease, *, ttl: float) -> None:
        """Let ``lease`` expire in ``ttl`` seconds from now. See :class:`~reflex_aio.lease.LeaseStore`.

        :raises LeaseLost: if another owner has acquired it, or it was released
        :raises TypeError: if ``lease`` is not of a memory lease store, or ``ttl`` is not a number
        :raises ValueError: if ``ttl`` is out of range
        """
        check_ttl(ttl)
        _check_held(lease)
        self._grants[lease.name] = _Grant(lease.owner, lease.epoch, self._clock() + ttl)

    async def release(self, lease: Lease) -> None:
        """Release ``lease``. See :class:`~reflex_aio.lease.LeaseStore`.

        :raises TypeError: if ``lease`` is not of a memory lease store
        """
        try:
            _check_held(lease)
        except LeaseLost:
            return
        # Keep the epoch, and count on from it: with the same epoch twice, an earlier lease would pass for a later one.
        self._grants[lease.name] = _Grant("", lease.epoch, self._clock())

    async def all(self) -> Mapping[str, LeaseState]:
        """Return the state of every name that was ever acquired, held or not."""
        now = self._clock()
        return {
            name: LeaseState(grant.owner, grant.epoch, grant.expires - now)
            for name, grant in self._grants.items()
        }


class MemoryAttemptStore(AttemptStore):
    """Failed attempts in a dictionary, for tests: they are lost when the process ends.

    :param clock: returns the time, in seconds from any origin
    """

    def __init__(self, *, clock: Callable[[], float] = anyio.current_time) -> None:
        self._clock = clock
        self._attempts: dict[tuple[str, str], tuple[int, float]] = {}

    async def get(self, consumer: str) -> Mapping[str, Attempts]:
        """Return the failed attempts of the consumer by event id. See :class:`~reflex_aio.attempts.AttemptStore`."""
        now = self._clock()
        return {
            event_id: Attempts(count, due - now)
            for (name, event_id), (count, due) in self._attempts.items()
            if name == consumer
        }

    async def record(self, consumer: str, event_id: str, *, delay: float) -> None:
        """Count one more failed attempt at an event. See :class:`~reflex_aio.attempts.AttemptStore`.

        :raises TypeError: if an argument has the wrong type
        :raises ValueError: if an argument is out of range
        """
        check_attempt(consumer, event_id, delay)
        count, _ = self._attempts.get((consumer, event_id), (0, 0.0))
        self._attempts[consumer, event_id] = count + 1, self._clock() + delay

    async def clear(self, consumer: str, event_id: str) -> None:
        """Delete the attempts at an event. See :class:`~reflex_aio.attempts.AttemptStore`."""
        self._attempts.pop((consumer, event_id), None)


def _check_held(lease: Lease) -> None:
    """Check that ``lease`` was neither released nor acquired by another owner.

    :raises LeaseLost: if it was
    :raises TypeError: if it is not of a memory lease store
    """
    if not isinstance(lease, _MemoryLease):
        raise wrong_type("lease", lease, "a lease of a MemoryLeaseStore")
    grant = lease.store._grants.get(lease.name)
    if grant is None or (grant.owner, grant.epoch) != (lease.owner, lease.epoch):
        raise LeaseLost(name=lease.name, owner=lease.owner, epoch=lease.epoch)


def _check_cursor(cursor: object) -> None:
    check_instance("cursor", cursor, str, "a str")


def _is_behind(cursor: str, stored: str) -> bool:
    return is_behind(cursor, stored) or (not cursor and bool(stored))


def _cursor(position: int) -> str:
    return str(position) if position else ""


def _position(cursor: str) -> int:
    if cursor == "":
        return 0
    if not is_number(cursor) or len(cursor) > _LONGEST_CURSOR:
        raise InvalidCursor(cursor, 'an event id, which is a string of digits, or "" for the beginning')
    return int(cursor)
