"""The slowest of all consumers: what it has still to come to must not be deleted."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from reflex_aio.cursor import CursorStore
from reflex_aio.errors import InvalidCursor
from reflex_aio.sql.cursors.values import check_cursor

__all__ = ["Slowest", "slowest"]


@dataclass(frozen=True, slots=True)
class Slowest:
    """The consumer that is furthest behind."""

    consumer: str
    """Its name; ``""`` if there is no consumer at all."""
    position: int
    """The id of the last event that it consumed; 0 if it has consumed none, or its cursor isn't an event's id."""


async def slowest(
    stores: Iterable[CursorStore], *, ignore: Collection[str] = (), expect: Collection[str] = ()
) -> Slowest:
    """Return the slowest of the consumers with cursors in some stores, or expected there.

    :param ignore: patterns of the names of consumers that don't count, as of files
    :param expect: names of consumers that count without a cursor, too
    """
    positions: dict[str, int] = {}
    for store in stores:
        for name, cursor in (await store.all()).items():
            # Of a consumer in two stores, the cursor that is further behind.
            position = _position(cursor)
            positions[name] = min(position, positions.get(name, position))
    for name in expect:
        positions.setdefault(name, 0)
    return min(
        (
            Slowest(name, position)
            for name, position in sorted(positions.items())
            if not any(fnmatchcase(name, pattern) for pattern in ignore)
        ),
        key=lambda each: each.position,
        default=Slowest("", 0),
    )


def _position(cursor: str) -> int:
    try:
        return int(check_cursor(cursor, "int"))
    except InvalidCursor:
        return 0
