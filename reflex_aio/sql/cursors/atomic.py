"""Consumers whose effects and cursor commit together: each event has its effect exactly once."""

import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, Unpack

from reflex_aio.attempts import AttemptStore
from reflex_aio.backoff import Backoff
from reflex_aio.checks import check_count, check_seconds
from reflex_aio.consumer import BaseConsumer, ConsumerOptions
from reflex_aio.errors import DatabaseError
from reflex_aio.event import Event
from reflex_aio.hooks import Hooks
from reflex_aio.patterns.batch import BatchSession
from reflex_aio.running.manual_commit import Session, SessionConsumer, Turn
from reflex_aio.spec import Spec
from reflex_aio.sql.cursors.store import TableCursorStore
from reflex_aio.sql.cursors.table import CursorsTable
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.stream import Source
from reflex_aio.tasks import pending_cancellations

__all__ = ["AtomicBatchConsumer", "AtomicConsumer", "AtomicHandler", "Effect", "atomic_spec"]

Item = TypeVar("Item")

# A day, in seconds: what every database can count, and longer than anybody wants to be held up.
_LONGEST_IDLE = 86_400.0

AtomicHandler: TypeAlias = Callable[[Item, Any], Awaitable[None]]
"""An async function of an event, or of several, and a connection."""


@dataclass(frozen=True, slots=True)
class Effect(Generic[Item]):
    """What is consumed, and the connection whose transaction moves the cursor."""

    item: Item
    connection: Any


class _Atomic(SessionConsumer[Effect[Item]]):
    """What atomic consumers have in common."""

    compares: ClassVar[bool] = True

    def __init__(
        self, name: str, handler: AtomicHandler[Item], **options: Unpack[ConsumerOptions[Item]]
    ) -> None:
        if not callable(handler):
            raise TypeError(
                f"handler {handler!r} is a {type(handler).__name__}: accepted is an async function"
            )
        recover = options.pop("recover", None)
        if recover is not None and not callable(recover):
            raise TypeError(
                f"recover {recover!r} is a {type(recover).__name__}: accepted is an async function, or None"
            )

        async def handle(effect: Effect[Item]) -> None:
            await handler(effect.item, effect.connection)

        async def recovered(effect: Effect[Item], error: Exception) -> None:
            if recover is not None:
                await recover(effect.item, error)

        rest: ConsumerOptions[Effect[Item]] = {**options, "recover": recovered if recover else None}
        super().__init__(name, handle, **rest)

    @abstractmethod
    def session(self, turn: Turn[Effect[Item]]) -> Session:
        """Begin a run."""

    async def consume(self, item: Effect[Item]) -> None:
        """Hand what is consumed to the handler; if that raises, undo what it did, and hand it to ``recover``.

        :raises DatabaseError: if the handler has ended the transaction, or gone on after the database refused something
        """
        driver = driver_of_connection(item.connection)
        pending_before = pending_cancellations()
        failure: Exception | None = None
        returned = False
        try:
            # A savepoint: it is gone if the handler has ended the transaction, and can't be released in a failed one.
            async with driver.transaction(item.connection):
                try:
                    await self.handler(item)
                    returned = True
                except Exception as exc:
                    failure = exc
                    raise
        except Exception as exc:
            if returned:
                raise DatabaseError(
                    f"{self.name}: the handler has ended the transaction that it was given, or gone on after an error"
                    f" of the database, which only a transaction within can contain: {exc}"
                ) from exc
            # Another error is the connection's, which can't be undone and recovered on.
            if exc is not failure or driver.is_closed(item.connection):
                raise
            if self.recover is None or pending_cancellations() > pending_before:
                raise
            await self.recover(item, exc)


class AtomicConsumer(_Atomic[Event]):
    """Consumes events one after the other, each in a transaction that moves the cursor too.

    :param handler: an async function of an event and a connection, on which it writes; it leaves the transaction as it
        is, and doesn't keep the connection. What it raises undoes both and ends the run
    :param options: as :class:`~reflex_aio.consumer.Consumer` takes them. ``recover`` is called within the transaction,
        when what the handler wrote is undone; if it returns, the cursor moves
    """

    def session(self, turn: Turn[Effect[Event]]) -> Session:
        """Begin a run."""
        return _AtomicSession(turn)


