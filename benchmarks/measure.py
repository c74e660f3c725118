"""Paired measurements on a noisy machine."""

import gc
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Baseline", "Measured", "Result", "Series", "compare", "say"]

Measured = Callable[[], Awaitable[float]]
"""Measures once, and returns how many a second, or how many seconds."""


@dataclass(frozen=True)
class Baseline:
    """What is measured against."""

    name: str
    measure: Measured


@dataclass(frozen=True)
class Result:
    """The median of ratios, each of two measurements made one right after the other."""

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
    """What one thing costs at growing sizes."""

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
    """Measure ``ours`` and the baseline in turn, ``repeat`` times after a warm-up, and return ours by the baseline's.

    The order changes from pair to pair, so that neither always comes after the other.

    :param goal: what the ratio should reach, or stay below where less is better
    """
    say(f"{name}: warming up")
    await against.measure()
    await ours()
    runs = []
    for i in range(repeat):
        say(f"{name}: {i + 1} of {repeat}")
        values = {}
        for side, measure in (("ours", ours), ("raw", against.measure))[:: 1 if i % 2 else -1]:
            gc.collect()
            values[side] = await measure()
        runs.append({**values, "ratio": values["ours"] / values["raw"]})
    say("")
    return Result(name, what, against.name, unit, better, goal, runs)


def say(text: str) -> None:
    """Show progress, where somebody looks on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
