"""The figures of a `forkpoint logits` run, for one column of a paper, drawn by matplotlib from the run's own tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from forkpoint.evaluation.logit_study import DISTANCE, HISTOGRAM, KEPT, SORTED, SUMMARY, Table, read_table
from forkpoint.files import read_json, whole_file, write_whole
from forkpoint.jsonl import Row
from forkpoint.report.figures.drawing import legend_above, plain_axes, saved, svg_text
from forkpoint.sampling.analysis import parse_sampler
from forkpoint.types import UserError

COLUMN = 3.3  # inches, one column of a paper in two
DPI = 400
LEGEND_LINE = 0.13  # inches that each line of a legend adds to a figure
# Told apart with any colour blindness (at least 18 apart in CIELAB under Machado's simulations), and by shape in grey.
LINES = (
    ("#1b6ca8", "o", "-"), ("#d98c2b", "s", "--"), ("#004d40", "^", "-."), ("#c94f7c", "D", ":"),
    ("#56b4e9", "v", "-"), ("#332288", "P", "--"), ("#1a1a1a", "X", "-."), ("#661100", "*", ":"),
)  # fmt: skip
_BULK, _KEPT, _MEAN, _FAINT, _ACCENT = "#b9cbdb", "#1b6ca8", "#1a1a1a", "#d9d9d9", "#d98c2b"
_MARKS = {"first": ("o", "first"), "uncertain": ("^", "most uncertain"), "certain": ("s", "most certain")}
_NAMES = {  # others are written with hyphens
    "top_n_sigma": "top-nσ", "min_p_first": "min-p before T", "top_h": "top-H", "typical_p": "typical",
    "epsilon_cutoff": "epsilon", "eta_cutoff": "eta",
}  # fmt: skip
STYLE = {
    "font.size": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "legend.fontsize": 6.5,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5, "legend.handlelength": 2.8, "legend.columnspacing": 1.2, "legend.handletextpad": 0.5,
    "axes.grid.axis": "y", "grid.color": _FAINT,
}  # fmt: skip


def check_drawable(samplers: Sequence[str]) -> None:
    """UserError for more samplers than one figure can tell apart."""
    if len(samplers) > len(LINES):
        raise UserError(f"a figure tells at most {len(LINES)} samplers apart, but {len(samplers)} were given")


def draw_logits(run: Path) -> list[Path]:
    """Write every figure of a finished run beside its tables, as SVG and PNG (400 dpi); returns the files."""
    written = []
    for name, draw in logits_figures(run).items():
        with mpl.rc_context(STYLE):
            figure = draw()
            written += [run / f"{name}.svg", run / f"{name}.png"]
            write_whole(written[-2], svg_text(figure) + "\n")
            with whole_file(written[-1]) as file:
                file.write(saved(figure, "png", DPI))
    return written


def logits_svg(run: Path, name: str) -> str:
    """One of a finished run's figures as an <svg> element; the same tables give the same text."""
    with mpl.rc_context(STYLE):
        return svg_text(logits_figures(run)[name]())


def logits_figures(run: Path) -> dict[str, Callable[[], Figure]]:
    """What draws each figure of a run: kept, distance, and for each chosen position histogram-P and sorted-P."""
    summary = read_json(run / SUMMARY)
    chosen, samplers = summary["chosen"], summary["samplers"]
    sigmas = [n for spec in samplers if (n := parse_sampler(spec).top_n_sigma) > 0] or [1.0]
    figures: dict[str, Callable[[], Figure]] = {
        "kept": lambda: kept_figure(read_table(run / KEPT), summary["vocabulary"]),
        "distance": lambda: distance_figure(read_table(run / DISTANCE), chosen),
    }

    def rows(table: str, one: Row) -> Table:
        return [row for row in read_table(run / table) if row["position"] == one["position"]]

    def histogram(one: Row) -> Figure:
        return histogram_figure(rows(HISTOGRAM, one), one, sigmas)

    def candidates(one: Row) -> Figure:
        return sorted_figure(rows(SORTED, one), samplers)

    for one in chosen:
        figures[f"histogram-{one['position']}"] = partial(histogram, one)
        figures[f"sorted-{one['position']}"] = partial(candidates, one)
    return figures


