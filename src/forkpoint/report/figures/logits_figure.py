"""The figures of a `forkpoint logits` run, for one column of a paper, drawn by matplotlib from the run's own tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from forkpoint.evaluation.logit_study import DISTANCE, HISTOGRAM, KEPT, SORTED, SUMMARY, Table, read_table
from forkpoint.files import read_json, whole_file, write_whole
from forkpoint.report.figures.drawing import plain_axes, saved, svg_text
from forkpoint.sampling.analysis import parse_sampler
from forkpoint.types import UserError

COLUMN = 3.3  # inches, one column of a paper in two
DPI = 400
_LEGEND_LINE = 0.13  # inches that each line of a legend adds to a figure
# Told apart with any colour blindness (at least 18 apart in CIELAB under Machado's simulations), and by shape in grey.
LINES = (
    ("#1b6ca8", "o", "-"), ("#d98c2b", "s", "--"), ("#004d40", "^", "-."), ("#c94f7c", "D", ":"),
    ("#56b4e9", "v", "-"), ("#332288", "P", "--"), ("#1a1a1a", "X", "-."), ("#661100", "*", ":"),
)  # fmt: skip
_BULK, _KEPT, _MEAN, _FAINT = "#b9cbdb", "#1b6ca8", "#1a1a1a", "#d9d9d9"
_MARKS = {"first": ("o", "first"), "uncertain": ("^", "most uncertain"), "certain": ("s", "most certain")}
_NAMES = {
    "top_n_sigma": "top-nσ", "min_p_first": "min-p before T", "p_less": "p-less", "min_k": "min-k", "top_k": "top-k",
    "top_p": "top-p", "min_p": "min-p", "top_h": "top-H", "typical_p": "typical", "epsilon_cutoff": "epsilon",
    "eta_cutoff": "eta",
}  # fmt: skip
_STYLE = {
    "font.size": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "legend.fontsize": 6.5,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5, "legend.handlelength": 2.8, "legend.columnspacing": 1.2, "legend.handletextpad": 0.5,
    "legend.frameon": False, "axes.grid.axis": "y", "grid.color": _FAINT,
}  # fmt: skip


def draw_logits(run: Path) -> list[Path]:
    """Write every figure of a finished run beside its tables, as SVG and PNG (400 dpi); returns the files."""
    written = []
    for name in figure_names(read_json(run / SUMMARY)):
        figure = _figure(run, name)
        with mpl.rc_context(_STYLE):
            written += [run / f"{name}.svg", run / f"{name}.png"]
            write_whole(written[-2], svg_text(figure) + "\n")
            with whole_file(written[-1]) as file:
                file.write(saved(figure, "png", DPI))
    return written


def figure_names(summary: Mapping[str, Any]) -> list[str]:
    """The names of a run's figures: kept, distance, and for each chosen position histogram-P and sorted-P."""
    chosen = [one["position"] for one in summary["chosen"]]
    return ["kept", "distance", *(f"{kind}-{position}" for position in chosen for kind in ("histogram", "sorted"))]


def logits_svg(run: Path, name: str) -> str:
    """One of a finished run's figures as an <svg> element; the same tables give the same text."""
    figure = _figure(run, name)
    with mpl.rc_context(_STYLE):
        return svg_text(figure)


def _figure(run: Path, name: str) -> Figure:
    """The figure of that name, from the run's tables."""
    summary = read_json(run / SUMMARY)
    kind, _, at = name.partition("-")
    with mpl.rc_context(_STYLE):
        if kind == "kept":
            return kept_figure(read_table(run / KEPT), summary["vocabulary"])
        if kind == "distance":
            return distance_figure(read_table(run / DISTANCE), summary["chosen"])
        position = int(at)
        if kind == "sorted":
            return sorted_figure(_by_position(read_table(run / SORTED))[position], summary["samplers"])
        one = next(one for one in summary["chosen"] if one["position"] == position)
        sigmas = [n for spec in summary["samplers"] if (n := parse_sampler(spec).top_n_sigma) > 0]
        return histogram_figure(_by_position(read_table(run / HISTOGRAM))[position], one, sigmas or [1.0])


