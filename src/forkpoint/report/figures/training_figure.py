"""The chart of numbers against the training step: losses, rewards, log-probabilities, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forkpoint.report.figures.drawing import LINES, TEXT, WIDTH, legend_above, plain_axes, svg_text

_MARKED = 40  # points of a line, at most, that each have a marker


@dataclass(frozen=True, slots=True)
class MetricLine:
    """A line: a value at each step. `style` is its place in LINES; what is `held_out` is dotted, with open markers."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    style: int = 0
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """The ground between two values at each step."""

    label: str
    steps: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def curves_svg(
    curves: Sequence[MetricLine],
    label: str,
    *,
    across: str = "step",
    limits: tuple[float, float] | None = None,
    band: Band | None = None,
) -> str:
    """An <svg> element with the curves; the same curves give the same text.

    `label` says what is measured, `across` what the steps are, `limits` where the vertical axis ends, if not with the
    values.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    if band:
        axes.fill_between(band.steps, band.low, band.high, color=LINES[0][0], alpha=0.18, lw=0, label=band.label)
    for curve in curves:
        _draw(axes, curve)
    axes.set_title(label, fontsize=TEXT, loc="left")
    axes.set_xlabel(across, fontsize=TEXT)
    axes.locator_params(axis="x", integer=True)
    axes.tick_params(labelsize=TEXT)
    if limits:
        axes.set_ylim(*limits)
    plain_axes(axes)
    if len(curves) + (band is not None) > 1:
        legend_above(figure)
    return svg_text(figure)


def _draw(axes: Any, curve: MetricLine) -> None:
    color, marker, line = LINES[curve.style]
    if curve.held_out:
        look = {"linestyle": (0, (1, 2)), "markerfacecolor": "white", "markersize": 6}
    else:
        look = {"linestyle": line, "markersize": 4}
        marker = marker if len(curve.steps) <= _MARKED else ""
    axes.plot(curve.steps, curve.values, color=color, marker=marker, lw=1.5, label=curve.label, **look)
