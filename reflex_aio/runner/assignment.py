"""Dealing consumers out to the processes that could run them, each to one."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

__all__ = ["deal"]

# As reflex_aio.patterns.shards names them.
_SHARD = re.compile(r"(.+)_\d+_of_(\d+)", re.DOTALL)


def deal(names: Iterable[str], members: Collection[str], holders: Mapping[str, str]) -> dict[str, str]:
    """Return which member is to run which consumer.

    Each member gets as many as any other, or one more or less; of the shards of one consumer too. What a member
    holds it keeps, as far as that allows. Members that know the same come to the same result; and once that is
    what they hold, to the same again, so that nothing goes to and fro.

    :param names: the consumers; those named as ``base_1_of_4``, for one base and count, are shards of one consumer
    :param members: who can run them, at least one
    :param holders: who runs which of them now
    """
    dealt: dict[str, str] = {}
    totals = dict.fromkeys(sorted(members), 0)
    for group in _groups(names):
        held = {member: [name for name in group if holders.get(name) == member] for member in totals}
        least, more = divmod(len(group), len(totals))
        # One more for those that have the least so far, and of these for those that need not give one away.
        by_need = sorted(totals, key=lambda member: (totals[member], -len(held[member])))
        shares = {member: least + (rank < more) for rank, member in enumerate(by_need)}
        kept = {name: member for member in totals for name in held[member][: shares[member]]}
        for member in kept.values():
            shares[member] -= 1
        open_places = iter([member for member in by_need for _ in range(shares[member])])
        for name in group:
            member = dealt[name] = kept.get(name) or next(open_places)
            totals[member] += 1
    return dealt


def _groups(names: Iterable[str]) -> list[list[str]]:
    """Return the shards of each consumer, and after them all those that have none, in one group."""
    bases: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in sorted(names):
        shard = _SHARD.fullmatch(name)
        bases[shard.groups() if shard else ()].append(name)
    return [bases[base] for base in sorted(bases, reverse=True)]
