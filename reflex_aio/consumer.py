"""Consumers: a name under which a cursor is kept, filters, and a handler."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import iscoroutinefunction
from types import TracebackType
from typing import ClassVar, Generic, TypeAlias, TypedDict, TypeVar

from reflex_aio.checks import check_async, check_instance, check_seconds, is_storable_text, wrong_type
from reflex_aio.errors import FilterError, is_expected
from reflex_aio.event import Event, check_type
from reflex_aio.tasks import pending_cancellations

__all__ = [
    "BaseConsumer",
    "Consumer",
    "ConsumerOptions",
    "EventFilter",
    "Handler",
    "HandlerOf",
    "Recover",
    "RecoverOf",
    "check_filter",
]

Item = TypeVar("Item")

HandlerOf: TypeAlias = Callable[[Item], Awaitable[None]]
RecoverOf: TypeAlias = Callable[[Item, Exception], Awaitable[None]]
Handler: TypeAlias = HandlerOf[Event]
Recover: TypeAlias = RecoverOf[Event]
EventFilter: TypeAlias = Callable[[Event], bool]


class ConsumerOptions(TypedDict, Generic[Item], total=False):
    """The keyword arguments that all consumers accept: see :class:`Consumer`."""

    types: Iterable[int]
    filter: EventFilter | None
    recover: RecoverOf[Item] | None
    lag_alert: float | None
    activity_ttl: float | None


class BaseConsumer(Generic[Item]):
    """Base of all consumers: a name, filters, and a handler of items, which are made of events.

    Each run enters the consumer as an asynchronous context manager. For the parameters see :class:`Consumer`.
    """

    needs_transactions: ClassVar[bool] = False
    """True if the cursor store must have transactions, in which effects and cursor are committed together."""

    def __init__(
        self,
        name: str,
        handler: HandlerOf[Item],
        *,
        types: Iterable[int] = (),
        filter: EventFilter | None = None,
        recover: RecoverOf[Item] | None = None,
        lag_alert: float | None = 1800.0,
        activity_ttl: float | None = 86400.0,
    ) -> None:
        check_instance("name", name, str, "a str")
        if not is_storable_text(name) or name.isspace():
            raise ValueError(
                f"name {name!r} is blank, or contains a NUL or a lone surrogate: accepted is any other str"
            )
        check_instance("types", types, Iterable, "a collection of event types")
        if filter is not None:
            check_filter("filter", filter)
        self.name = name
        self.handler: HandlerOf[Item] = check_async("handler", handler)
        self.types: frozenset[int] = frozenset(check_type(t) for t in types)
        self.filter = filter
        self.recover: RecoverOf[Item] | None = None if recover is None else check_async("recover", recover)
        self.lag_alert: float | None = check_seconds("lag_alert", lag_alert, none=True)
        self.activity_ttl: float | None = check_seconds("activity_ttl", activity_ttl, none=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    async def __aenter__(self) -> object:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Release what entering the consumer acquired. By default, nothing."""
        return None

    @property
    def filters(self) -> bool:
        """True if the consumer skips some events."""
        return bool(self.types) or self.filter is not None

    def wants(self, event: Event) -> bool:
        """Return whether the consumer's filters accept ``event``.

        :raises FilterError: if the event filter raised
        """
        if self.types and event.type not in self.types:
            return False
        if self.filter is None:
            return True
        try:
            return self.filter(event)
        except Exception as exc:
            raise FilterError(consumer=self.name, event_id=event.id) from exc

    def restore_attempts(self, attempts: Mapping[str, int]) -> None:
        """Take over the numbers of failed attempts before this run, by event id.

        Called at the start of a run whose spec has ``attempts``: see :class:`~reflex_aio.spec.Spec`.
        """

    @property
    def effective_handler(self) -> HandlerOf[Item]:
        """The handler itself if :meth:`consume` adds nothing to it, else :meth:`consume`."""
        if self.recover is None and type(self).consume is BaseConsumer.consume:
            return self.handler
        return self.consume

    async def consume(self, item: Item) -> None:
        """Call the handler with ``item``, and ``recover`` if the handler raises an error that is not expected."""
        if self.recover is None:
            await self.handler(item)
            return
        pending_before = pending_cancellations()
        try:
            await self.handler(item)
        except Exception as exc:
            if is_expected(exc) or pending_cancellations() > pending_before:
                # An expected error is not about the event. An error during clean-up has replaced a
                # cancellation: to recover would swallow the cancellation.
                raise
            await self.recover(item, exc)


class Consumer(BaseConsumer[Event]):
    """Consumes events one after the other, under the name by which its cursor is kept.

    The handler gets each event at least once, so it must be idempotent. Each run enters the consumer as an asynchronous
    context manager: a subclass may override ``__aenter__`` and ``__aexit__``.

    :param name: unique among the consumers of a cursor store
    :param handler: an async function of an event. An exception ends the run, with the cursor before the event
    :param types: the event types to consume; empty for all
    :param filter: a plain function of an event, which returns whether to consume it; called
        for events of ``types`` only
    :param recover: an async function of an event and the exception that the handler raised. If it returns, the event
        counts as consumed; if it raises, that exception ends the run instead. Expected errors, such as a lost
        connection (:func:`~reflex_aio.errors.is_expected`), end the run without it
    :param lag_alert: delay in seconds after which hooks and metrics report the consumer as late; ``None`` for never
    :param activity_ttl: time without an event in seconds after which hooks and metrics report the consumer as inactive;
        ``None`` for never
    :raises ValueError: if the name is blank, or a value is out of range
    :raises TypeError: if a value has the wrong type
    """


def check_filter(name: str, function: object) -> None:
    """Check an event filter, or a function that is part of one.

    :raises TypeError: if it is not a plain function
    """
    # An async filter would accept every event: its coroutine is true.
    if not callable(function) or iscoroutinefunction(function):
        raise wrong_type(name, function, "a plain function")