def _panels(height: float, rows: int = 1, **layout: Any) -> tuple[Figure, list[Any]]:
    """A figure of one column's width and its panels; the first one has lines across, beneath what it shows."""
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    panels = [*figure.subplots(rows, squeeze=False, **layout).flat]
    plain_axes(panels[0])
    panels[0].set_axisbelow(True)
    return figure, panels


def _counted(axes: Any) -> None:
    """A logarithmic axis that writes counts."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()


def histogram_figure(table: Table, facts: Row, sigmas: Sequence[float]) -> Figure:
    """One step's logits with their mean, maximum and the lines of top-nσ; `facts` holds maximum, mean and sigma."""
    maximum, mean, sigma = facts["maximum"], facts["mean"], facts["sigma"]
    figure, [axes] = _panels(2.1)
    low, counts = [row["low"] for row in table], [row["count"] for row in table]
    widths = [row["high"] - row["low"] for row in table]
    axes.bar(low, counts, widths, align="edge", color=_BULK, edgecolor="white", lw=0.3, zorder=2)
    axes.axvline(mean, color=_MEAN, lw=1, zorder=3, label=f"mean = {_number(mean)}")
    for n, (_, _, dashes) in zip(sorted(set(sigmas)), LINES[1:], strict=False):
        label = f"M − {'' if n == 1 else f'{n:g}'}σ = {_number(maximum - n * sigma)}"
        axes.axvline(maximum - n * sigma, color=_ACCENT, lw=1.2, ls=dashes, zorder=3, label=label)
    axes.axvline(maximum, color=_KEPT, lw=1.2, zorder=3, label=f"maximum M = {_number(maximum)}")
    _counted(axes)
    axes.set(xlabel="logit", ylabel="tokens", ylim=(0.6, 1.6 * max(counts)))
    if sigma > 0:
        _sigma_axis(axes, maximum, sigma)
    legend_above(figure, LEGEND_LINE, handlelength=2, columnspacing=0.9)
    return figure


def _sigma_axis(axes: Any, maximum: float, sigma: float) -> None:
    """The same axis above the bars, in σ below the maximum, with a thin line down from each of its ticks."""
    above = axes.secondary_xaxis("top", functions=(lambda x: (maximum - x) / sigma, lambda d: maximum - d * sigma))
    above.set_xlabel("below the maximum (σ)")
    low, _ = axes.get_xlim()
    ticks = MaxNLocator(8, integer=True).tick_values(0, (maximum - low) / sigma)
    inside = [t for t in ticks if 0 <= t <= (maximum - low) / sigma]
    above.set_xticks(inside)
    for tick in inside:
        axes.axvline(maximum - tick * sigma, color=_FAINT, lw=0.4, zorder=0)


def sorted_figure(table: Table, samplers: Sequence[str]) -> Figure:
    """The most probable tokens with their probabilities, and which of them each sampler keeps at temperature 1."""
    below = 0.13 * len(samplers)
    figure, [upper, lower] = _panels(2.1 + below, 2, sharex=True, height_ratios=(1.45, below))
    ranks, probabilities = ([row[name] for row in table] for name in ("rank", "probability"))
    upper.vlines(ranks, min(probabilities) / 3, probabilities, color=_BULK, lw=1)
    upper.plot(ranks, probabilities, "o", color=_KEPT, ms=3)
    ring: dict[str, Any] = {"mfc": "none", "mec": _ACCENT, "mew": 1.2, "ms": 6.5, "ls": "none"}
    for row in table:
        if row["taken"]:
            upper.plot([row["rank"]], [row["probability"]], "o", label="token of the response", **ring)
    upper.set(yscale="log", ylabel="probability", ylim=(min(probabilities) / 3, 2))
    upper.yaxis.set_major_locator(LogLocator(numticks=6))
    upper.minorticks_off()
    upper.tick_params(bottom=False)
    for y, spec in enumerate(samplers):
        for kept, fill, edge in ((True, _KEPT, _KEPT), (False, "none", _BULK)):
            x = [row["rank"] for row in table if bool(row[spec]) == kept]
            lower.plot(x, [y] * len(x), "s", mfc=fill, mec=edge, mew=0.5, ms=4)
    lower.set_yticks(range(len(samplers)), [sampler_label(spec) for spec in samplers])
    lower.set(ylim=(len(samplers) - 0.4, -0.6), xlim=(0.3, len(ranks) + 0.7))
    texts = [token_label(row["token"], int(row["token_id"])) for row in table]
    lower.set_xticks(ranks, texts, rotation=90, parse_math=False)
    lower.tick_params(length=0)
    lower.spines[:].set_visible(False)
    lower.set_xlabel("most probable tokens (filled: kept at T = 1)")
    legend_above(figure, LEGEND_LINE)
    return figure


