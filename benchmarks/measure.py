"""Paired measurements on a noisy machine, and what is said about them."""

import gc
import json
import os
import platform
import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["Baseline", "Measured", "Result", "compare", "print_table", "write_json"]

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
    floor: float | None
    runs: list[dict[str, float]]

    @property
    def ratio(self) -> float:
        return statistics.median(run["ratio"] for run in self.runs)

    @property
    def met(self) -> bool:
        if self.floor is None:
            return True
        return self.ratio >= self.floor if self.better == "higher" else self.ratio <= self.floor

    def median(self, side: str) -> float:
        return statistics.median(run[side] for run in self.runs)


async def compare(
    name: str,
    *,
    what: str,
    ours: Measured,
    against: Baseline,
    unit: str,
    better: Literal["higher", "lower"] = "higher",
    floor: float | None = None,
    repeat: int,
) -> Result:
    """Measure ``ours`` and the baseline in turn, ``repeat`` times after a warm-up, and return ours by the baseline's.

    The order changes from pair to pair, so that neither always comes after the other.

    :param floor: what the ratio should reach, or stay below where less is better
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
    return Result(name, what, against.name, unit, better, floor, runs)


def say(text: str) -> None:
    """Show progress, where somebody looks on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def print_table(results: list[Result]) -> None:
    """Print the results for people."""
    rows = [("", "against", "ours", "raw", "unit", "ratio", "min-max", "goal", "")]
    for result in results:
        ratios = [run["ratio"] for run in result.runs]
        sign = {"higher": "≥", "lower": "≤"}[result.better]
        rows.append(
            (
                result.what,
                result.against,
                f"{result.median('ours'):,.4g}",
                f"{result.median('raw'):,.4g}",
                result.unit,
                f"{result.ratio:.2f}",
                f"{min(ratios):.2f}-{max(ratios):.2f}",
                "" if result.floor is None else f"{sign} {result.floor}",
                "" if result.floor is None else ("met" if result.met else "MISSED"),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_json(results: list[Result], path: Path, arguments: dict[str, Any]) -> None:
    """Write the results, with what they were measured on, over those of the same names from before."""
    machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "system": platform.platform()}
    content = {
        result.name: {
            "ratio": round(result.ratio, 4),
            "floor": result.floor,
            "better": result.better,
            "met": result.met,
            "unit": result.unit,
            "what": result.what,
            "against": result.against,
            "runs": [{key: round(value, 6) for key, value in run.items()} for run in result.runs],
            "machine": machine,
            "arguments": arguments,
        }
        for result in results
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
