"""Hooks for metrics, traces and logs: methods that the package calls when something happens.

An object with a parameter ``hooks`` uses the given hooks, or else those installed for the process when it was made.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from reflex_aio.event import Event

__all__ = ["EventLogFilter", "Hooks", "LoggingHooks", "combined", "install"]

_NOTHING = nullcontext()


class Hooks:
    """Base of all hooks. Every method does nothing: override those that you need.

    Methods are called in the event loop, some for every event: they must be fast, and must not raise. This is a class
    rather than a protocol, so that methods can be added without breaking existing hooks.
    """

    def consumer_started(self, consumer: str, *, lag_alert: float | None, activity_ttl: float | None) -> None:
        """A run of the consumer has begun. For the limits see :class:`~reflex_aio.consumer.Consumer`."""

    def consumer_stopped(self, consumer: str, error: BaseException | None) -> None:
        """A run of the consumer has ended with ``error``, which may be a cancellation, or with ``None`` at the head."""

    def consumer_restarting(self, consumer: str, error: Exception, *, expected: bool, delay: float) -> None:
        """A run ended with ``error``. The next one begins in ``delay`` seconds."""

    def event_received(self, consumer: str, event: Event) -> None:
        """The consumer's stream has delivered an event."""

    def event_skipped(self, consumer: str, event: Event) -> None:
        """The consumer's filters have rejected an event."""

    def handling(self, consumer: str, events: Sequence[Event]) -> AbstractContextManager[object]:
        """Return a context that is entered while the consumer handles ``events``: one, or those of a batch.

        It is entered and left in the task that calls the handler. The handler's exceptions pass through it, and must
        not be suppressed.
        """
        return _NOTHING

    def event_handled(self, consumer: str, event: Event, seconds: float) -> None:
        """The consumer's handler has returned."""

    def event_failed(self, consumer: str, event: Event, error: Exception, seconds: float) -> None:
        """The consumer's handler or filter has raised."""

    def current_trace(self) -> bytes | None:
        """Return the trace to store with an event that is inserted without one, if its table has traces."""
        return None

    def event_dead_lettered(self, consumer: str, event: Event, error: BaseException) -> None:
        """The consumer's failure on an event was recorded as a dead letter."""

    def cursor_set(self, table: str) -> None:
        """A cursor was written to a cursors table."""

    def page_loaded(self, table: str, rows: int, seconds: float) -> None:
        """A query for events has returned ``rows`` rows."""

    def page_decoded(self, table: str, events: int, seconds: float) -> None:
        """The rows of a page were converted to events."""

    def page_read(self, table: str, *, shared: bool) -> None:
        """A stream has received a page: a shared one, as all streams at the head, or one of its own."""

    def gap_detected(self, table: str, after: int, before: int) -> None:
        """Ids between ``after`` and ``before`` are missing, and not resolved yet."""

    def gap_resolved(self, table: str, after: int, seconds: float) -> None:
        """The gap after ``after`` was resolved, ``seconds`` after it was detected."""

    def gap_abandoned(self, table: str, after: int) -> None:
        """The gap after ``after`` is no longer waited for, since the streams were closed."""

    def gap_filled(self, table: str, noops: int) -> None:
        """Noops were inserted for missing ids."""

    def listener_lost(self, error: BaseException, delay: float) -> None:
        """The connection that listens for notifications was lost. The next try is in ``delay`` seconds."""

    def listener_ready(self) -> None:
        """A connection listens for notifications."""

    def listener_silent(self) -> None:
        """LISTEN succeeds, but no notification arrives, as behind a pooler in transaction mode. Streams poll."""

    def notify_failed(self, error: BaseException) -> None:
        """Other processes could not be notified of new events. They find the events by polling."""


class _Combined(Hooks):
    """Calls several hooks. A method is made of the overridden methods only."""

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        for name, default in vars(Hooks).items():
            if name.startswith("_"):
                continue
            methods = [getattr(each, name) for each in hooks]
            overridden = [method for method in methods if getattr(method, "__func__", None) is not default]
            if not overridden:
                continue
            if len(overridden) == 1:
                [method] = overridden
            elif name == "current_trace":
                method = _first_trace(overridden)
            elif name == "handling":
                method = _nested(overridden)
            else:
                method = _in_order(overridden)
            setattr(self, name, method)


def _in_order(methods: Sequence[Callable[..., None]]) -> Callable[..., None]:
    def call_all(*args: Any, **kwargs: Any) -> None:
        for method in methods:
            method(*args, **kwargs)

    return call_all


def _first_trace(methods: Sequence[Callable[[], bytes | None]]) -> Callable[[], bytes | None]:
    def first() -> bytes | None:
        return next((trace for trace in (method() for method in methods) if trace is not None), None)

    return first


def _nested(
    methods: Sequence[Callable[[str, Sequence[Event]], AbstractContextManager[object]]],
) -> Callable[[str, Sequence[Event]], AbstractContextManager[object]]:
    @contextmanager
    def nested(consumer: str, events: Sequence[Event]) -> Iterator[None]:
        with ExitStack() as stack:
            for method in methods:
                stack.enter_context(method(consumer, events))
            yield

    return nested


def combined(*hooks: Hooks) -> Hooks:
    """Return hooks that call all of ``hooks`` in order. Contexts are entered in this order; the first trace is used."""
    return _Combined(hooks)


_installed = Hooks()


def install(hooks: Hooks) -> Hooks:
    """Use ``hooks`` for all objects that this process makes from now on. Return the hooks used so far."""
    global _installed
    before, _installed = _installed, hooks
    return before


def installed() -> Hooks:
    """Return the hooks in use for this process."""
    return _installed


_handling: ContextVar[tuple[str, Event] | None] = ContextVar("reflex_aio_handling", default=None)


class LoggingHooks(Hooks):
    """Records the event that a consumer handles in the context of its task, for :class:`EventLogFilter`.

    Tasks that the handler starts inherit it.
    """

    @contextmanager
    def handling(self, consumer: str, events: Sequence[Event]) -> Iterator[None]:
        before = _handling.set((consumer, events[0]))
        try:
            yield
        finally:
            _handling.reset(before)


class EventLogFilter(logging.Filter):
    """Sets the attributes ``consumer``, ``event_id`` and ``foreign_id`` of each log record. It rejects no record.

    They are strings; ``"-"`` if no consumer handles an event; for a batch, those of its first event. Attributes that a
    record already has are kept. To use them in formats, add the filter to handlers rather than to a logger, whose
    filters do not see the records of other loggers. It needs :class:`LoggingHooks`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attributes of ``record``."""
        handling = _handling.get()
        consumer, event_id, foreign_id = (
            ("-", "-", "-") if handling is None else (handling[0], handling[1].id, handling[1].foreign_id)
        )
        # This package's own records have them in extra=.
        attributes = record.__dict__
        attributes.setdefault("consumer", consumer)
        attributes.setdefault("event_id", event_id)
        attributes.setdefault("foreign_id", foreign_id)
        return True
