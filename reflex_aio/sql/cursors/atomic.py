"""Consumers whose effects are committed in one transaction with the cursor: each event takes effect exactly once."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, Unpack

from reflex_aio.checks import check_async
from reflex_aio.consumer import ConsumerOptions
from reflex_aio.errors import DatabaseError, is_expected
from reflex_aio.event import Event
from reflex_aio.patterns.batch import BatchProcessor, check_limits
from reflex_aio.running.manual_commit import ManualCommitConsumer, Processor, RunContext
from reflex_aio.sql.drivers import driver_of_connection
from reflex_aio.tasks import pending_cancellations

__all__ = ["AtomicBatchConsumer", "AtomicConsumer", "AtomicHandler", "Effect"]

Item = TypeVar("Item")

AtomicHandler: TypeAlias = Callable[[Item, Any], Awaitable[None]]
"""An async function of an event, or of a list of events, and a connection."""


@dataclass(frozen=True, slots=True)
class Effect(Generic[Item]):
    """An event or a batch, and the connection whose transaction moves the cursor."""

    item: Item
    connection: Any


class _Atomic(ManualCommitConsumer[Effect[Item]]):
    """Base of the atomic consumers."""

    needs_transactions: ClassVar[bool] = True

    def __init__(
        self, name: str, handler: AtomicHandler[Item], **options: Unpack[ConsumerOptions[Item]]
    ) -> None:
        handler = check_async("handler", handler)
        recover = options.pop("recover", None)
        if recover is not None:
            recover = check_async("recover", recover)

        async def handle(effect: Effect[Item]) -> None:
            await handler(effect.item, effect.connection)

        async def handle_error(effect: Effect[Item], error: Exception) -> None:
            if recover is not None:
                await recover(effect.item, error)

        rest: ConsumerOptions[Effect[Item]] = {**options, "recover": handle_error if recover else None}
        super().__init__(name, handle, **rest)

    @abstractmethod
    def processor(self, context: RunContext[Effect[Item]]) -> Processor:
        """Return the processor of a new run."""

    async def consume(self, item: Effect[Item]) -> None:
        """Call the handler. If it raises, roll back what it wrote, and call ``recover``.

        :raises DatabaseError: if the handler ended the transaction, or continued after an error of the database
        """
        driver = driver_of_connection(item.connection)
        pending_before = pending_cancellations()
        failure: Exception | None = None
        returned = False
        try:
            # A savepoint. It does not exist any more if the handler ended the transaction, and cannot be released if
            # the transaction has failed.
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
                    f"{self.name}: the handler ended the transaction of its connection, or continued after an error"
                    f" of the database, which is possible within a nested transaction only: {exc}"
                ) from exc
            # Any other error comes from the connection, whose transaction cannot be rolled back to the savepoint.
            if exc is not failure or driver.is_closed(item.connection):
                raise
            if self.recover is None or is_expected(exc) or pending_cancellations() > pending_before:
                raise
            await self.recover(item, exc)


class AtomicConsumer(_Atomic[Event]):
    """Consumes events one after the other, each in a transaction that also moves the cursor.

    It is used with a cursor store that has transactions, in the database of the effects::

        Spec(source, cursors.store(pool), AtomicConsumer("name", handler))

    The cursor is moved at the beginning of each transaction, from where the run left it. If two processes run the
    consumer, one waits for the other, and then raises :class:`~reflex_aio.errors.CursorConflict` without calling its
    handler. Failed attempts (``attempts`` of :class:`~reflex_aio.spec.Spec`) are stored outside of the transactions.

    :param handler: an async function of an event and a connection on which it writes. It must not end the transaction,
        nor keep the connection. An exception rolls back the transaction and ends the run
    :param options: those of :class:`~reflex_aio.consumer.Consumer`. ``recover`` is called within the transaction, after
        the handler's writes are rolled back; if it returns, the cursor moves
    """

    def processor(self, context: RunContext[Effect[Event]]) -> Processor:
        """Return the processor of a new run."""
        return _AtomicProcessor(context)


class AtomicBatchConsumer(_Atomic[list[Event]]):
    """Consumes events in batches, each in a transaction that also moves the cursor. See :class:`AtomicConsumer`.

    :param handler: an async function of a list of events and a connection
    :param size: greatest number of events in a batch; ``None`` for no limit, which may need much memory
    :param age: longest time that the first event of a batch waits, in seconds; ``None`` for no limit
    :param options: those of :class:`AtomicConsumer`; ``recover`` gets the batch
    :raises ValueError: if both limits are ``None``, or one is out of range
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
        check_limits(size, age)
        self.size = size
        self.age = age

    def processor(self, context: RunContext[Effect[list[Event]]]) -> Processor:
        """Return the processor of a new run."""
        return _AtomicBatchProcessor(context, self.size, self.age)


class _AtomicProcessor:
    def __init__(self, context: RunContext[Effect[Event]]) -> None:
        self._context = context

    async def process(self, event: Event) -> None:
        ticket = self._context.begin(event)
        async with self._context.transaction_through(ticket, event) as connection:
            await self._context.handle(Effect(event, connection), (event,))

    async def drain(self) -> None:
        """Return at once: each event is finished before the next one is processed."""


class _AtomicBatchProcessor(BatchProcessor):
    def __init__(self, context: RunContext[Effect[list[Event]]], size: int | None, age: float | None) -> None:
        super().__init__(context, size, age)
        self._atomic = context

    async def handle_batch(self, events: list[Event], last: int) -> None:
        async with self._atomic.transaction_through(last, events[-1]) as connection:
            await self._atomic.handle(Effect(events, connection), events)
