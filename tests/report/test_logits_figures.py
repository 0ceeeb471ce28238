"""The figures of logits: they show the tables' numbers, within one column, and files that papers can take."""

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
from matplotlib.figure import Figure
from PIL import Image

from forkpoint.report.figures import logits_figure as logits_figures
from forkpoint.report.figures.drawing import saved, svg_text
from forkpoint.report.figures.logits_figure import (
    COLUMN,
    DPI,
    check_drawable,
    distance_figure,
    histogram_figure,
    kept_figure,
    sampler_label,
    sorted_figure,
    token_label,
)
from forkpoint.types import UserError

SAMPLERS = ["top_n_sigma=1", "min_p=0.1", "top_p=0.9", "top_k=50", "p_less=true", "min_k=3", "eta_cutoff=0.01",
            "top_k=50,top_p=0.95"]  # fmt: skip
FACTS = {"maximum": 17.5, "mean": -1.5, "sigma": 1.9}
AWKWARD = ["<b>&", "$x^2$", "--", "\n", "漢", "\x00", "\x1b[0m", "", "a long, long token", "é"]


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context(logits_figures._STYLE):
        yield


def histogram_table(bins: int = 40) -> list[dict[str, Any]]:
    edges = np.linspace(-9, 17.5, bins + 1)
    counts = np.random.default_rng(0).poisson(9000 * np.exp(-((edges[:-1] + 1.5) ** 2) / 7))
    return [
        {"position": 3.0, "low": a, "high": b, "count": float(n)}
        for (a, b), n in zip(pairwise(edges.tolist()), counts.tolist(), strict=True)
    ]


def sorted_table(n: int = 20, taken: int | None = 1) -> list[dict[str, Any]]:
    return [
        {
            "position": 3.0, "rank": float(i), "token_id": float(100 + i), "token": AWKWARD[i % len(AWKWARD)],
            "logit": -i, "probability": 0.6**i, "taken": float(i == taken),
            **{spec: float(i <= 2 * line + 1) for line, spec in enumerate(SAMPLERS)},
        }
        for i in range(1, n + 1)
    ]  # fmt: skip


def kept_table(samplers: list[str], positions: int = 50) -> list[dict[str, Any]]:
    return [
        {"sampler": spec, "temperature": t, "mean": 1 + line * t, "positions": float(positions)}
        for line, spec in enumerate(samplers)
        for t in (0.5, 1.0, 3.0)
    ]


def distance_table(responses: int = 1, n: int = 30) -> list[dict[str, Any]]:
    return [
        {"problem_id": f"p{r}", "position": float(i), "distance": 10 + 3 * math.sin(i + r)}
        for r in range(responses)
        for i in range(n)
    ]


def chosen(*positions: int, named: bool = True) -> list[dict[str, Any]]:
    table, names = distance_table(), ("first", "uncertain", "certain")
    return [
        {"position": p, "distance": table[p]["distance"], "named": [names[i]] if named else []}
        for i, p in enumerate(positions)
    ]