def check_drawable(samplers: Sequence[str]) -> None:
    """UserError for more samplers than one figure can tell apart."""
    if len(samplers) > len(LINES):
        raise UserError(f"a figure tells at most {len(LINES)} samplers apart, but {len(samplers)} were given")


def histogram_figure(table: Table, facts: Mapping[str, Any], sigmas: Sequence[float]) -> Figure:
    """One step's logits with their mean, maximum and the lines of top-nσ; `facts` holds maximum, mean and sigma."""
    maximum, mean, sigma = facts["maximum"], facts["mean"], facts["sigma"]
    figure = Figure(figsize=(COLUMN, 2.1), layout="constrained")
    axes = figure.subplots()
    low, high = ([row[end] for row in table] for end in ("low", "high"))
    counts, widths = [row["count"] for row in table], [h - b for b, h in zip(low, high, strict=True)]
    axes.bar(low, counts, widths, align="edge", color=_BULK, edgecolor="white", lw=0.3, zorder=2)
    axes.axvline(mean, color=_MEAN, lw=1, zorder=3, label=f"mean = {_number(mean)}")
    for n, (_, _, dashes) in zip(sorted(set(sigmas)), LINES[1:], strict=False):
        label = f"M − {'' if n == 1 else f'{n:g}'}σ = {_number(maximum - n * sigma)}"
        axes.axvline(maximum - n * sigma, color=LINES[1][0], lw=1.2, ls=dashes, zorder=3, label=label)
    axes.axvline(maximum, color=_KEPT, lw=1.2, zorder=3, label=f"maximum M = {_number(maximum)}")
    axes.set(xlabel="logit", ylabel="tokens", yscale="log", ylim=(0.6, 1.6 * max(counts)))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.minorticks_off()
    plain_axes(axes)
    axes.set_axisbelow(True)
    if sigma > 0:
        _sigma_axis(axes, maximum, sigma)
    _legend_above(figure, handlelength=2, columnspacing=0.9)
    return figure


def _sigma_axis(axes: Any, maximum: float, sigma: float) -> None:
    """The same axis above the bars, in σ below the maximum, with a thin line down from each of its ticks."""
    above = axes.secondary_xaxis("top", functions=(lambda x: (maximum - x) / sigma, lambda d: maximum - d * sigma))
    above.set_xlabel("below the maximum (σ)")
    low, high = axes.get_xlim()
    ticks = MaxNLocator(8, integer=True).tick_values(0, (maximum - low) / sigma)
    inside = [t for t in ticks if t >= 0 and low <= maximum - t * sigma <= high]
    above.set_xticks(inside)
    for tick in inside:
        axes.axvline(maximum - tick * sigma, color=_FAINT, lw=0.4, zorder=0)


def sorted_figure(table: Table, samplers: Sequence[str]) -> Figure:
    """The most probable tokens with their probabilities, and which of them each sampler keeps at temperature 1."""
    figure = Figure(figsize=(COLUMN, 2.1 + 0.13 * len(samplers)), layout="constrained")
    ratios = (1.45, 0.13 * len(samplers))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    ranks, probabilities = ([row[name] for row in table] for name in ("rank", "probability"))
    upper.vlines(ranks, min(probabilities) / 3, probabilities, color=_BULK, lw=1)
    upper.plot(ranks, probabilities, "o", color=_KEPT, ms=3)
    ring: dict[str, Any] = {"mfc": "none", "mec": LINES[1][0], "mew": 1.2, "ms": 6.5, "ls": "none"}
    for row in table:
        if row["taken"]:
            upper.plot([row["rank"]], [row["probability"]], "o", label="token of the response", **ring)
    upper.set(yscale="log", ylabel="probability", ylim=(min(probabilities) / 3, 2))
    upper.yaxis.set_major_locator(LogLocator(numticks=6))
    upper.minorticks_off()
    upper.tick_params(bottom=False)
    plain_axes(upper)
    upper.set_axisbelow(True)
    for line, spec in enumerate(samplers):
        for full in (True, False):
            at = [row["rank"] for row in table if bool(row[spec]) == full]
            lower.plot(
                at, [line] * len(at), "s", mfc=_KEPT if full else "none", mec=_KEPT if full else _BULK, mew=0.5, ms=4
            )
    lower.set_yticks(range(len(samplers)), [sampler_label(spec) for spec in samplers])
    lower.set(ylim=(len(samplers) - 0.4, -0.6), xlim=(0.3, len(ranks) + 0.7))
    texts = [token_label(row["token"], int(row["token_id"])) for row in table]
    lower.set_xticks(ranks, texts, rotation=90, parse_math=False)
    lower.tick_params(length=0)
    lower.spines[:].set_visible(False)
    lower.set_xlabel("most probable tokens (filled: kept at T = 1)")
    _legend_above(figure)
    return figure


