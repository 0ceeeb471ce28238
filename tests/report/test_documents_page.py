"""The page of documents: all of the run is in it, it executes nothing of the run, and its classes colour the tokens."""

from __future__ import annotations

import copy
import re
from importlib import resources
from xml.etree import ElementTree

import pytest
from browser import browser
from made_up_documents import CHECKPOINTS, made_up_documents, write_documents
from test_critical_page import NASTY, NO_NETWORK, embedded, luminance, parsed

from forkpoint.cli import main
from forkpoint.report import write_report
from forkpoint.report.figures.dynamics_figure import dynamics_svg
from forkpoint.scores.dynamics import CLASSES
from forkpoint.types import UserError

NUMBERS = ("loss", "reference_loss", "excess_loss", "reference_entropy", "delta")
SETTLE = "new Promise(done => setTimeout(done, 200))"
PANEL = "document.getElementById('panel').innerText"
SHADES = (
    "[...document.querySelectorAll('.token')]"
    ".map(t => [...t.classList].filter(c => /^([sc][0-9]|below)$/.test(c)).join(' '))"
)


@pytest.fixture(scope="module")
def run(tokenizer):
    return made_up_documents(tokenizer)


@pytest.fixture
def rows(run):
    return copy.deepcopy(run[0])


@pytest.fixture
def summary(run):
    return copy.deepcopy(run[1])


def page_of(out, rows, summary):
    return write_report(write_documents(out, rows, summary)).read_text(encoding="utf-8")


def hostile(row):
    """The row with everything that is text made dangerous."""
    id_ = NASTY.replace("\ud800", "")
    return row | {"id": id_, "tokens": [NASTY] * len(row["tokens"]), "noise": [NASTY] * len(row["tokens"])}


# The figure


def test_the_figure_is_the_same_each_time_and_names_the_shares(summary):
    dynamics = summary["dynamics"]
    text = dynamics_svg(dynamics)
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text == dynamics_svg(copy.deepcopy(dynamics))
    for name, row in dynamics["classes"].items():
        assert f"<!-- {name} {100 * row['share']:.1f}% -->" in text
    for name in CLASSES:
        changed = copy.deepcopy(dynamics)
        changed["classes"][name]["mean_loss"][1] += 0.5
        assert text != dynamics_svg(changed)


def test_a_class_without_tokens_has_no_line_and_any_name_of_a_checkpoint_is_drawn(summary):
    dynamics = summary["dynamics"]
    dynamics["classes"]["L→H"] = {"tokens": 0, "share": 0.0, "mean_loss": [None] * len(CHECKPOINTS)}
    dynamics["checkpoints"] = ["$\\frac{", "--><script>alert(1)</script>", "a$b$", "", "x" * 40]
    text = dynamics_svg(dynamics)
    assert "L→H 0.0%" not in text
    assert "<script" not in text
    assert ElementTree.fromstring(text) is not None


# The page


def test_every_token_and_value_is_there(rows, summary, tmp_path):
    data = embedded(page_of(tmp_path, rows, summary))
    assert [s["key"] for s in data["scores"]] == ["class", "selected", "noise", *NUMBERS]
    values = {s["key"]: s["values"] for s in data["scores"] if "values" in s}
    assert values["class"] == list(CLASSES)
    assert sorted(values["noise"]) == ["boilerplate", "typo"]
    assert len(data["rows"]) == len(rows)
    for row, shown in zip(rows, data["rows"], strict=True):
        assert [shown[k] for k in ("id", "ids", "tokens")] == [row[k] for k in ("id", "token_ids", "tokens")]
        for key in NUMBERS:
            assert shown["columns"][key] == [v if v is None else pytest.approx(v, rel=1e-3) for v in row[key]]
        for key in ("class", "noise"):
            assert [None if v is None else values[key][v] for v in shown["columns"][key]] == row[key]
        assert shown["columns"]["selected"] == row["selected"]


def test_the_dynamics_are_readable_without_a_script(rows, summary, tmp_path):
    tags = parsed(page_of(tmp_path, rows, summary))
    text = " ".join("".join(tags.text[: next(i for i, t in enumerate(tags.text) if '"rows":' in t)]).split())
    for name, row in summary["dynamics"]["classes"].items():
        for said in (name, str(row["tokens"]), f"{100 * row['share']:.1f}%", *(f"{x:.3f}" for x in row["mean_loss"])):
            assert said in text
    assert all(name in text for name in CHECKPOINTS)
    assert "model lab, documents 10, ratio 0.6" in text
    assert "below −0.2" in text
    assert tags.tags.count("svg") == 1


