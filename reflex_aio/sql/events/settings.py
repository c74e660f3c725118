"""The settings of an events table, which the table object and the objects behind it share."""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from reflex_aio.checks import check_bool, check_callable, check_count, check_instance, check_seconds
from reflex_aio.event import Event
from reflex_aio.hooks import Hooks
from reflex_aio.metadata import MetadataCodec
from reflex_aio.sql.schema.names import EventColumns, EventsSchema
from reflex_aio.sql.wakeups.notifier import Notifier

__all__ = ["EventsSettings", "Inserter", "PageLoader", "Wakeups"]

Wakeups: TypeAlias = Literal["commit", "transaction", "trigger"] | None

PageLoader: TypeAlias = Callable[[Any, Sequence[Event]], Awaitable[Sequence[Event]]]
"""A function that receives a connection and the events that were read on it, and returns those to deliver, in order."""

Inserter: TypeAlias = Callable[[Any, str, int, bytes | None, bytes | None], Awaitable[int | str]]
"""A function of a connection, foreign id, type, metadata and trace that inserts an event and returns its id."""

_WAKEUPS = ("commit", "transaction", "trigger", None)
_LARGEST_PAGE = 100_000
# PostgreSQL sends a page as one row, which must not exceed 1 GiB.
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class EventsSettings:
    """The settings of an events table. See the parameters of :class:`~reflex_aio.sql.EventsTable`.

    :raises ValueError: if one is out of range
    :raises TypeError: if one has the wrong type
    """

    schema: EventsSchema
    page_size: int
    page_bytes: int
    poll_period: float
    poll_floor: float
    query_timeout: float
    wakeups: Wakeups
    notifier: Notifier | None
    include_noops: bool
    loader: PageLoader | None
    inserter: Inserter | None
    codec: MetadataCodec[Any] | None
    hooks: Hooks
    clock: Callable[[], float]
    name: str = field(init=False)
    """The table's name, for messages."""

    def __post_init__(self) -> None:
        if self.wakeups not in _WAKEUPS:
            raise ValueError(
                f"wakeups {self.wakeups!r} is not accepted: {', '.join(map(repr, _WAKEUPS))} are"
            )
        check_count("page_size", self.page_size, least=1, most=_LARGEST_PAGE)
        check_count("page_bytes", self.page_bytes, least=1, most=_MOST_BYTES)
        for name in ("poll_period", "poll_floor", "query_timeout"):
            check_seconds(name, getattr(self, name))
        check_instance("notifier", self.notifier, Notifier | None, "a Notifier, or None")
        if self.notifier is not None and self.wakeups is None:
            raise ValueError("wakeups=None means that streams only poll: leave out notifier, or wakeups")
        check_bool("include_noops", self.include_noops)
        check_callable("loader", self.loader, none=True)
        check_callable("inserter", self.inserter, none=True)
        check_instance("hooks", self.hooks, Hooks, "a Hooks, or None")
        check_callable("clock", self.clock, "a function that returns seconds")
        object.__setattr__(self, "name", str(self.schema.table))

    @property
    def columns(self) -> EventColumns:
        """The table's column names."""
        return self.schema.columns

    @property
    def key(self) -> Hashable:
        """A key that is equal for tables whose streams can share a reader. It is valid while the settings are alive."""
        # The user's objects by identity, as they may not be hashable, or be equal and yet behave differently.
        objects = (self.notifier, self.loader, self.inserter, self.hooks, self.clock)
        values = (
            self.schema,
            self.page_size,
            self.page_bytes,
            self.poll_period,
            self.poll_floor,
            self.query_timeout,
            self.wakeups,
        )
        return *values, self.include_noops, *map(id, objects)
