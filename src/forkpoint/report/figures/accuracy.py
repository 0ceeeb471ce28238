"""The chart of strategies: each one's accuracy with its 95% interval, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkpoint.report.figures.drawing import LINES, TEXT, WIDTH, clipped, plain_axes, svg_text

_LONGEST = 34  # characters of a strategy beside its dot


def accuracy_svg(strategies: Sequence[dict[str, Any]]) -> str:
    """An <svg> element with a line a strategy of results.json, the first on top; the same ones give the same text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 0.8 + 0.32 * len(strategies)), layout="constrained")
    axes = figure.subplots()
    color = LINES[0][0]
    for y, s in enumerate(strategies):
        middle, (low, high) = 100 * s["accuracy"], [100 * end for end in s["ci95"]]
        axes.plot([low, high], [y, y], color=color, lw=5, alpha=0.25, solid_capstyle="butt")
        axes.plot([middle], [y], color=color, marker="o", markersize=6, clip_on=False)
        right = high < 88
        axes.annotate(
            f"{middle:.1f}%", (high if right else low, y), (6 if right else -6, 0), textcoords="offset points",
            va="center", ha="left" if right else "right", fontsize=TEXT,
        )  # fmt: skip
    names = [s["strategy"] for s in strategies]
    axes.set_yticks(range(len(names)), [clipped(name, _LONGEST) for name in names], fontsize=TEXT, parse_math=False)
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5), xlabel="accuracy (%)")
    axes.tick_params(axis="x", labelsize=TEXT)
    plain_axes(axes)
    axes.grid(axis="y", lw=0)
    axes.grid(axis="x", lw=0.4)
    return svg_text(figure)
