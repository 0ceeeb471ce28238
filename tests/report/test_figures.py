"""Charts: the same numbers give the same bytes, other numbers other ones, and nothing that a viewer would fetch."""

from __future__ import annotations

import io
import math
import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from made_up_runs import ROUND_FIGURES, rounds_summary
from PIL import Image

from forkpoint.report.figures import charts, logits_figure
from forkpoint.report.figures.charts import MetricLine
from forkpoint.report.figures.drawing import saved, svg_text
from forkpoint.scores.dynamics import CLASSES
from forkpoint.types import UserError

Row = dict[str, Any]
NASTY = "$\\frac{ --><script>alert(1)</script>"
SAMPLERS = ["top_n_sigma=1", "min_p=0.1", "top_p=0.9", "top_k=50", "p_less=true", "min_k=3", "eta_cutoff=0.01",
            "top_k=50,top_p=0.95"]  # fmt: skip
FACTS = {"maximum": 17.5, "mean": -1.5, "sigma": 1.9}
AWKWARD = ["<b>&", "$x^2$", "--", "\n", "漢", "\x00", "\x1b[0m", "", "a long, long token", "é"]


def strategies(accuracy: float) -> list[Row]:
    low, high = accuracy - 0.1, accuracy + 0.1
    return [{"strategy": name, "accuracy": accuracy, "ci95": [low, high]} for name in ("x:2", "x:4", NASTY)]


def sweep(accuracy: float) -> Row:
    line = {"strategy": "x", "values": [2.0, 4.0], "specs": ["x:2", "x:4"]}
    return {"strategies": strategies(accuracy), "sweep": {"option": "k", "lines": [line]}}


def replacement(value: float, n: int = 64) -> list[Row]:
    return [
        {"k": k, "without": 0.01, "without_ci95": [0.0, 0.05], "with": value, "with_ci95": [0.0, 1.0]}
        for k in range(1, n + 1)
    ]


def dynamics(value: float) -> Row:
    classes = {name: {"tokens": 3, "share": 0.25, "mean_loss": [1.0, value]} for name in CLASSES}
    classes[CLASSES[1]] = {"tokens": 0, "share": 0.0, "mean_loss": [None, None]}  # which has no line
    return {"classes": classes, "checkpoints": [NASTY, "step-800"]}


def distribution(value: float) -> dict[str, Any]:
    return {"loss": dict.fromkeys(("selected", "left out"), np.array([0, 0.1, 10 * value], np.float16))}


CHARTS = {  # of a number from 0 to 1
    "accuracy": lambda x: charts.accuracy_svg(strategies(x)),
    "sweep": lambda x: charts.sweep_svg(sweep(x)),
    "replacement": lambda x: charts.replacement_svg(replacement(x)),
    "ratios": lambda x: charts.ratios_svg({"excess": [(0.6, x), (0.3, 1.5)]}, {"clm": 2.5}),
    "ratios, all": lambda x: charts.ratios_svg({"excess": [(0.6, 1.25), (0.3, 1.5)]}, {"clm": x}),
    "dynamics": lambda x: charts.dynamics_svg(dynamics(x)),
    "distribution": lambda x: charts.distribution_svg(distribution(x)),
    "curves": lambda x: charts.curves_svg([MetricLine("a", [1, 2], [0.5, x])], "y"),
    "held out": lambda x: charts.curves_svg([MetricLine("b", [2, 3], [1, x], 1, held_out=True)], "y"),
    "band": lambda x: charts.curves_svg([MetricLine("a", [1, 2], ends=[(0, x), (0, 1)])], "y", limits=(0, 2)),
} | {f"rounds, {name}": lambda x, name=name: charts.rounds_svg({"a": rounds_summary(**{name: x})})
     for name in ROUND_FIGURES if name != "pass@1"}  # fmt: skip


def checked(text: str) -> list[ElementTree.Element]:
    """The elements of an SVG whose text is outlines, and which fetches nothing."""
    elements = list(ElementTree.fromstring(text).iter())
    assert elements[0].tag.endswith("svg")
    assert not [e for e in elements if e.tag.rpartition("}")[2] in ("image", "script", "foreignObject", "text")]
    links = [v for e in elements for k, v in e.attrib.items() if k.rpartition("}")[2] == "href"]
    assert all(target.startswith("#") for target in [*links, *re.findall(r"url\(([^)]*)\)", text)])
    return elements


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_drawn_from_its_numbers_and_the_same_each_time(name):
    text = CHARTS[name](0.25)
    checked(text)
    assert text == CHARTS[name](0.25)
    assert text != CHARTS[name](0.75)


def test_a_round_that_lacks_a_figure_is_left_out():
    """No right sample: no likelihood of one. One with a right sample in one problem alone: no interval."""
    text = charts.rounds_svg({"none": rounds_summary()})
    assert charts.rounds_svg({"none": rounds_summary(stopped="nothing right")}) == text
    assert charts.rounds_svg({"none": rounds_summary(correct_logprob=None)}) != text


# Of logits


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context(logits_figure.STYLE):
        yield


