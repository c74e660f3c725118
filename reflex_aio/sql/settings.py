"""What an events table is: the settings that table object, loader and tail share."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from reflex_aio.event import Event
from reflex_aio.hooks import Hooks
from reflex_aio.sql.notifier import Notifier
from reflex_aio.sql.schema import EventColumns, EventsSchema

__all__ = ["EventsSettings", "Inserter", "PageLoader", "Wakeups"]

Wakeups: TypeAlias = Literal["commit", "transaction", "trigger"] | None

PageLoader: TypeAlias = Callable[[Any, Sequence[Event]], Awaitable[Sequence[Event]]]
"""Given a connection and the events that were read on it, returns those to deliver, in the same order."""

Inserter: TypeAlias = Callable[[Any, str, int, bytes | None, bytes | None], Awaitable[int | str]]
"""Given a connection, foreign id, type, metadata and trace, inserts an event and returns its id."""


@dataclass(frozen=True, slots=True)
class EventsSettings:
    """The settings of an events table. :class:`~reflex_aio.sql.EventsTable` tells what each means."""

    schema: EventsSchema
    page_size: int
    poll_period: float
    query_timeout: float
    wakeups: Wakeups
    notifier: Notifier | None
    include_noops: bool
    loader: PageLoader | None
    inserter: Inserter | None
    hooks: Hooks
    clock: Callable[[], float]

    @property
    def name(self) -> str:
        """The table's name, for messages."""
        return str(self.schema.table)

    @property
    def columns(self) -> EventColumns:
        """The table's column names."""
        return self.schema.columns
