"""The chart of token dynamics: each class's mean loss over the checkpoints, and its share, drawn by matplotlib."""

from __future__ import annotations

from typing import Any

from forkpoint.report.figures.drawing import LINES, TEXT, WIDE, clipped, legend_above, plain_axes, svg_text
from forkpoint.scores.dynamics import CLASSES

_STYLES = dict(zip(CLASSES, (LINES[3], LINES[1], LINES[0], LINES[2]), strict=True))  # the hues of viewer.css
_LABELS = 8  # checkpoints named below the axis, at most
_LONGEST = 16  # characters of a checkpoint's name


def dynamics_svg(summary: dict[str, Any]) -> str:
    """An <svg> element of a `dynamics_summary` of at least one token; the same summary gives the same text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    shares: dict[str, float] = {name: 100 * (summary["classes"][name]["share"] or 0) for name in CLASSES}
    _draw_losses(left, summary, shares)
    _draw_shares(right, shares)
    for axes in (left, right):
        axes.tick_params(labelsize=TEXT)
        plain_axes(axes)
    legend_above(figure)
    return svg_text(figure)


def _draw_losses(axes: Any, summary: dict[str, Any], shares: dict[str, float]) -> None:
    """A line a class; a class without tokens has none."""
    names = summary["checkpoints"]
    for name, (color, marker, line) in _STYLES.items():
        losses = summary["classes"][name]["mean_loss"]
        if None not in losses:
            label = f"{name} {shares[name]:.1f}%"
            axes.plot(losses, color=color, marker=marker, linestyle=line, lw=1.5, markersize=4, label=label)
    shown = range(0, len(names), -(-len(names) // _LABELS))
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 6 else {}
    axes.set_xticks(shown, [clipped(names[i], _LONGEST) for i in shown], parse_math=False, **slanted)
    axes.set_title("mean loss in nats, by checkpoint", fontsize=TEXT, loc="left")
    axes.set_ylim(bottom=0)


def _draw_shares(axes: Any, shares: dict[str, float]) -> None:
    bars = axes.bar(list(shares), list(shares.values()), color=[_STYLES[name][0] for name in shares], width=0.7)
    axes.bar_label(bars, [f"{share:.1f}%" for share in shares.values()], fontsize=TEXT, padding=2)
    axes.set_title("tokens of each class (%)", fontsize=TEXT, loc="left")
    axes.margins(y=0.12)
    axes.set_axisbelow(True)
