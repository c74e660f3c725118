"""Events that come together, as columns."""

from collections.abc import Iterator, Sequence
from itertools import compress, repeat
from typing import Self, overload

from reflex_aio.event import NOOP_FOREIGN_ID, NOOP_TYPE, Event

__all__ = ["EventBatch"]


class EventBatch(Sequence[Event]):
    """A sequence of events that holds their columns, and makes an event when one is looked at.

    Half of what it takes to make events out of a page of a table, and to take them apart again for a message, is spared
    to those who only pass them on. The columns are all of one length, and not to be changed.

    :param metadata: ``None`` if no event has any; ``traces`` likewise
    """

    __slots__ = ("foreign_ids", "ids", "metadata", "timestamps_us", "traces", "types")

    def __init__(
        self,
        ids: Sequence[str],
        types: Sequence[int],
        foreign_ids: Sequence[str],
        timestamps_us: Sequence[int],
        metadata: Sequence[bytes | None] | None = None,
        traces: Sequence[bytes | None] | None = None,
    ) -> None:
        self.ids: Sequence[str] = ids
        self.types: Sequence[int] = types
        self.foreign_ids: Sequence[str] = foreign_ids
        self.timestamps_us: Sequence[int] = timestamps_us
        self.metadata: Sequence[bytes | None] | None = metadata
        self.traces: Sequence[bytes | None] | None = traces

    @classmethod
    def of(cls, events: Sequence[Event]) -> Self:
        """Return a batch of ``events``; the same one, if they are a batch already."""
        if isinstance(events, cls):
            return events
        return cls(
            [event.id for event in events],
            [event.type for event in events],
            [event.foreign_id for event in events],
            [event.timestamp_us for event in events],
            _values([event.metadata for event in events]),
            _values([event.trace for event in events]),
        )

    def __repr__(self) -> str:
        return f"<{len(self)} events>"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Event]:
        rest: list[Sequence[bytes | None] | repeat[None]] = []
        if self.metadata is not None or self.traces is not None:
            rest.append(repeat(None) if self.metadata is None else self.metadata)
        if self.traces is not None:
            rest.append(self.traces)
        # In C, column by column: half the work of making them row by row.
        return map(Event, self.ids, self.types, self.foreign_ids, self.timestamps_us, *rest)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Event | Self:
        if isinstance(index, slice):
            return type(self)(
                self.ids[index],
                self.types[index],
                self.foreign_ids[index],
                self.timestamps_us[index],
                None if self.metadata is None else self.metadata[index],
                None if self.traces is None else self.traces[index],
            )
        return Event(
            self.ids[index],
            self.types[index],
            self.foreign_ids[index],
            self.timestamps_us[index],
            None if self.metadata is None else self.metadata[index],
            None if self.traces is None else self.traces[index],
        )

    def without_noops(self) -> Self:
        """Return the events without those that only fill gaps; the same batch, if it has none."""
        if NOOP_TYPE not in self.types:
            return self
        kept = [
            kind != NOOP_TYPE or foreign_id != NOOP_FOREIGN_ID
            for kind, foreign_id in zip(self.types, self.foreign_ids, strict=True)
        ]
        return type(self)(
            list(compress(self.ids, kept)),
            list(compress(self.types, kept)),
            list(compress(self.foreign_ids, kept)),
            list(compress(self.timestamps_us, kept)),
            None if self.metadata is None else list(compress(self.metadata, kept)),
            None if self.traces is None else list(compress(self.traces, kept)),
        )


def _values(column: list[bytes | None]) -> list[bytes | None] | None:
    return None if column.count(None) == len(column) else column
