"""The event: a pointer to something that changed, never the change itself."""

from datetime import UTC, datetime, timedelta
from typing import Self

import msgspec

__all__ = ["INT32_MAX", "INT32_MIN", "NOOP_FOREIGN_ID", "NOOP_TYPE", "Event", "check_event", "check_type"]

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

NOOP_FOREIGN_ID = "0"
NOOP_TYPE = 0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Event(msgspec.Struct, frozen=True, gc=False):
    """A change of state: which row (``foreign_id``) changed, and how (``type``).

    ``id`` is the event's place in its stream and the cursor that stands after it. ``timestamp_us`` is the time of the
    change in microseconds since 1970, UTC. ``metadata`` and ``trace`` are ``None`` where nothing was stored.

    The struct isn't tracked by the garbage collector: a subclass may add scalars, never containers.
    """

    id: str
    type: int
    foreign_id: str
    timestamp_us: int
    metadata: bytes | None = None
    trace: bytes | None = None

    @classmethod
    def new(
        cls,
        id: str | int,
        type: int,
        foreign_id: str | int,
        *,
        timestamp: datetime,
        metadata: bytes | None = None,
        trace: bytes | None = None,
    ) -> Self:
        """Make an event from what people write: integers for ids, an aware datetime.

        :raises ValueError: if ``timestamp`` has no time zone, or a value is out of its range
        :raises TypeError: if a value has the wrong type
        """
        if timestamp.tzinfo is None:
            raise ValueError(f"timestamp has no time zone: {timestamp!r}; accepted is an aware datetime")
        foreign_id, type = check_foreign_id(foreign_id), check_type(type)
        return cls(str(id), type, foreign_id, (timestamp - _EPOCH) // _MICROSECOND, metadata, trace)

    @property
    def timestamp(self) -> datetime:
        """The time of the change, as an aware datetime in UTC."""
        return _EPOCH + timedelta(microseconds=self.timestamp_us)

    @property
    def id_int(self) -> int | None:
        """``id`` as an integer, or ``None`` if it isn't one."""
        return _as_int(self.id)

    @property
    def foreign_id_int(self) -> int | None:
        """``foreign_id`` as an integer, or ``None`` if it isn't one."""
        return _as_int(self.foreign_id)

    @property
    def is_noop(self) -> bool:
        """Whether this is a placeholder for an id that was never committed. Streams leave these out by default."""
        return self.foreign_id == NOOP_FOREIGN_ID and self.type == NOOP_TYPE


def check_type(type: int) -> int:
    """Return an event type as a plain integer.

    :raises TypeError: if it is no integer
    :raises ValueError: if it doesn't fit in 32 bits, signed
    """
    if not isinstance(type, int) or isinstance(type, bool):
        raise TypeError(f"event type {type!r} is a {_name(type)}: accepted is an int or IntEnum")
    if not INT32_MIN <= type <= INT32_MAX:
        raise ValueError(f"event type {int(type)} is out of range: accepted is {INT32_MIN} to {INT32_MAX}")
    return int(type)


def check_foreign_id(foreign_id: str | int) -> str:
    """Return a foreign id as a string.

    :raises TypeError: if it is neither a string nor an integer
    :raises ValueError: if it is empty, or holds a NUL, which databases don't store
    """
    if isinstance(foreign_id, str):
        if not foreign_id or "\0" in foreign_id:
            raise ValueError(
                f"foreign id {foreign_id!r} is empty or holds a NUL: accepted is the id of the changed row"
            )
        return str(foreign_id)
    if not isinstance(foreign_id, int) or isinstance(foreign_id, bool):
        raise TypeError(
            f"foreign id {foreign_id!r} is a {_name(foreign_id)}: accepted is the id of the changed row, a str or int"
        )
    return str(int(foreign_id))


def check_event(
    foreign_id: str | int, type: int, metadata: bytes | None = None, trace: bytes | None = None
) -> tuple[str, int]:
    """Return the foreign id and type of an event that is to be inserted, as they are stored.

    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of its range, or the two are those of a noop
    """
    stored = check_foreign_id(foreign_id), check_type(type)
    if stored == (NOOP_FOREIGN_ID, NOOP_TYPE):
        raise ValueError(
            "foreign id 0 with type 0 marks a noop, which streams leave out: use another type or id"
        )
    for what, value in (("metadata", metadata), ("trace", trace)):
        if value is not None and not isinstance(value, bytes):
            raise TypeError(f"{what} is a {_name(value)}: accepted is bytes or None")
    return stored


def _as_int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _name(value: object) -> str:
    return value.__class__.__name__
