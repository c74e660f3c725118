"""PostgreSQL: the events of a page, as the one row of arrays that :class:`~.queries.Queries` asks for."""

import struct
from collections.abc import Sequence
from typing import Any

from reflex_aio.batch import EventBatch
from reflex_aio.sql.drivers.base import Row
from reflex_aio.sql.settings import EventsSettings

__all__ = ["Columns"]

_EPOCH_2000_US = 946_684_800_000_000
_TIMESTAMP_SIZE = 8


class Columns:
    """The columns of a page.

    :param row: as the server has sent it, all NULL if there are no events
    :param position: the id after which the page was asked for
    :param size: how many events it could have at most
    """

    def __init__(self, row: Row, position: int, size: int, settings: EventsSettings) -> None:
        self._settings = settings
        self._row = row
        self._ids: list[str] = row[0] or []
        self._timestamps: bytes = row[1] or b""
        self.ids: Sequence[int] = _numbers(self._ids, position)
        self.full: bool = len(self._ids) == size
        """Whether there may be further events."""

    @property
    def identity(self) -> Any:
        """The identity of the table, of a page that was asked for with it."""
        return self._row[-1]

    @property
    def complete(self) -> bool:
        """Whether every event has a timestamp: an aggregate of bytes passes over NULL."""
        return len(self._timestamps) == _TIMESTAMP_SIZE * len(self._ids)

    def batch(self, count: int) -> EventBatch:
        """Return the first ``count`` events, noops left out unless the table includes them."""
        if not count:
            return EventBatch((), (), (), ())
        schema, row = self._settings.schema, self._row
        timestamps = struct.unpack(f"!{len(self._ids)}q", self._timestamps)
        batch = EventBatch(
            self._ids,
            row[2],
            row[3],
            list(map(_EPOCH_2000_US.__add__, timestamps)),
            row[4] if schema.metadata else None,
            row[4 + schema.metadata] if schema.trace else None,
        )
        if count < len(batch):
            batch = batch[:count]
        return batch if self._settings.include_noops else batch.without_noops()


def _numbers(ids: list[str], position: int) -> Sequence[int]:
    if not ids:
        return ()
    last = int(ids[-1])
    if last - position == len(ids):
        # Without a gap: there is no need to look at each.
        return range(position + 1, last + 1)
    return [int(event_id) for event_id in ids]