def test_without_dynamics_there_is_no_figure_and_without_documents_no_viewer(rows, tmp_path):
    page = page_of(tmp_path, rows, {})
    assert "svg" not in parsed(page).tags
    assert "Token dynamics" not in page
    empty = page_of(tmp_path, [], {})
    assert "This run holds no documents." in empty
    assert 'id="viewer"' not in empty


def test_nothing_of_a_hostile_run_executes_and_nothing_is_fetched(rows, summary, tmp_path):
    nasty = NASTY.replace("\ud800", "")
    summary |= {"title": nasty, nasty: nasty}
    summary["dynamics"]["checkpoints"] = [nasty] * len(CHECKPOINTS)
    page = page_of(tmp_path, [hostile(row) for row in rows], summary)
    tags = parsed(page)
    assert tags.tags.count("script") == 2
    assert not {"img", "iframe", "object", "embed", "form"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert embedded(page)["rows"][0]["tokens"][0] == NASTY
    assert not re.search("[<>&\u2028\u2029]", re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert not NO_NETWORK.search(page)


@pytest.mark.parametrize(("change", "said"), [
    ({"loss": [1.0]}, "loss must be a list with one value for each of the"),
    ({"tokens": ["a"]}, "token_ids and tokens differ in length"),
    ({"id": 3}, "'id' should be a string"),
    ({"delta": "x"}, "delta holds 'x'"),
    ({"class": 4}, "class holds 4"),
    ({"selected": 2}, "selected holds 2"),
    ({"noise": 0}, "noise holds 0"),
])  # fmt: skip
def test_a_broken_row_is_named(rows, summary, tmp_path, change, said):
    for key, value in change.items():
        rows[1][key] = value if key in ("id", "tokens", "loss") else [value] * len(rows[1]["tokens"])
    with pytest.raises(UserError, match=rf"documents\.jsonl line 2: .*{said}"):
        page_of(tmp_path, rows, summary)


def test_what_the_directory_holds_chooses_the_page(rows, summary, tmp_path):
    out = write_documents(tmp_path / "run", rows[:1], summary | {"title": "Tokens of the corpus"})
    assert main(["report", str(out)]) == 0
    assert "<h1>Tokens of the corpus</h1>" in (out / "report.html").read_text(encoding="utf-8")
    (out / "summary.json").unlink()
    with pytest.raises(UserError, match=r"no finished run: there is no summary\.json"):
        write_report(out)


def test_text_stays_legible_on_every_colour():
    base, viewer = (
        (resources.files("forkpoint.report") / "templates" / name).read_text().splitlines()
        for name in ("base.css", "viewer.css")
    )
    alpha = float(re.search(r"\.c7 \{ background: rgba\(var\(--c\), ([.\d]+)\)", "\n".join(viewer))[1])
    strongest = max(float(a) for a in re.findall(r"--a: ([.\d]+)", "\n".join(base)))
    roots = [line for line in viewer if "--cold:" in line]
    for theme, colours in zip(base[:3], roots, strict=True):
        value = dict(re.findall(r"--(\w+): (#\w+);", theme))
        ink, paper = (bytes.fromhex(d if len(d) == 6 else "".join(c * 2 for c in d))
                      for d in (value["ink"][1:], value["paper"][1:]))  # fmt: skip
        hues = re.findall(r"--(cold|c\d): (\d+), (\d+), (\d+);", colours)
        assert len(hues) == 9
        for name, *hue in hues:
            a = strongest if name == "cold" else alpha
            ground = [a * int(h) + (1 - a) * p for h, p in zip(hue, paper, strict=True)]
            low, high = sorted((luminance(ground), luminance(ink)))
            assert (high + 0.05) / (low + 0.05) >= 4.5


# In a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def opened(tab, rows, summary, tmp_path):
    """The tab with the page of the rows; afterwards neither console nor network may have seen anything else."""
    page = write_report(write_documents(tmp_path, rows, summary)).as_uri()
    tab.open(page)
    yield tab
    assert tab.complaints() == []
    assert {url.split("#")[0] for url in tab.requests()} == {page}


def shaded_by(tab, key):
    """The shade of each token, once the score is chosen."""
    tab.run(f"(s => (s.value = '{key}', s.dispatchEvent(new Event('change'))))(document.getElementById('score'))")
    return tab.run(SHADES)


def test_a_class_colours_its_tokens_and_the_legend_counts_them(opened, rows):
    for key, names, plain in (("class", CLASSES, 0), ("selected", ("left out", "selected"), 1)):
        cells = [names[v] if isinstance(v, int) else v for v in rows[0][key]]
        colours = {name: f"c{i - plain}" if i >= plain else "s0" for i, name in enumerate(names)}
        assert shaded_by(opened, key) == [colours.get(cell, "s0") for cell in cells]
        legend = opened.run("[...document.querySelectorAll('#legend .name')].map(n => n.textContent)")
        assert legend == [f"{name} {cells.count(name)}" for name in names]
    grounds = opened.run(
        "(() => { const s = document.getElementById('score'); s.value = 'class'; s.dispatchEvent(new Event('change'));"
        "return [...document.querySelectorAll('#legend b')].map(b => getComputedStyle(b).backgroundColor) })()"
    )
    assert len(set(grounds)) == len(CLASSES)


def test_noise_is_named_as_the_rows_name_it(opened, rows):
    shades = shaded_by(opened, "noise")
    kinds = opened.run("[...document.querySelectorAll('#legend b')].map(b => [b.textContent, b.className])")
    assert shades == [dict(kinds).get(kind, "s0") for kind in rows[0]["noise"]]


def test_a_score_with_two_sides_is_shaded_on_both(opened, rows):
    shades = shaded_by(opened, "delta")
    assert {"below" in shade for shade in shades} == {True, False}
    for shade, delta in zip(shades, rows[0]["delta"], strict=True):
        strength = int(shade[1])
        assert abs(strength - min(9, 5 * abs(delta or 0))) <= 1.01
        assert (delta is not None and delta < 0) or "below" not in shade
    ends = opened.run("[...document.querySelectorAll('#legend > span')].map(s => s.textContent)")
    assert ends == ["−2", "2"]


def test_the_panel_tells_all_values_of_the_token_under_the_mouse(opened, rows):
    opened.run("document.getElementById('text').scrollIntoView({block: 'center'})")
    box = opened.run("document.querySelector('[data-t=\"5\"]').getClientRects()[0].toJSON()")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    opened.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    shown = opened.run(PANEL)
    row = rows[0]
    assert "token 5 of" in shown
    for key in ("loss", "reference_loss", "reference_entropy"):
        assert f"{row[key][5]:.3f}"[:-1] in shown
    for key in ("excess_loss", "delta"):
        assert f"{row[key][5]:+.3f}"[:-1] in shown
    assert row["class"][5] in shown
    assert ("left out", "selected")[row["selected"][5]] in shown


def test_n_goes_to_the_next_token_shaded_alike(opened, rows):
    shades = shaded_by(opened, "class")
    opened.run("document.querySelector('[data-t=\"1\"]').click()")
    opened.press("n")
    now = opened.run("Number(document.activeElement.dataset.t)")
    assert now == shades.index(shades[1], 2)


def test_nothing_speaks_of_answers_or_success(opened):
    text = opened.run("document.body.innerText").lower()
    for word in ("success", "correct", "gold", "trajector", "no answer", "alternative", "undefined", "✗"):
        assert word not in text
    assert opened.run("document.getElementById('tag').hidden")
    assert opened.run("document.querySelectorAll('#curve svg').length") == 0


def test_it_fits_a_narrow_screen(opened):
    opened.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=False)
    try:
        for key in ("class", "delta"):
            shaded_by(opened, key)
            assert opened.run(f"{SETTLE}.then(() => document.documentElement.scrollWidth)") == 390
    finally:
        opened.call("Emulation.setDeviceMetricsOverride", width=1280, height=1000, deviceScaleFactor=1, mobile=False)


def test_hostile_tokens_and_rows_without_scores_stay_text(tab, rows, tmp_path):
    bare = {"id": "bare", "tokens": [], "token_ids": []}
    plain = {"id": "plain", "tokens": rows[0]["tokens"], "token_ids": rows[0]["token_ids"]}
    tab.open(write_report(write_documents(tmp_path, [hostile(rows[0]), plain, bare], {})).as_uri())
    assert tab.run("document.querySelectorAll('#viewer script, #viewer img').length") == 0
    assert "<img src=x onerror=alert(2)>" in tab.run("document.getElementById('text').textContent")
    shaded_by(tab, "noise")
    assert NASTY.split("\u2028")[0].strip() in tab.run("document.getElementById('legend').textContent")
    tab.press("j")
    assert set(tab.run(SHADES)) == {"s0"}
    tab.press("j")
    assert "This document has no tokens." in tab.run(PANEL)
    assert tab.complaints() == []