def kept_figure(table: Table, vocabulary: int) -> Figure:
    """The mean number of tokens that each sampler keeps, against the temperature, and the vocabulary's size."""
    figure = Figure(figsize=(COLUMN, 2.1), layout="constrained")
    axes = figure.subplots()
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
    positions = int(table[0]["positions"])
    axes.set(
        xlabel="temperature",
        ylabel="tokens kept (mean)" if positions > 1 else "tokens kept",
        yscale="log",
        ylim=(0.85, 1.3 * vocabulary),
    )
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.minorticks_off()
    plain_axes(axes)
    axes.set_axisbelow(True)
    _legend_above(figure)
    return figure


def distance_figure(table: Table, chosen: Sequence[Mapping[str, Any]]) -> Figure:
    """The maximum's distance from the mean along each response, the chosen positions of the first one marked."""
    figure = Figure(figsize=(COLUMN, 1.9), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(row["problem_id"] for row in table))
    for name in names:
        rows = [row for row in table if row["problem_id"] == name]
        first = name == names[0]
        at, distance = [row["position"] for row in rows], [row["distance"] for row in rows]
        axes.plot(at, distance, color=_KEPT if first else _BULK, lw=1 if first else 0.7, zorder=3 if first else 2)
    mean = sum(row["distance"] for row in table) / len(table)
    axes.axhline(mean, color=_MEAN, lw=0.8, ls="--", zorder=2.5, label=f"mean = {mean:.1f}")
    for one in chosen:
        marker, label = _MARKS[one["named"][0]] if one["named"] else ("D", f"position {one['position']}")
        style: dict[str, Any] = {"color": LINES[1][0], "mec": "white", "mew": 0.5, "ms": 5, "zorder": 4}
        axes.plot([one["position"]], [one["distance"]], marker, label=label if len(chosen) <= 5 else None, **style)
    axes.set(xlabel="position in the response (tokens)", ylabel="(maximum − mean) / σ")
    axes.set_ylim(0, 1.06 * max(row["distance"] for row in table) or 1)
    last = max(row["position"] for row in table)
    margin = max(0.5, 0.03 * last)
    axes.set_xlim(-margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    plain_axes(axes)
    axes.set_axisbelow(True)
    _legend_above(figure, handlelength=1.6, columnspacing=1)
    return figure


def _legend_above(figure: Figure, **style: float) -> None:
    """What the axes' lines mean, above them, in as many columns as the figure is wide."""
    entries = sum(len(axes.get_legend_handles_labels()[1]) for axes in figure.axes)
    for columns in range(min(entries, 5), 0, -1):
        legend = figure.legend(loc="outside upper left", ncols=columns, **style)
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * -(-entries // columns))
            return
        legend.remove()


def sampler_label(spec: str) -> str:
    """A sampler as figures name it: "top_k=50,top_p=0.9" is "top-k 50, top-p 0.9"."""
    parts = []
    for part in spec.split(","):
        name, _, value = (s.strip() for s in part.partition("="))
        parts.append(_NAMES[name] if name == "p_less" else f"{_NAMES[name]} {float(value):g}")
    return ", ".join(parts)


def token_label(text: str, token_id: int, longest: int = 10) -> str:
    """A token as a tick: spaces and line ends visible, long ones cut, and its id where the font cannot show it."""
    shown = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    glyphs = get_font(findfont(FontProperties()))
    if not shown.isprintable() or not all(glyphs.get_char_index(ord(c)) for c in shown):
        return f"#{token_id}"
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _by_position(table: Table) -> dict[int, Table]:
    found: dict[int, Table] = {}
    for row in table:
        found.setdefault(int(row["position"]), []).append(row)
    return found


def _number(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def _plain(value: float, _: int | None = None) -> str:
    return f"{value:,.0f}"