def histogram_table(bins: int = 40) -> list[Row]:
    edges = np.linspace(-9, 17.5, bins + 1)
    counts = np.random.default_rng(0).poisson(9000 * np.exp(-((edges[:-1] + 1.5) ** 2) / 7))
    ends = zip(pairwise(edges.tolist()), counts.tolist(), strict=True)
    return [{"position": 3.0, "low": a, "high": b, "count": float(n)} for (a, b), n in ends]


def sorted_table(n: int = 20, taken: int | None = 1) -> list[Row]:
    return [
        {
            "rank": float(i), "token_id": float(100 + i), "token": AWKWARD[i % len(AWKWARD)],
            "probability": 0.6**i, "taken": float(i == taken),
            **{spec: float(i <= 2 * line + 1) for line, spec in enumerate(SAMPLERS)},
        }
        for i in range(1, n + 1)
    ]  # fmt: skip


def kept_table(samplers: list[str], positions: int = 50) -> list[Row]:
    return [
        {"sampler": spec, "temperature": t, "mean": 1 + line * t, "positions": float(positions)}
        for line, spec in enumerate(samplers)
        for t in (0.5, 1.0, 3.0)
    ]


def distance_table(responses: int = 1, n: int = 30) -> list[Row]:
    return [
        {"problem_id": f"p{r}", "position": float(i), "distance": 10 + 3 * math.sin(i + r)}
        for r in range(responses)
        for i in range(n)
    ]


def chosen(*positions: int) -> list[Row]:
    names, table = ("first", "uncertain", "certain"), distance_table()
    return [{**table[p], "position": p, "named": [names[i]] if i < 3 else []} for i, p in enumerate(positions)]


FIGURES = {
    "histogram": lambda: logits_figure.histogram_figure(histogram_table(), FACTS, [0.5, 1.0, 1.5]),
    "histogram, all equal": lambda: logits_figure.histogram_figure(histogram_table(), FACTS | {"sigma": 0.0}, [1.0]),
    "sorted": lambda: logits_figure.sorted_figure(sorted_table(), SAMPLERS),
    "sorted, rare token": lambda: logits_figure.sorted_figure(sorted_table(1, taken=None), SAMPLERS[:1]),
    "kept": lambda: logits_figure.kept_figure(kept_table(SAMPLERS), 151_936),
    "kept, one": lambda: logits_figure.kept_figure(kept_table(SAMPLERS[:1], positions=1)[1:2], 490),
    "distance": lambda: logits_figure.distance_figure(distance_table(4), chosen(0, 7, 12)),
    "distance, one": lambda: logits_figure.distance_figure(distance_table(1, 1), []),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_one_column_wide_and_nothing_is_covered_or_cut_off(name):
    figure = FIGURES[name]()
    checked(svg_text(figure))
    image = Image.open(io.BytesIO(saved(figure, "png", logits_figure.DPI)))
    assert min(image.info["dpi"]) >= 300
    assert image.width == round(logits_figure.COLUMN * logits_figure.DPI)
    edge = np.array(image.convert("L"))
    assert all((side > 250).all() for side in (edge[0], edge[-1], edge[:, 0], edge[:, -1]))
    assert figure.legends or name == "sorted, rare token"
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


@pytest.mark.parametrize(("draw", "table", "number"), [
    (lambda table: logits_figure.histogram_figure(table, FACTS, [1.0]), histogram_table(), "count"),
    (lambda table: logits_figure.sorted_figure(table, SAMPLERS), sorted_table(), "probability"),
    (lambda table: logits_figure.sorted_figure(table, SAMPLERS), sorted_table(), SAMPLERS[0]),
    (lambda table: logits_figure.kept_figure(table, 490), kept_table(SAMPLERS), "mean"),
    (lambda table: logits_figure.distance_figure(table, []), distance_table(2), "distance"),
])  # fmt: skip
def test_a_figure_is_drawn_from_its_table(draw, table, number):
    text = svg_text(draw(table))
    table[1][number] += 0.5
    assert svg_text(draw(table)) != text


def test_the_histogram_counts_sigmas_down_from_the_maximum():
    axes = FIGURES["histogram"]().axes[0]
    drawn = [line.get_xdata()[0] for line in axes.lines if line.get_label()[0] != "_"]
    np.testing.assert_allclose(drawn, [-1.5, *(17.5 - n * 1.9 for n in (0.5, 1, 1.5)), 17.5])


def test_labels_name_samplers_and_tokens_that_the_font_has():
    assert logits_figure.sampler_label("top_k=50, top_p=0.95") == "top-k 50, top-p 0.95"
    assert [logits_figure.token_label(text, 5) for text in (" the", "\n", "abcdefghijk", "漢", "\x00")] == [
        "␣the", "⏎", "abcdefghi…", "#5", "#5",
    ]  # fmt: skip
    logits_figure.check_drawable(SAMPLERS)
    with pytest.raises(UserError, match="at most 8 samplers"):
        logits_figure.check_drawable([*SAMPLERS, "top_k=5"])
