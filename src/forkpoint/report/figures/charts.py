"""Charts by matplotlib, each an <svg> element; the same numbers give the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from forkpoint.jsonl import Row
from forkpoint.report.figures import drawing
from forkpoint.report.figures.drawing import LINES, TEXT, draw_band, draw_line, new_chart
from forkpoint.scores.dynamics import CLASSES
from forkpoint.training.heldout_eval import ks

STRATEGY, CHECKPOINT = 34, 16  # characters of a strategy beside its dot, and of a checkpoint below the axis
TICKS = 8  # checkpoints named below the axis, at most
CLASS_STYLES = dict(zip(CLASSES, (3, 1, 0, 2), strict=True))  # of LINES: the hues of viewer.css
MARKED = 40  # points of a line, at most, that each have a marker
NATS = 0.5  # width of a bin
SHOWN = 0.999  # of the tokens: a few that are far out would take up most of a panel


def accuracy_svg(strategies: Sequence[Row]) -> str:
    """Each strategy of results.json with its accuracy and 95% interval, the first on top."""
    figure, [axes] = new_chart(0.8 + 0.32 * len(strategies))
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
    axes.set_yticks(
        range(len(names)), [drawing.clipped(name, STRATEGY) for name in names], fontsize=TEXT, parse_math=False
    )
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5), xlabel="accuracy (%)")
    axes.grid(axis="y", lw=0)
    axes.grid(axis="x", lw=0.4)
    return drawing.svg_text(figure)


def sweep_svg(results: Row) -> str:
    """Accuracy with its 95% interval against the swept option, a line a strategy."""
    by_spec = {s["strategy"]: s for s in results["strategies"]}
    figure, [axes] = new_chart(3.3)
    for i, line in enumerate(results["sweep"]["lines"]):
        points = [by_spec[spec] for spec in line["specs"]]
        y = [100 * p["accuracy"] for p in points]
        ends = 100 * np.array([p["ci95"] for p in points]).T
        color, _, dashes = LINES[i % len(LINES)]
        axes.errorbar(
            line["values"], y, abs(ends - y), capsize=2, color=color, ls=dashes, marker="os^DvPX*"[i % 8], ms=5,
            lw=1.4, label=line["strategy"],
        )  # fmt: skip
    axes.set(xlabel=results["sweep"]["option"], ylabel="accuracy (%)", ylim=(0, 102))
    return drawing.svg_text(figure, legend=True)


def replacement_svg(table: Sequence[Row]) -> str:
    """Pass@k with and without the critical token replaced, of a `replacement_table` that is not empty."""
    figure, [axes] = new_chart(3.3)
    k = [row["k"] for row in table]
    powers = [2**i for i in range(k[-1].bit_length())]
    for i, (arm, label) in enumerate({"with": "critical token replaced", "without": "not replaced"}.items()):
        draw_band(axes, k, [[100 * end for end in row[f"{arm}_ci95"]] for row in table], i)
        draw_line(axes, k, [100 * row[arm] for row in table], i, markevery=[p - 1 for p in powers], label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(powers, [str(p) for p in powers])
    axes.set(xlabel="k", ylabel="pass@k (%)", ylim=(-2, 102))
    return drawing.svg_text(figure, legend=True)


def ratios_svg(lines: Mapping[str, Sequence[tuple[float, float]]], every_token: Mapping[str, float]) -> str:
    """Points (ratio, held-out loss in nats) by the line's name, and losses of training on all tokens.

    At most four lines are told apart.
    """
    figure, [axes] = new_chart(3.3)
    for i, (name, points) in enumerate(lines.items()):
        ratios, losses = zip(*sorted(points), strict=True)
        draw_line(axes, [100 * ratio for ratio in ratios], losses, i, ms=5, label=name)
    for i, (name, loss) in enumerate(every_token.items()):
        axes.axhline(loss, color="#1a1a1a", lw=1, ls=("--", ":")[i % 2], zorder=1, label=f"{name}, all tokens")
    axes.set(xlabel="share of the tokens that is trained on (%)", ylabel="held-out loss (nats)")
    axes.margins(y=0.12)
    return drawing.svg_text(figure, legend=True)


def rounds_svg(runs: Mapping[str, Row]) -> str:
    """Accuracy, pass@k, diversity and likelihood after each round, a line a run, of summaries by the runs' names.

    The summaries are of a task's same held-out problems. At most four runs are told apart.
    """
    n = min(summary["eval_n"] for summary in runs.values())
    k = ks(n)[-1]
    scales = {  # and titles
        "greedy_accuracy": (100, "greedy accuracy (%)"), "sampled_accuracy": (100, "sampled accuracy (%)"),
        f"pass@{k}": (100, f"pass@{k} (%)"), "distinct_answers": (1, f"different answers of {n}"),
        "distinct_responses": (1, f"different responses of {n}"),
        "correct_logprob": (1, "log-probability, right samples"),
    }  # fmt: skip
    figure, panels = new_chart(6.4, 3, 2)
    for axes, (name, (scale, title)) in zip(panels, scales.items(), strict=True):
        for i, (run, summary) in enumerate(runs.items()):
            rows = [row | (row.get("held_out") or {}) for row in summary["results"]]
            rows = [row for row in rows if row.get(name) is not None and row.get(f"{name}_ci95") is not None]
            x = [row["round"] for row in rows]
            draw_band(axes, x, [[scale * end for end in row[f"{name}_ci95"]] for row in rows], i)
            draw_line(axes, x, [scale * row[name] for row in rows], i, label=run)
        axes.set_title(title, fontsize=TEXT, loc="left")
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.supxlabel("round", fontsize=TEXT)
    return drawing.svg_text(figure, legend=len(runs) > 1)


def dynamics_svg(summary: Row) -> str:
    """Each class's mean loss over the checkpoints, and its share, of a `dynamics_summary` of at least one token."""
    figure, [left, right] = new_chart(3.4, 1, 2, width_ratios=(2, 1))
    classes, checkpoints = summary["classes"], summary["checkpoints"]
    shares = {name: 100 * (classes[name]["share"] or 0) for name in CLASSES}
    for name, style in CLASS_STYLES.items():
        if None not in classes[name]["mean_loss"]:  # as of a class without tokens
            losses = classes[name]["mean_loss"]
            draw_line(left, range(len(losses)), losses, style, label=f"{name} {shares[name]:.1f}%")
    named = range(0, len(checkpoints), -(-len(checkpoints) // TICKS))
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, checkpoints)) > 6 else {}
    left.set_xticks(named, [drawing.clipped(checkpoints[i], CHECKPOINT) for i in named], parse_math=False, **slanted)
    left.set_title("mean loss in nats, by checkpoint", fontsize=TEXT, loc="left")
    left.set_ylim(bottom=0)
    bars = right.bar(shares.keys(), shares.values(), color=[LINES[CLASS_STYLES[name]][0] for name in shares], width=0.7)
    right.bar_label(bars, [f"{share:.1f}%" for share in shares.values()], fontsize=TEXT, padding=2)
    right.set_title("tokens of each class (%)", fontsize=TEXT, loc="left")
    right.margins(y=0.12)
    right.set_axisbelow(True)
    return drawing.svg_text(figure, legend=True)


