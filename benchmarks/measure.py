"""Paired measurements on a noisy machine."""

import gc
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Baseline", "Measured", "Result", "Series", "compare", "show_progress"]

Measured = Callable[[], Awaitable[float]]
"""Measures once, and returns a number per second, or a number of seconds."""


@dataclass(frozen=True)
class Baseline:
    """The measurement that ours is compared with."""

    name: str
    measure: Measured


@dataclass(frozen=True)
class Result:
    """The median of ratios, each of two measurements in direct succession."""

    name: str
    what: str
    against: str
    unit: str
    better: Literal["higher", "lower"]
    goal: float | None
    runs: list[dict[str, float]]

    @property
    def ratio(self) -> float:
        return statistics.median(run["ratio"] for run in self.runs)

    @property
    def met(self) -> bool:
        if self.goal is None:
            return True
        return self.ratio >= self.goal if self.better == "higher" else self.ratio <= self.goal

    def median(self, side: str) -> float:
        return statistics.median(run[side] for run in self.runs)


@dataclass(frozen=True)
class Series:
    """The cost of one operation at growing sizes."""

    name: str
    what: str
    size: str
    unit: str
    points: list[tuple[float, float]]


async def compare(
    name: str,
    *,
    what: str,
    ours: Measured,
    against: Baseline,
    unit: str,
    better: Literal["higher", "lower"] = "higher",
    goal: float | None = None,
    repeat: int,
) -> Result:
    """Measure ``ours`` and the baseline alternately, ``repeat`` times after a warm-up, and return their ratio.

    The order alternates, so that neither is always measured after the other.

    :param goal: the least ratio to reach, or the greatest where lower is better
    """
    show_progress(f"{name}: warming up")
    await against.measure()
    await ours()
    runs = []
    for i in range(repeat):
        show_progress(f"{name}: {i + 1} of {repeat}")
        values = {}
        for side, measure in (("ours", ours), ("raw", against.measure))[:: 1 if i % 2 else -1]:
            gc.collect()
            values[side] = await measure()
        runs.append({**values, "ratio": values["ours"] / values["raw"]})
    show_progress("")
    return Result(name, what, against.name, unit, better, goal, runs)


def show_progress(text: str) -> None:
    """Show the progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