class AtomicBatchConsumer(_Atomic[list[Event]]):
    """Consumes events in batches, each in a transaction that moves the cursor too.

    :param handler: an async function of a list of events and a connection. See :class:`AtomicConsumer`
    :param size: how many events a batch has at most; ``None`` for any number, which take memory
    :param age: how long the first event of a batch waits at most, in seconds; ``None`` for any time
    :param options: as :class:`AtomicConsumer` takes them; ``recover`` is handed the batch
    :raises ValueError: if both limits are ``None``, or one is out of its range
    :raises TypeError: if an argument has the wrong type
    """

    def __init__(
        self,
        name: str,
        handler: AtomicHandler[list[Event]],
        *,
        size: int | None = None,
        age: float | None = None,
        **options: Unpack[ConsumerOptions[list[Event]]],
    ) -> None:
        super().__init__(name, handler, **options)
        if size is None and age is None:
            raise ValueError("size and age are both None: accepted is a limit for at least one of them")
        self.size: int | None = None if size is None else check_count("size", size, least=1)
        self.age: float | None = None if age is None else check_seconds("age", age)

    def session(self, turn: Turn[Effect[list[Event]]]) -> Session:
        """Begin a run."""
        return _AtomicBatchSession(turn, self.size, self.age)


class _AtomicSession:
    def __init__(self, turn: Turn[Effect[Event]]) -> None:
        self._turn = turn

    async def consume(self, event: Event) -> None:
        ticket = self._turn.begin(event)
        async with self._turn.finishing_through(ticket, event) as connection:
            await self._turn.handle(Effect(event, connection), (event,))

    async def finish(self) -> None:
        """Return at once: each event is finished before the next one."""


class _AtomicBatchSession(BatchSession):
    def __init__(self, turn: Turn[Effect[list[Event]]], size: int | None, age: float | None) -> None:
        super().__init__(turn, size, age)
        self._atomic = turn

    async def finish_batch(self, events: list[Event], last: int) -> None:
        async with self._atomic.finishing_through(last, events[-1]) as connection:
            await self._atomic.handle(Effect(events, connection), events)


def atomic_spec(
    source: Source,
    consumer: AtomicConsumer | AtomicBatchConsumer,
    *,
    cursors: CursorsTable,
    pool: Any,
    from_head: bool = False,
    to_head: bool = False,
    lag: float | None = None,
    idle_timeout: float | None = 60.0,
    attempts: AttemptStore | None = None,
    retry_backoff: Backoff | None = None,
    hooks: Hooks | None = None,
    clock: Callable[[], float] = time.time,
) -> Spec:
    """Return the spec of a consumer whose effects are in the database of its cursor, and commit with it.

    The cursor moves in the beginning of each transaction, from where the run stands. So of two replicas that run it at
    once, one waits for the other, and then raises :class:`~reflex_aio.errors.CursorConflict` without having called its
    handler.

    :param source: where the events come from, which may be anywhere
    :param cursors: the table of its cursor
    :param pool: a pool on the database of the cursors and of the effects
    :param idle_timeout: how long a handler may send nothing to the database, in seconds: longer, and it undoes the
        transaction, so that a process that is stopped in its handler doesn't hold up the others. MySQL and MariaDB
        count whole seconds. ``None`` for as long as the session allows
    :param attempts: as :class:`~reflex_aio.spec.Spec` takes them, like what follows. Attempts are no part of the
        transactions, which they outlive
    :raises TypeError: if an argument isn't what its name says
    :raises ValueError: if ``idle_timeout`` is out of its range
    """
    if not isinstance(consumer, (AtomicConsumer, AtomicBatchConsumer)):
        raise TypeError(
            f"consumer {consumer!r} is a {type(consumer).__name__}:"
            " accepted is an AtomicConsumer or an AtomicBatchConsumer"
        )
    if not isinstance(cursors, CursorsTable):
        raise TypeError(f"cursors {cursors!r} is a {type(cursors).__name__}: accepted is a CursorsTable")
    if idle_timeout is not None and check_seconds("idle_timeout", idle_timeout) > _LONGEST_IDLE:
        raise ValueError(
            f"idle_timeout {idle_timeout} is out of range: accepted is a number of seconds up to {_LONGEST_IDLE:g},"
            " or None"
        )
    checked: BaseConsumer[Any] = consumer
    return Spec(
        source,
        TableCursorStore(cursors, pool, idle_timeout=idle_timeout),
        checked,
        from_head=from_head,
        to_head=to_head,
        lag=lag,
        attempts=attempts,
        retry_backoff=retry_backoff,
        hooks=hooks,
        clock=clock,
    )