@dataclass(frozen=True, slots=True)
class MetricLine:
    """A line: a value at each step. `style` is its place in LINES; what is `held_out` is dotted, with open markers.

    One with `ends` is the ground between two values, (low, high), at each step.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[float] = ()
    style: int = 0
    held_out: bool = False
    ends: Sequence[tuple[float, float]] = ()


def curves_svg(
    curves: Sequence[MetricLine], label: str, across: str = "step", limits: tuple[float, float] | None = None
) -> str:
    """Numbers against the training step: losses, rewards, log-probabilities.

    `label` says what is measured, `across` what the steps are, `limits` where the vertical axis ends, if not with the
    values.
    """
    figure, [axes] = new_chart(3.2)
    for curve in curves:
        look: dict[str, Any] = {"label": curve.label}
        if curve.ends:
            draw_band(axes, curve.steps, curve.ends, curve.style, **look)
            continue
        if curve.held_out:
            look |= {"ls": (0, (1, 2)), "mfc": "white", "ms": 6}
        elif len(curve.steps) > MARKED:
            look["marker"] = ""
        draw_line(axes, curve.steps, curve.values, curve.style, **look)
    axes.set_title(label, fontsize=TEXT, loc="left")
    axes.set_xlabel(across, fontsize=TEXT)
    axes.locator_params(axis="x", integer=True)
    if limits:
        axes.set_ylim(*limits)
    return drawing.svg_text(figure, legend=len(curves) > 1)


def distribution_svg(scores: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]]) -> str:
    """For each score, in nats, by its name, the distribution over groups of tokens by theirs; no group is empty.

    Each line is the share of the group's tokens in bins of half a nat, as far as 99.9% of all tokens go.
    """
    groups = len(next(iter(scores.values())))
    figure, panels = new_chart(3.2 if groups > 1 else 2.9, 1, len(scores), sharey=True)
    for axes, (name, lines) in zip(panels, scores.items(), strict=True):
        every = np.concatenate(list(lines.values()))
        edges = np.arange(0, np.quantile(every, SHOWN, method="inverted_cdf") + 2 * NATS, NATS)
        for (group, values), (color, _, dashes) in zip(lines.items(), LINES, strict=False):
            shares = 100 * np.histogram(values, edges)[0] / len(values)
            axes.stairs(shares, edges, color=color, lw=0, fill=True, alpha=0.15)
            axes.stairs(shares, edges, color=color, lw=1.4, ls=dashes, label=group)
        axes.set(xlabel=f"{name} (nats)", xlim=(0, edges[-1]))
        axes.set_axisbelow(True)
    panels[0].set(ylabel="share of the tokens (%)")
    panels[0].set_ylim(bottom=0)  # of both, once all is drawn
    return drawing.svg_text(figure, legend=groups > 1)
