"""The chart of a sweep: accuracy against the swept option, drawn by matplotlib."""

from __future__ import annotations

from typing import Any

from forkpoint.report.figures.drawing import LINES, TEXT, WIDTH, legend_above, plain_axes, svg_text

_MARKERS = "os^DvPX*"


def sweep_svg(results: dict[str, Any]) -> str:
    """Accuracy with its 95% interval against the swept option, a line a strategy; an <svg> element."""
    from matplotlib.figure import Figure

    by_spec = {s["strategy"]: s for s in results["strategies"]}
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    axes = figure.subplots()
    for i, line in enumerate(results["sweep"]["lines"]):
        color, _, dashes = LINES[i % len(LINES)]
        points = [by_spec[spec] for spec in line["specs"]]
        y = [100 * p["accuracy"] for p in points]
        below = [v - 100 * p["ci95"][0] for v, p in zip(y, points, strict=True)]
        above = [100 * p["ci95"][1] - v for v, p in zip(y, points, strict=True)]
        look: dict[str, Any] = {
            "color": color,
            "linestyle": dashes,
            "marker": _MARKERS[i % len(_MARKERS)],
            "markersize": 5,
            "lw": 1.4,
        }
        axes.errorbar(line["values"], y, [below, above], capsize=2, label=line["strategy"], **look)
    axes.set(xlabel=results["sweep"]["option"], ylabel="accuracy (%)", ylim=(0, 102))
    axes.tick_params(labelsize=TEXT)
    plain_axes(axes)
    legend_above(figure)
    return svg_text(figure)
