"""Log records that tell on which event they were made."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from reflex_aio.event import Event
from reflex_aio.hooks import Hooks

__all__ = ["EventLogFilter", "LoggingHooks"]

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