FIGURES = {
    "histogram": lambda: histogram_figure(histogram_table(), FACTS, [1.0]),
    "histogram, several n": lambda: histogram_figure(histogram_table(), FACTS, [0.5, 1.0, 1.5]),
    "histogram, all equal": lambda: histogram_figure(histogram_table(), FACTS | {"sigma": 0.0}, [1.0]),
    "sorted": lambda: sorted_figure(sorted_table(), SAMPLERS),
    "sorted, one token": lambda: sorted_figure(sorted_table(1), SAMPLERS[:1]),
    "sorted, rare token": lambda: sorted_figure(sorted_table(taken=None), SAMPLERS[:6]),
    "kept": lambda: kept_figure(kept_table(SAMPLERS), 151_936),
    "kept, one": lambda: kept_figure(kept_table(SAMPLERS[:1], positions=1), 490),
    "distance": lambda: distance_figure(distance_table(), chosen(0, 7, 12)),
    "distance, several": lambda: distance_figure(distance_table(4), chosen(*range(9), named=False)[:0]),
    "distance, flat": lambda: distance_figure([{"problem_id": "p", "position": 0.0, "distance": 0.0}], []),
    "distance, many marked": lambda: distance_figure(
        distance_table(), [{"position": p, "distance": 10.0, "named": []} for p in range(9)]
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_svg_stands_alone(name):
    """Well-formed, the same each time, text as outlines, and nothing that a viewer would fetch."""
    text = svg_text(FIGURES[name]())
    assert text == svg_text(FIGURES[name]())
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    elements = list(root.iter())
    assert not [e for e in elements if e.tag.rpartition("}")[2] in ("image", "script", "foreignObject", "text")]
    links = [v for e in elements for k, v in e.attrib.items() if k.rpartition("}")[2] == "href"]
    assert links
    assert all(link.startswith("#") for link in links)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


@pytest.mark.parametrize("name", FIGURES)
def test_the_png_is_one_column_wide_and_fine_enough(name):
    figure = FIGURES[name]()
    image = Image.open(io.BytesIO(saved(figure, "png", DPI)))
    image.load()
    assert min(image.info["dpi"]) >= 300
    assert image.width == round(COLUMN * DPI)
    assert image.height == pytest.approx(figure.get_figheight() * DPI, abs=1)
    edge = np.array(image.convert("L"))
    for side in (edge[0], edge[-1], edge[:, 0], edge[:, -1]):
        assert (side > 250).all()  # nothing is cut off


@pytest.mark.parametrize("name", FIGURES)
def test_the_legend_covers_nothing(name):
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    assert figure.legends or name == "sorted, rare token"
    assert not any(axes.get_legend() for axes in figure.axes)
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


@pytest.mark.parametrize(("name", "labels"), [
    ("histogram", ["logit", "tokens", "below the maximum (σ)", "mean = −1.5", "M − σ = 15.6", "maximum M = 17.5"]),
    ("histogram, several n", ["M − 0.5σ = 16.6", "M − 1.5σ = 14.7"]),
    ("sorted", ["probability", "most probable tokens (filled: kept at T = 1)", "token of the response", "top-nσ 1"]),
    ("kept", ["temperature", "tokens kept (mean)", "top-k 50, top-p 0.95", "p-less", "vocabulary, 151,936"]),
    ("distance", ["position in the response (tokens)", "(maximum − mean) / σ", "most uncertain", "mean = 10.1"]),
])  # fmt: skip
def test_the_labels_say_what_is_drawn(name, labels):
    text = svg_text(FIGURES[name]())
    assert [label for label in labels if f"<!-- {label} -->" not in text] == []


def lines(figure: Figure, axes: int = 0) -> list[tuple[list[float], list[float]]]:
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in figure.axes[axes].lines
    ]


def test_the_histogram_has_the_tables_bars_and_the_lines_of_its_facts():
    table = histogram_table()
    figure = histogram_figure(table, FACTS, [1.5, 0.5])
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == [row["count"] for row in table]
    np.testing.assert_allclose([bar.get_x() for bar in bars], [row["low"] for row in table])
    np.testing.assert_allclose([bar.get_x() + bar.get_width() for bar in bars], [row["high"] for row in table])
    drawn = {line.get_label(): line.get_xdata()[0] for line in figure.axes[0].lines if line.get_label()[0] != "_"}
    wanted = [-1.5, 17.5 - 0.5 * 1.9, 17.5 - 1.5 * 1.9, 17.5]
    np.testing.assert_allclose(list(drawn.values()), wanted)


def test_the_sigma_axis_counts_down_from_the_maximum():
    figure = histogram_figure(histogram_table(), FACTS, [1.0])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    (above,) = axes.child_axes
    ticks = [float(label.get_text()) for label in above.get_xticklabels()]
    assert len(ticks) > 4
    for tick in ticks:
        wanted = axes.transData.transform((17.5 - tick * 1.9, 1))[0]
        assert above.transData.transform((tick, 1))[0] == pytest.approx(wanted)


def test_sorted_probabilities_and_kept_sets_are_the_tables():
    table = sorted_table()
    figure = sorted_figure(table, SAMPLERS)
    upper = lines(figure)
    assert upper[0] == ([row["rank"] for row in table], [row["probability"] for row in table])
    assert upper[1] == ([1.0], [0.6])
    full = [line for line in figure.axes[1].lines if line.get_markerfacecolor() != "none"]
    for line, spec in zip(full, SAMPLERS, strict=True):
        assert list(line.get_xdata()) == [row["rank"] for row in table if row[spec]]
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == [sampler_label(s) for s in SAMPLERS]


def test_kept_sizes_are_the_tables():
    table = kept_table(SAMPLERS)
    *drawn, vocabulary = lines(kept_figure(table, 490))
    for spec, (x, y) in zip(SAMPLERS, drawn, strict=True):
        rows = [row for row in table if row["sampler"] == spec]
        assert x == [row["temperature"] for row in rows]
        assert y == [row["mean"] for row in rows]
    assert set(vocabulary[1]) == {490}


def test_distances_are_the_tables():
    table = distance_table(3)
    drawn = lines(distance_figure(table, chosen(0, 7)))
    for r in range(3):
        assert drawn[r][1] == [row["distance"] for row in table if row["problem_id"] == f"p{r}"]
    assert drawn[3][1][0] == pytest.approx(np.mean([row["distance"] for row in table]))
    assert [line[0] for line in drawn[4:]] == [[0], [7]]


def test_axes_of_a_single_point_name_it_alone():
    one = [{"problem_id": "p", "position": 0.0, "distance": 4.7}]
    for figure in (distance_figure(one, []), kept_figure([kept_table(SAMPLERS[:1])[1]], 490)):
        figure.draw_without_rendering()
        low, high = figure.axes[0].get_xlim()
        ticks = zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True)
        assert len([label for tick, label in ticks if low <= tick <= high and label.get_text()]) == 1


def test_tokens_are_labels_that_the_font_has():
    assert token_label(" the", 5) == "␣the"
    assert token_label("\n", 5) == "⏎"
    assert token_label("$x$", 5) == "$x$"
    assert token_label("abcdefghijk", 5) == "abcdefghi…"
    for hidden in ("漢", "\x00", "�\x1b"):
        assert token_label(hidden, 5) == "#5"


def test_samplers_that_cannot_be_told_apart_are_refused():
    check_drawable(SAMPLERS)
    with pytest.raises(UserError, match="at most 8 samplers"):
        check_drawable([*SAMPLERS, "top_k=5"])
