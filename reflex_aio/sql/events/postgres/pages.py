"""PostgreSQL: the events of a page, as the one row of columns that :class:`~.queries.Queries` asks for."""

import struct
from collections.abc import Sequence
from typing import Any

from reflex_aio.event import EventBatch
from reflex_aio.sql.drivers.base import Row
from reflex_aio.sql.events.postgres.queries import SEPARATOR
from reflex_aio.sql.events.settings import EventsSettings

__all__ = ["Columns"]

_EPOCH_2000_US = 946_684_800_000_000
# Of a packed number, in bytes.
_SIZE = 8


class Columns:
    """The columns of a page.

    What is packed is taken apart when its events are made, so that the next page can be requested before.

    :param row: as the server has sent it, all NULL if there are no events
    :param position: the id after which the page was asked for
    :param size: how many events it could have at most
    :param packed: whether it was asked for packed types and foreign ids
    """

    def __init__(self, row: Row, position: int, size: int, settings: EventsSettings, *, packed: bool) -> None:
        self._settings = settings
        self._row = row
        self._packed = packed
        self._ids: str = row[0] or ""
        self._timestamps: bytes = row[1] or b""
        self.ids: Sequence[int] = _numbers(self._ids, position)
        self.full: bool = len(self.ids) == size
        """Whether there may be further events."""

    @property
    def identity(self) -> Any:
        """The identity of the table, of a page that was asked for with it."""
        return self._row[-1]

    @property
    def complete(self) -> bool:
        """Whether every event has a timestamp: an aggregate of bytes passes over NULL."""
        return len(self._timestamps) == _SIZE * len(self.ids)

    @property
    def torn(self) -> bool:
        """Whether it can't be told which type or foreign id is whose, and the page is to be read in arrays."""
        count = len(self.ids)
        if not self._packed or not count:
            return False
        types, foreign_ids = self._row[2], self._row[3]
        # If all types are NULL, so are the bytes.
        return len(types or b"") != _SIZE * count or foreign_ids.count(SEPARATOR) != count - 1

    def batch(self, count: int) -> EventBatch:
        """Return the first ``count`` events, noops left out unless the table includes them."""
        if not count:
            return EventBatch((), (), (), ())
        schema, row = self._settings.schema, self._row
        timestamps = _unpacked(self._timestamps)
        batch = EventBatch(
            self._ids.split(","),
            _unpacked(row[2]) if self._packed else row[2],
            row[3].split(SEPARATOR) if self._packed else row[3],
            [timestamp + _EPOCH_2000_US for timestamp in timestamps],
            row[4] if schema.metadata else None,
            row[4 + schema.metadata] if schema.trace else None,
        )
        if count < len(batch):
            batch = batch[:count]
        return batch if self._settings.include_noops else batch.without_noops()


def _unpacked(numbers: bytes) -> Sequence[int]:
    return struct.unpack(f"!{len(numbers) // _SIZE}q", numbers)


def _numbers(ids: str, position: int) -> Sequence[int]:
    if not ids:
        return ()
    last = int(ids[ids.rfind(",") + 1 :])
    if last - position == ids.count(",") + 1:
        # Without a gap: there is no need to look at each.
        return range(position + 1, last + 1)
    return list(map(int, ids.split(",")))
