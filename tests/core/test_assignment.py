"""Consumers are assigned to processes: evenly, each to one, and without moving to and fro."""

from collections import Counter
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from reflex_aio.runner.assignment import assign

Situation: TypeAlias = tuple[list[str], set[str], dict[str, str]]

MEMBERS = ["a", "b", "c", "d", "e"]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Consumers, members, and who holds what: also those that have left."""
    counts = draw(st.lists(st.integers(2, 6), max_size=3))
    names = [f"s{base}_{m + 1}_of_{count}" for base, count in enumerate(counts) for m in range(count)]
    names += [f"alone-{number}" for number in range(draw(st.integers(0, 6)))]
    members = draw(st.sets(st.sampled_from(MEMBERS), min_size=1))
    holders = draw(st.dictionaries(st.sampled_from(names), st.sampled_from(MEMBERS))) if names else {}
    return draw(st.permutations(names)), members, holders


def is_even(assigned: list[str], members: set[str]) -> bool:
    counts = Counter(dict.fromkeys(members, 0))
    counts.update(assigned)
    return max(counts.values()) - min(counts.values()) <= 1


@given(situations())
def test_each_consumer_goes_to_one_member_and_all_have_as_many_but_for_one(situation: Situation) -> None:
    names, members, holders = situation
    assigned = assign(names, members, holders)
    assert sorted(assigned) == sorted(names)
    assert set(assigned.values()) <= members
    assert is_even(list(assigned.values()), members)


@given(situations())
def test_shards_of_each_consumer_are_dealt_evenly_too(situation: Situation) -> None:
    names, members, holders = situation
    assigned = assign(names, members, holders)
    for base in range(3):
        assert is_even([assigned[name] for name in names if name.startswith(f"s{base}_")], members)


@given(situations())
def test_what_was_dealt_is_dealt_the_same_again(situation: Situation) -> None:
    names, members, holders = situation
    assigned = assign(names, members, holders)
    assert assign(names, members, assigned) == assigned


def test_member_that_joins_takes_no_more_than_its_share() -> None:
    names = [f"c-{number}" for number in range(6)]
    before = assign(names, {"a", "b"}, {})
    after = assign(names, {"a", "b", "c"}, before)
    assert sum(before[name] != after[name] for name in names) == 2


def test_what_a_member_had_that_leaves_is_all_that_moves() -> None:
    names = [f"s_{number}_of_7" for number in range(1, 8)] + ["alone"]
    before = assign(names, {"a", "b", "c"}, {})
    after = assign(names, {"a", "c"}, before)
    assert [name for name in names if before[name] != after[name]] == [
        name for name in names if before[name] == "b"
    ]


def test_single_consumers_that_are_shared_evenly_stay_where_they_are() -> None:
    holders = {"1": "a", "2": "a", "3": "b", "4": "b"}
    assert assign(holders, {"a", "b"}, holders) == holders
