"""The chart of scores' distributions over tokens: a panel a score, a stepped line a group of tokens, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float16, Int64

from forkpoint.report.figures.drawing import LINES, TEXT, WIDE, legend_above, plain_axes, svg_text

Counts = Int64[np.ndarray, "65536"]  # of every float16, by its bits
ALL = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)  # the values that are counted
NATS = 0.5  # width of a bin
SHOWN = 0.999  # of the tokens: a few that are far out would take up most of a panel


def counts_of(values: Float16[np.ndarray, " n"]) -> Counts:
    """How often each float16 is among the values; NaN counts for nothing."""
    found: Counts = np.bincount(values[np.isfinite(values)].view(np.uint16), minlength=2**16)
    return found


def distribution_svg(scores: Mapping[str, Mapping[str, Counts]]) -> str:
    """An <svg> element: for each score, in nats, by its name, groups of tokens by theirs; none of the groups is empty.

    Each line is the share of the group's tokens in bins of half a nat, as far as 99.9% of all tokens go. The same
    counts give the same text.
    """
    from matplotlib.figure import Figure

    groups = len(next(iter(scores.values())))
    figure = Figure(figsize=(WIDE, 3.2 if groups > 1 else 2.9), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False, sharey=True)[0]
    for axes, (name, lines) in zip(panels, scores.items(), strict=True):
        edges = _edges(np.sum(list(lines.values()), axis=0))
        for (group, counts), (color, _, dashes) in zip(lines.items(), LINES, strict=False):
            found, _ = np.histogram(ALL, edges, weights=counts)
            shares = 100 * found / counts.sum()
            axes.stairs(shares, edges, color=color, lw=0, fill=True, alpha=0.15)
            axes.stairs(shares, edges, color=color, lw=1.4, ls=dashes, label=group)
        axes.set(xlabel=f"{name} (nats)", xlim=(0, edges[-1]))
        axes.tick_params(labelsize=TEXT)
        plain_axes(axes)
        axes.set_axisbelow(True)
    panels[0].set(ylabel="share of the tokens (%)")
    panels[0].set_ylim(bottom=0)  # of both, once all is drawn
    if groups > 1:
        legend_above(figure)
    return svg_text(figure)


def _edges(counts: Counts) -> np.ndarray:
    """The ends of the bins, from 0."""
    ends = counts[: len(ALL) // 2].cumsum()  # of the numbers that are not negative, which grow with their bits
    last = ALL[np.searchsorted(ends, SHOWN * ends[-1])]
    return np.arange(0, last + 2 * NATS, NATS)
