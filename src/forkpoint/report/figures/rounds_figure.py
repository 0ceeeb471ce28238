"""The chart of runs of rounds: accuracy, pass@k, diversity and likelihood after each round, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forkpoint.report.figures.drawing import LINES, TEXT, WIDE, legend_above, plain_axes, svg_text
from forkpoint.training.heldout_eval import ks


def rounds_svg(runs: Mapping[str, dict[str, Any]]) -> str:
    """An <svg> element with a line a run, of summaries (of a task's same held-out problems) by the runs' names.

    The same summaries give the same text. At most four runs are told apart.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDE, 6.4), layout="constrained")
    for axes, (name, label, scale) in zip(figure.subplots(3, 2).flat, _panels(runs), strict=True):
        for i, (run, summary) in enumerate(runs.items()):
            color, marker, line = LINES[i % len(LINES)]
            points = [(row["round"], row["held_out"]) for row in summary["results"] if _has(row, name)]
            x, y = [number for number, _ in points], [scale * found[name] for _, found in points]
            ends = [[scale * end for end in found[f"{name}_ci95"]] for _, found in points]
            low, high = [end[0] for end in ends], [end[1] for end in ends]
            axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
            own = {"label": run} if name == "greedy_accuracy" else {}
            axes.plot(x, y, color=color, marker=marker, linestyle=line, lw=1.5, markersize=4, **own)
        axes.set_title(label, fontsize=TEXT, loc="left")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=TEXT)
        plain_axes(axes)
    figure.supxlabel("round", fontsize=TEXT)
    if len(runs) > 1:
        legend_above(figure)
    return svg_text(figure)


def _panels(runs: Mapping[str, dict[str, Any]]) -> list[tuple[str, str, float]]:
    """Of each panel: the figure's name, its title, and what it is multiplied by."""
    n = min(summary["eval_n"] for summary in runs.values())
    k = ks(n)[-1]
    return [
        ("greedy_accuracy", "greedy accuracy (%)", 100),
        ("sampled_accuracy", "sampled accuracy (%)", 100),
        (f"pass@{k}", f"pass@{k} (%)", 100),
        ("distinct_answers", f"different answers of {n}", 1),
        ("distinct_responses", f"different responses of {n}", 1),
        ("correct_logprob", "log-probability, right samples", 1),
    ]


def _has(row: dict[str, Any], name: str) -> bool:
    found = row.get("held_out") or {}
    return found.get(name) is not None and found.get(f"{name}_ci95") is not None
