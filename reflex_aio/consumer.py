"""Consumers: a name, and what is done with an event."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import iscoroutinefunction
from typing import Generic, TypeAlias, TypedDict, TypeVar

from reflex_aio.errors import FilterError
from reflex_aio.event import Event, check_type
from reflex_aio.tasks import times_asked_to_cancel

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
    """The keyword arguments that all consumers take: see :class:`Consumer`."""

    types: Iterable[int]
    filter: EventFilter | None
    recover: RecoverOf[Item] | None
    lag_alert: float | None
    activity_ttl: float | None


class BaseConsumer(Generic[Item]):
    """What all consumers have: a name, filters, and a handler of what they make of events.

    A subclass that is also an asynchronous context manager is entered for the time of each run. For the
    parameters see :class:`Consumer`.
    """

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
        _check("name", name, isinstance(name, str), "a str")
        _check("handler", handler, callable(handler), "an async function")
        _check("types", types, isinstance(types, Iterable), "a collection of event types")
        if filter is not None:
            check_filter("filter", filter)
        _check("recover", recover, recover is None or callable(recover), "an async function, or None")
        if not name.strip() or "\0" in name:
            raise ValueError(f"name {name!r} is empty or holds a NUL: the consumer's cursor is kept by it")
        for what, seconds in (("lag_alert", lag_alert), ("activity_ttl", activity_ttl)):
            if seconds is None:
                continue
            _check(what, seconds, isinstance(seconds, (int, float)), "a number of seconds above 0, or None")
            if not seconds > 0:
                raise ValueError(f"{what} {seconds} is out of range: accepted is a number above 0, or None")
        self.name = name
        self.handler = handler
        self.types: frozenset[int] = frozenset(check_type(t) for t in types)
        self.filter = filter
        self.recover = recover
        self.lag_alert = lag_alert
        self.activity_ttl = activity_ttl

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def filters(self) -> bool:
        """Whether the consumer passes over some events."""
        return bool(self.types) or self.filter is not None

    def wants(self, event: Event) -> bool:
        """Tell whether the consumer's filters let ``event`` through.

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

    def attempted(self, attempts: Mapping[str, int]) -> None:
        """Take note of how often the consumer failed on which events before the run that begins now, by event id.

        Called where attempts are kept: see ``attempts`` of :class:`~reflex_aio.spec.Spec`.
        """

    @property
    def plain_handler(self) -> HandlerOf[Item]:
        """What does the same as :meth:`consume`: the handler itself, where nothing is done around it."""
        if self.recover is None and type(self).consume is BaseConsumer.consume:
            return self.handler
        return self.consume

    async def consume(self, item: Item) -> None:
        """Hand ``item`` to the handler, and to ``recover`` if the handler raises."""
        if self.recover is None:
            await self.handler(item)
            return
        asked_before = times_asked_to_cancel()
        try:
            await self.handler(item)
        except Exception as exc:
            if times_asked_to_cancel() > asked_before:
                # A failed clean-up has taken the place of a cancellation: to recover would be to swallow it.
                raise
            await self.recover(item, exc)


class Consumer(BaseConsumer[Event]):
    """Consumes events, one after the other, under a name that its cursor is kept by.

    The handler gets each event at least once, and must so be fit to get one again. A subclass that is also an
    asynchronous context manager is entered for the time of each run.

    :param name: what the cursor is kept by: unique among the consumers of a cursor store
    :param handler: an async function of an event. What it raises ends the run, the cursor before the event
    :param types: the event types to consume; none means all
    :param filter: a plain function that tells whether to consume an event; asked only about the ``types``
    :param recover: an async function of an event and the exception that the handler raised on it. If it
        returns, the event counts as consumed; what it raises ends the run instead
    :param lag_alert: how far the consumer may be behind, in seconds, before hooks and metrics call it late
    :param activity_ttl: how long the consumer may see no event, in seconds, before hooks and metrics call it
        inactive
    :raises ValueError: if the name is empty, or a value is out of its range
    :raises TypeError: if a value has the wrong type
    """


def check_filter(what: str, function: object) -> None:
    """Check that ``function`` can be an event filter, or a part of one.

    :raises TypeError: if it isn't a plain function
    """
    # An async filter would let everything through: its coroutine is true.
    is_plain = callable(function) and not iscoroutinefunction(function)
    _check(what, function, is_plain, "a plain function")


def _check(what: str, value: object, fits: bool, accepted: str) -> None:
    if not fits:
        raise TypeError(f"{what} {value!r} is a {type(value).__name__}: accepted is {accepted}")