def kept_figure(table: Table, vocabulary: int) -> Figure:
    """The mean number of tokens that each sampler keeps, against the temperature, and the vocabulary's size."""
    figure, [axes] = _panels(2.1)
    samplers = list(dict.fromkeys(row["sampler"] for row in table))
    for i, (spec, (color, marker, dashes)) in enumerate(zip(samplers, LINES, strict=False)):
        rows = [row for row in table if row["sampler"] == spec]
        x, y = [row["temperature"] for row in rows], [row["mean"] for row in rows]
        under = 1 - i / len(samplers)  # the first is the widest and lowest, so that lines that coincide all show
        style: dict[str, Any] = {"color": color, "marker": marker, "ls": dashes, "mew": 0.4, "mec": "white"}
        axes.plot(x, y, lw=0.8 + 1.8 * under, ms=2.6 + 3 * under, label=sampler_label(spec), **style)
    axes.axhline(vocabulary, color="#7f7f7f", lw=0.8, zorder=1, label=f"vocabulary, {vocabulary:,}")
    temperatures = sorted({row["temperature"] for row in table})
    if len(temperatures) == 1:
        axes.set_xticks(temperatures)
    _counted(axes)
    ylabel = "tokens kept (mean)" if table[0]["positions"] > 1 else "tokens kept"
    axes.set(xlabel="temperature", ylabel=ylabel, ylim=(0.85, 1.3 * vocabulary))
    legend_above(figure, LEGEND_LINE)
    return figure


def distance_figure(table: Table, chosen: Sequence[Row]) -> Figure:
    """The maximum's distance from the mean along each response, the chosen positions of the first one marked."""
    figure, [axes] = _panels(1.9)
    names = list(dict.fromkeys(row["problem_id"] for row in table))
    for name in names:
        rows = [row for row in table if row["problem_id"] == name]
        color, width, order = (_KEPT, 1, 3) if name == names[0] else (_BULK, 0.7, 2)
        at, distances = [row["position"] for row in rows], [row["distance"] for row in rows]
        axes.plot(at, distances, color=color, lw=width, zorder=order)
    mean = sum(row["distance"] for row in table) / len(table)
    axes.axhline(mean, color=_MEAN, lw=0.8, ls="--", zorder=2.5, label=f"mean = {mean:.1f}")
    style: dict[str, Any] = {"color": _ACCENT, "mec": "white", "mew": 0.5, "ms": 5, "zorder": 4}
    for one in chosen:
        marker, label = _MARKS[one["named"][0]] if one["named"] else ("D", f"position {one['position']}")
        axes.plot([one["position"]], [one["distance"]], marker, label=label if len(chosen) <= 5 else None, **style)
    axes.set(xlabel="position in the response (tokens)", ylabel="(maximum − mean) / σ")
    axes.set_ylim(0, 1.06 * max(row["distance"] for row in table) or 1)
    last = max(row["position"] for row in table)
    margin = max(0.5, 0.03 * last)
    axes.set_xlim(-margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    legend_above(figure, LEGEND_LINE, handlelength=1.6, columnspacing=1)
    return figure


def sampler_label(spec: str) -> str:
    """A sampler as figures name it: "top_k=50,top_p=0.9" is "top-k 50, top-p 0.9"."""
    parts = []
    for part in spec.split(","):
        name, _, value = (s.strip() for s in part.partition("="))
        shown = _NAMES.get(name, name.replace("_", "-"))
        parts.append(shown if name == "p_less" else f"{shown} {float(value):g}")
    return ", ".join(parts)


def token_label(text: str, token_id: int, longest: int = 10) -> str:
    """A token as a tick: spaces and line ends visible, long ones cut, and its id where the font cannot show it."""
    visible = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    glyphs = get_font(findfont(FontProperties()))
    if not visible.isprintable() or not all(glyphs.get_char_index(ord(c)) for c in visible):
        return f"#{token_id}"
    return visible if len(visible) <= longest else visible[: longest - 1] + "…"


def _number(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")
