"""The replacement experiment's chart: pass@k with and without the critical token replaced, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkpoint.report.figures.drawing import LINES, TEXT, WIDTH, legend_above, plain_axes, svg_text

_LABELS = {"with": "critical token replaced", "without": "not replaced"}


def replacement_svg(table: Sequence[dict[str, Any]]) -> str:
    """The chart of a `replacement_table` (not empty) as an <svg> element; the same table gives the same text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    axes = figure.subplots()
    k = [row["k"] for row in table]
    powers = [2**i for i in range(k[-1].bit_length())]
    for (color, marker, dashes), (arm, label) in zip(LINES, _LABELS.items(), strict=False):
        look: dict[str, Any] = {"color": color, "marker": marker, "linestyle": dashes, "lw": 1.6, "markersize": 4}
        low, high = ([100 * row[f"{arm}_ci95"][side] for row in table] for side in (0, 1))
        axes.fill_between(k, low, high, color=color, alpha=0.2, lw=0)
        axes.plot(k, [100 * row[arm] for row in table], markevery=[p - 1 for p in powers], label=label, **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks(powers, [str(p) for p in powers])
    axes.set(xlabel="k", ylabel="pass@k (%)", ylim=(-2, 102))
    axes.tick_params(labelsize=TEXT)
    plain_axes(axes)
    legend_above(figure)
    return svg_text(figure)
