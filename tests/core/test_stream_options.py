"""Options are checked where they are given."""

import math
from typing import Any

import pytest

from reflex_aio import StreamOptions


def test_options_are_off_by_default() -> None:
    assert StreamOptions() == StreamOptions(from_head=False, to_head=False, lag=None)


@pytest.mark.parametrize("lag", [0, 0.0, 1, 2.5, 1e9])
def test_lag_is_any_number_of_seconds(lag: float) -> None:
    assert StreamOptions(lag=lag).lag == lag


@pytest.mark.parametrize("lag", [-1, -0.001, math.nan, math.inf, -math.inf])
def test_lag_out_of_range_is_refused(lag: float) -> None:
    with pytest.raises(ValueError, match=f"lag {lag} is out of range"):
        StreamOptions(lag=lag)


@pytest.mark.parametrize("lag", [True, False, "1", b"1", [1]])
def test_lag_that_is_no_number_is_refused(lag: Any) -> None:
    with pytest.raises(
        TypeError, match=r"lag .* is a .*: accepted is a number of seconds from 0, up to 1e\+09, or None"
    ):
        StreamOptions(lag=lag)


@pytest.mark.parametrize("what", ["from_head", "to_head"])
@pytest.mark.parametrize("flag", [1, None, "yes"])
def test_flag_that_is_no_bool_is_refused(what: str, flag: Any) -> None:
    with pytest.raises(TypeError, match=rf"{what} .* is a .*: accepted is a bool"):
        StreamOptions(**{what: flag})
