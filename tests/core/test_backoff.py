"""Delays grow to a bound and keep half of it."""

import math
from itertools import islice

import pytest

from reflex_aio import Backoff


def bounds(backoff: Backoff, count: int) -> list[float]:
    bound, told = backoff.initial, []
    for _ in range(count):
        told.append(bound)
        bound = min(bound * backoff.factor, backoff.maximum)
    return told


@pytest.mark.parametrize(
    "backoff", [Backoff(), Backoff(1.0, 1.0), Backoff(0.5, 7.0, factor=3.0), Backoff(2, 5, factor=1)]
)
def test_each_delay_is_between_half_its_bound_and_the_bound(backoff: Backoff) -> None:
    for _ in range(50):
        for delay, bound in zip(islice(backoff.delays(), 12), bounds(backoff, 12), strict=True):
            assert bound / 2 <= delay <= bound


@pytest.mark.parametrize("backoff", [Backoff(), Backoff(0.5, 7.0, factor=3.0), Backoff(2, 5, factor=1)])
def test_delay_after_so_many_failures_is_that_of_their_number(backoff: Backoff) -> None:
    for failures, bound in enumerate(bounds(backoff, 12), start=1):
        assert bound / 2 <= backoff.delay(failures) <= bound
    assert backoff.delay(10**9) <= backoff.maximum


def test_delays_are_jittered_over_the_whole_half() -> None:
    firsts = [next(Backoff(1.0).delays()) for _ in range(500)]
    assert min(firsts) < 0.6
    assert max(firsts) > 0.9


def test_delays_never_pass_the_maximum_however_many() -> None:
    assert max(islice(Backoff(0.1, 3.0).delays(), 2000)) <= 3.0


@pytest.mark.parametrize(
    ("initial", "maximum", "factor"),
    [
        (0.0, 1.0, 2.0),
        (-1.0, 1.0, 2.0),
        (2.0, 1.0, 2.0),
        (math.nan, 1.0, 2.0),
        (1.0, math.nan, 2.0),
        (1.0, math.inf, 2.0),
        (1.0, 2.0, 0.99),
        (1.0, 2.0, math.nan),
        (1.0, 2.0, math.inf),
    ],
)
def test_values_out_of_range_are_refused(initial: float, maximum: float, factor: float) -> None:
    with pytest.raises(ValueError, match="accepted is"):
        Backoff(initial, maximum, factor)
