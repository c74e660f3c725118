"""The results as a table and as JSON."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Series

__all__ = ["print_series", "print_table", "write_json"]

LIBRARIES = ("asyncpg", "aiomysql", "asyncmy", "grpcio", "protobuf", "msgspec")


def print_table(results: Sequence[Result]) -> None:
    """Print the results as a table."""
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
                "" if result.goal is None else f"{sign} {result.goal}",
                "" if result.goal is None else ("met" if result.met else "MISSED"),
            )
        )
    _print_columns(rows)


def print_series(series: Sequence[Series]) -> None:
    """Print the costs at growing sizes."""
    for one in series:
        print()
        _print_columns(
            [
                (one.what, *(f"{size:,.0f}" for size, _ in one.points), one.size),
                ("", *(f"{cost:,.3g}" for _, cost in one.points), one.unit),
            ]
        )


def _print_columns(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_json(
    results: Sequence[Result], series: Sequence[Series], path: Path, arguments: dict[str, Any]
) -> None:
    """Write the results, with a description of the machine."""
    machine = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        **{library: version(library) for library in LIBRARIES},
    }
    content: dict[str, Any] = {
        result.name: {
            "ratio": round(result.ratio, 4),
            "goal": result.goal,
            "better": result.better,
            "met": result.met,
            "unit": result.unit,
            "what": result.what,
            "against": result.against,
            "runs": [{key: float(f"{value:.6g}") for key, value in run.items()} for run in result.runs],
            "machine": machine,
            "arguments": arguments,
        }
        for result in results
    }
    content["series"] = [
        {
            "name": one.name,
            "what": one.what,
            "size": one.size,
            "unit": one.unit,
            "points": [[size, float(f"{cost:.6g}")] for size, cost in one.points],
        }
        for one in series
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
