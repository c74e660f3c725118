"""Several consumers that share the events of one stream."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from reflex_aio.checks import check_count
from reflex_aio.event import Event

__all__ = ["Shard", "by_event_id", "by_event_type", "by_foreign_id", "shard_of", "shards"]

EventKey: TypeAlias = Callable[[Event], str | bytes]


def by_event_id(event: Event) -> str:
    """Return the event's id: shards get the same number of events, in no order among them."""
    return event.id


def by_event_type(event: Event) -> str:
    """Return the event's type, as text: events of one type stay in order."""
    return str(event.type)


def by_foreign_id(event: Event) -> str:
    """Return the event's foreign id: events of one row stay in order."""
    return event.foreign_id


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several shards of a stream, which is a filter: it lets through the events that are its own.

    :param name: for its consumer
    :param index: which of the shards it is, from 0
    :param count: how many shards there are
    :param key: events with the same key are in the same shard
    """

    name: str
    index: int
    count: int
    key: EventKey

    def __call__(self, event: Event) -> bool:
        """Tell whether ``event`` belongs to this shard.

        :raises TypeError: if the key is neither a string nor bytes
        """
        key = self.key(event)
        return shard_of(key.encode() if isinstance(key, str) else key, self.count) == self.index


def shards(
    name: str,
    count: int,
    *,
    key: EventKey = by_event_id,
    format_name: Callable[[str, int, int], str] = "{0}_{1}_of_{2}".format,
) -> list[Shard]:
    """Return shards of which each event belongs to exactly one, for a consumer each::

        [Consumer(shard.name, handler, filter=shard) for shard in shards("search", 4, key=by_foreign_id)]

    The cursors belong to the shards of this ``count`` and ``key``: change the name with either.

    :param name: what the shards' names are made of
    :param count: how many shards there are
    :param key: a plain function of an event that returns a string or bytes: ``by_event_id``, ``by_event_type``,
        ``by_foreign_id`` or any other
    :param format_name: makes a shard's name of ``name``, its number from 1, and ``count``
    :raises ValueError: if ``count`` is less than 1, or two shards have the same name
    :raises TypeError: if ``count`` is no integer
    """
    check_count("count", count, least=1)
    made = [Shard(format_name(name, index + 1, count), index, count, key) for index in range(count)]
    if len({shard.name for shard in made}) < count:
        raise ValueError(f"format_name gives two shards the same name: {[shard.name for shard in made]}")
    return made


def shard_of(key: bytes, shards: int) -> int:
    """Return the shard, 0 to ``shards - 1``, that owns ``key``.

    32-bit FNV-1 (not 1a), to agree with Go's ``fnv.New32``.
    Source: http://www.isthe.com/chongo/tech/comp/fnv/

    :raises ValueError: if ``shards`` is less than 1
    :raises TypeError: if ``key`` isn't bytes, or ``shards`` no integer
    """
    if not isinstance(key, bytes):
        raise TypeError(f"key {key!r} is a {type(key).__name__}: accepted is a str or bytes")
    check_count("shards", shards, least=1)
    value = 0x811C9DC5
    for byte in key:
        value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
    return value % shards
