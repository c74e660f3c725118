"""The results as an SVG file: ratios with their goals, and costs by size."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import Result, Series

__all__ = ["write_svg"]

MET, MISSED, NO_GOAL, GOAL = "#2a7f62", "#c0392b", "#7f8c9a", "#1d2733"
ROW = 0.28


def write_svg(results: Sequence[Result], series: Sequence[Series], path: Path) -> None:
    """Draw the results into an SVG file."""
    # The same results produce the same file.
    mpl.rcParams["svg.hashsalt"] = "reflex_aio"
    rows = max(1, len(results)) * ROW + 1.0
    figure = Figure(figsize=(11, rows + (2.6 if series else 0)), layout="constrained")
    upper, *lower = figure.subfigures(
        2 if series else 1, 1, height_ratios=[rows, 2.6] if series else None, squeeze=False
    ).flat
    _draw_ratios(upper.subplots(), results)
    if series:
        for axes, one in zip(lower[0].subplots(1, len(series), squeeze=False).flat, series, strict=True):
            _draw_series(axes, one)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_ratios(axes: Axes, results: Sequence[Result]) -> None:
    """Ratios on a logarithmic scale, each with the range of its pairs and a mark at its goal."""
    for row, result in enumerate(results):
        colour = NO_GOAL if result.goal is None else MET if result.met else MISSED
        ratios = [run["ratio"] for run in result.runs]
        axes.barh(row, result.ratio, color=colour, height=0.62, alpha=0.85)
        axes.plot([min(ratios), max(ratios)], [row, row], color="black", linewidth=0.8)
        if result.goal is not None:
            axes.plot([result.goal] * 2, [row - 0.45, row + 0.45], color=GOAL, linewidth=2)
    axes.axvline(1.0, color="black", linewidth=0.6, linestyle=":")
    labels = [
        f"{result.what}  /  {result.against} {'↑' if result.better == 'higher' else '↓'}"
        for result in results
    ]
    axes.set_yticks(range(len(results)), labels, fontsize=7.5)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_xlabel("ratio; ↑ higher is better, ↓ lower is better; the thick mark is the goal", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_series(axes: Axes, series: Series) -> None:
    axes.plot(*zip(*series.points, strict=True), marker="o", markersize=3, linewidth=1.2, color=MET)
    axes.set_title(series.what, fontsize=8)
    axes.set_xlabel(series.size, fontsize=7.5)
    axes.set_ylabel(series.unit, fontsize=7.5)
    if series.points[-1][0] > 50 * series.points[0][0]:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
