"""Charts as SVG text, drawn by matplotlib."""

from __future__ import annotations

from typing import Any

from forkpoint.report.drawing import plain_axes, svg_text


def sweep_figure(results: dict[str, Any]) -> str:
    """Accuracy with its 95% interval against the swept option, a line a strategy; an <svg> element."""
    from matplotlib.figure import Figure

    by_spec = {s["strategy"]: s for s in results["strategies"]}
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for line, marker in zip(results["sweep"]["lines"], "osD^vPX*" * len(results["sweep"]["lines"]), strict=False):
        points = [by_spec[spec] for spec in line["specs"]]
        y = [100 * p["accuracy"] for p in points]
        below = [v - 100 * p["ci95"][0] for v, p in zip(y, points, strict=True)]
        above = [100 * p["ci95"][1] - v for v, p in zip(y, points, strict=True)]
        axes.errorbar(line["values"], y, [below, above], marker=marker, capsize=2, lw=1.4, label=line["strategy"])
    axes.set(xlabel=results["sweep"]["option"], ylabel="accuracy (%)", ylim=(0, 102))
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)
