"""Shards: several consumers that divide the events of one stream by key."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from reflex_aio.checks import check_count, check_instance
from reflex_aio.event import Event

__all__ = ["Shard", "by_event_id", "by_event_type", "by_foreign_id", "shard_of", "shards"]

EventKey: TypeAlias = Callable[[Event], str | bytes]


def by_event_id(event: Event) -> str:
    """Return the event's id as the key: shards get equal numbers of events, in no order between shards."""
    return event.id


def by_event_type(event: Event) -> str:
    """Return the event's type as the key: events of one type stay in order."""
    return str(event.type)


def by_foreign_id(event: Event) -> str:
    """Return the event's foreign id as the key: events of one row stay in order."""
    return event.foreign_id


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several shards of a stream: a filter that accepts the events of the shard, with a name for its consumer.

    :param name: the name for its consumer
    :param index: the number of the shard, from 0
    :param count: the number of shards
    :param key: a function of an event; events with the same key belong to the same shard
    """

    name: str
    index: int
    count: int
    key: EventKey

    def __call__(self, event: Event) -> bool:
        """Return whether ``event`` belongs to this shard.

        :raises TypeError: if the key is not a string or bytes
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
    """Return shards, for one consumer each. Every event belongs to exactly one of them::

        [Consumer(shard.name, handler, filter=shard) for shard in shards("search", 4, key=by_foreign_id)]

    Cursors are valid for this ``count`` and ``key`` only: if either changes, change the name too.

    :param name: the first part of the shards' names
    :param count: the number of shards
    :param key: a plain function of an event that returns a string or bytes, such as ``by_event_id``, ``by_event_type``
        or ``by_foreign_id``
    :param format_name: returns a shard's name from ``name``, the shard's number from 1, and ``count``
    :raises ValueError: if ``count`` is less than 1, or two shards have the same name
    :raises TypeError: if ``count`` is not an integer
    """
    check_count("count", count, least=1)
    made = [Shard(format_name(name, index + 1, count), index, count, key) for index in range(count)]
    if len({shard.name for shard in made}) < count:
        raise ValueError(
            f"format_name returns the same name for two shards: {[shard.name for shard in made]}"
        )
    return made


def shard_of(key: bytes, shards: int) -> int:
    """Return the number of the shard that ``key`` belongs to, from 0 to ``shards - 1``.

    The hash is 32-bit FNV-1 (not 1a), like Go's ``fnv.New32``.
    Source: http://www.isthe.com/chongo/tech/comp/fnv/

    :raises ValueError: if ``shards`` is less than 1
    :raises TypeError: if ``key`` is not bytes, or ``shards`` is not an integer
    """
    check_instance("key", key, bytes, "a str or bytes")
    check_count("shards", shards, least=1)
    value = 0x811C9DC5
    for byte in key:
        value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
    return value % shards
