"""A soak test fails if anything is wrong."""

from collections.abc import Sequence

import pytest

from tests.soak.verdict import Delivery, Growth, delivery, longest_stall

EXPECTED = {1, 2, 4}


def judged(*ids: int, exactly_once: bool = False) -> Delivery:
    return delivery(
        "c", EXPECTED, list(zip(ids, map(float, ids), strict=True)), [], exactly_once=exactly_once
    )


def test_each_event_in_order_is_right_and_again_after_a_restart_unless_its_effect_is_atomic() -> None:
    assert judged(1, 2, 4).right
    assert judged(1, 2, 2, 4, 2, 4).right
    assert judged(1, 2, 2, 4, 2, 4).doubled == 3
    assert not judged(1, 2, 2, 4, exactly_once=True).right


@pytest.mark.parametrize(
    ("ids", "fault"),
    [((1, 4), "missed"), ((), "missed"), ((1, 4, 2), "disordered"), ((1, 2, 3, 4), "foreign")],
)
def test_missed_disordered_and_foreign_events_are_wrong(ids: Sequence[int], fault: str) -> None:
    found = judged(*ids)
    assert getattr(found, fault) > 0
    assert not found.right


@pytest.mark.parametrize(
    ("times", "ends", "longest"),
    [
        ([0.0, 1.0, 2.0], [], 0.0),
        ([0.0, 9.0], [], 0.0),
        ([0.0, 1.0, 9.0, 10.0], [4.0], 5.0),
        ([0.0, 1.0, 9.0, 10.0], [4.0, 8.0], 5.0),
        ([0.0, 1.0, 9.0, 10.0], [0.5, 9.5], 0.5),
    ],
)
def test_a_stall_lasts_from_the_end_of_the_first_fault_to_the_next_effect(
    times: list[float], ends: list[float], longest: float
) -> None:
    found, name = longest_stall(times, [(end, "kill") for end in ends])
    assert found == longest
    assert name == ("kill" if longest else "")


def test_growth_is_wrong_beyond_what_is_allowed() -> None:
    assert Growth("memory", 1.5, 5.0, [50.0] * 8).right
    assert Growth("memory", 1.5, 5.0, [50.0] * 6 + [80.0] * 2).right
    assert not Growth("memory", 1.5, 5.0, [50.0] * 6 + [81.0] * 2).right
