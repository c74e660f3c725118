"""The seam for metrics and traces: what the package tells whoever wants to know.

An object that takes ``hooks=`` uses those given, else the ones installed for the process when it was made.
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
    """Told what happens. Every method does nothing here: override those you need.

    Methods are called from the event loop, on the path of every event: they must be quick, and must not
    raise. This is a class rather than a protocol so that a later version can tell more without breaking those
    who listen.
    """

    def consumer_started(self, consumer: str, *, lag_alert: float | None, activity_ttl: float | None) -> None:
        """A run of the consumer has begun. For its limits see :class:`~reflex_aio.consumer.Consumer`."""

    def consumer_stopped(self, consumer: str, error: BaseException | None) -> None:
        """A run of the consumer has ended, with ``error``, a cancellation too, or else at the head."""

    def consumer_restarting(self, consumer: str, error: Exception, *, expected: bool, delay: float) -> None:
        """A run ended with ``error``; the next one begins in ``delay`` seconds."""

    def event_received(self, consumer: str, event: Event) -> None:
        """The consumer's stream has handed over an event."""

    def event_skipped(self, consumer: str, event: Event) -> None:
        """The consumer's filters passed over an event."""

    def handling(self, consumer: str, events: Sequence[Event]) -> AbstractContextManager[object]:
        """Return what is entered while the consumer handles ``events``: one, or those of a batch.

        Entered and left in the task that calls the handler. It meets what the handler raises, and must let it pass.
        """
        return _NOTHING

    def event_handled(self, consumer: str, event: Event, seconds: float) -> None:
        """The consumer's handler has returned."""

    def event_failed(self, consumer: str, event: Event, error: Exception, seconds: float) -> None:
        """The consumer's handler, or its filter, has raised."""

    def current_trace(self) -> bytes | None:
        """Return the trace to store with an event that is inserted without one, into a table that has traces."""
        return None

    def event_dead_lettered(self, consumer: str, event: Event, error: BaseException) -> None:
        """The consumer's error on an event was recorded, so that the consumer may go on without the event."""

    def cursor_set(self, table: str) -> None:
        """A cursor was written to a cursors table."""

    def page_loaded(self, table: str, rows: int, seconds: float) -> None:
        """A query for events has returned ``rows`` rows."""

    def page_decoded(self, table: str, events: int, seconds: float) -> None:
        """Rows of a page were turned into events."""

    def page_read(self, table: str, *, shared: bool) -> None:
        """A stream got a page: one that all streams at the head share, or one that was loaded for it alone."""

    def gap_detected(self, table: str, after: int, before: int) -> None:
        """Ids between ``after`` and ``before`` are missing and not resolved yet."""

    def gap_resolved(self, table: str, after: int, seconds: float) -> None:
        """The gap after ``after`` was passed, ``seconds`` after it was detected."""

    def gap_left(self, table: str, after: int) -> None:
        """Nobody waits any more for the gap after ``after`` to be resolved: the streams were closed."""

    def gap_filled(self, table: str, noops: int) -> None:
        """Noops were inserted for ids that were missing."""

    def listener_lost(self, error: BaseException, delay: float) -> None:
        """The connection that listens for wake-ups was lost; the next try is in ``delay`` seconds."""

    def listener_ready(self) -> None:
        """A connection listens for wake-ups."""

    def listener_silent(self) -> None:
        """LISTEN succeeds but nothing is heard, as behind a pooler in transaction mode: streams poll."""

    def notify_failed(self, error: BaseException) -> None:
        """Other processes could not be told of new events; they will find them by polling."""


class _Combined(Hooks):
    """Tells several hooks. Each method is that of those who override it."""

    def __init__(self, hooks: Sequence[Hooks]) -> None:
        for name, idle in vars(Hooks).items():
            if name.startswith("_"):
                continue
            calls = [getattr(one, name) for one in hooks]
            telling = [call for call in calls if getattr(call, "__func__", None) is not idle]
            if not telling:
                continue
            if len(telling) == 1:
                [call] = telling
            elif name == "current_trace":
                call = _first(telling)
            elif name == "handling":
                call = _within_all(telling)
            else:
                call = _each(telling)
            setattr(self, name, call)


def _each(calls: Sequence[Callable[..., None]]) -> Callable[..., None]:
    def tell(*args: Any, **kwargs: Any) -> None:
        for call in calls:
            call(*args, **kwargs)

    return tell


def _first(calls: Sequence[Callable[[], bytes | None]]) -> Callable[[], bytes | None]:
    def first() -> bytes | None:
        return next((trace for trace in (call() for call in calls) if trace is not None), None)

    return first


def _within_all(
    calls: Sequence[Callable[[str, Sequence[Event]], AbstractContextManager[object]]],
) -> Callable[[str, Sequence[Event]], AbstractContextManager[object]]:
    @contextmanager
    def within(consumer: str, events: Sequence[Event]) -> Iterator[None]:
        with ExitStack() as stack:
            for call in calls:
                stack.enter_context(call(consumer, events))
            yield

    return within


def combined(*hooks: Hooks) -> Hooks:
    """Return hooks that tell all of these, in this order. Contexts are entered in it too; the first trace counts."""
    return _Combined(hooks)


_installed = Hooks()


def install(hooks: Hooks) -> Hooks:
    """Use ``hooks`` for everything made from now on in this process, and return those used until now."""
    global _installed
    before, _installed = _installed, hooks
    return before


def installed() -> Hooks:
    """Return the hooks in use for this process."""
    return _installed


_handling: ContextVar[tuple[str, Event] | None] = ContextVar("reflex_aio_handling", default=None)


class LoggingHooks(Hooks):
    """Remembers, for :class:`EventLogFilter`, which event a consumer handles, in the context of its task.

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
    """Gives each log record the attributes ``consumer``, ``event_id`` and ``foreign_id``, and lets all of them pass.

    They are strings, ``"-"`` where no consumer handles an event; of a batch, those of its first event. For formats, add
    it to the handlers rather than to a logger, whose filters don't see the records of other loggers. It works with
    :class:`LoggingHooks`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Give ``record`` the attributes."""
        handling = _handling.get()
        record.consumer, record.event_id, record.foreign_id = (
            ("-", "-", "-") if handling is None else (handling[0], handling[1].id, handling[1].foreign_id)
        )
        return True
