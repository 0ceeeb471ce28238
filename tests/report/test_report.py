"""The page of a run: complete, self-contained, and safe with hostile text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

import forkpoint
from forkpoint.report import write_report
from forkpoint.types import Problem, UserError

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'single' <img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(lab, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    problems = [Problem(f"{HOSTILE}/{i}", f"{HOSTILE} What is {i} + 1?", str(i + 1), "number") for i in range(3)]
    strategies = ["greedy", "cot-decoding", "sample:temperature=3"]
    results = forkpoint.evaluate(lab, problems, strategies, task="<b>task</b>", sweep="k=2,4", max_tokens=40, out=out)
    tags = Tags()
    text = write_report(out).read_text()
    tags.feed(text)
    return out, text, tags, results


def test_nothing_executes_and_nothing_is_fetched(page):
    _, text, tags, _ = page
    assert not {"script", "img", "iframe", "object", "b/"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert not [v for name, v in tags.attributes if name in ("src", "href") and v and v != "data:,"]
    assert "default-src 'none'" in text
    assert HOSTILE in "".join(tags.text)


def test_the_table_has_the_results(page):
    _, _, tags, results = page
    shown = " ".join(tags.text)
    for s in results["strategies"]:
        assert s["strategy"] in shown
        assert f"{100 * s['accuracy']:.1f}%" in shown
    for c in results["comparisons"]:
        assert f"{100 * c['difference']:+.1f}" in shown


def test_every_path_is_shown_with_its_delta(page):
    out, text, _, _ = page
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert text.count('<div class="path') == sum(len(r["paths"]) for r in rows)
    deltas = [p["confidence"] for r in rows for p in r["paths"] if p["confidence"] is not None]
    assert len(re.findall(r"&Delta; = -?\d", text)) == len(deltas)
    spans = re.findall(r'<span class="s(\d)[^"]*" title="([\d.]+)"', text)
    assert len(spans) == sum(len(p["token_ids"]) for r in rows for p in r["paths"])
    assert all(abs((1 - float(gap)) * 10 - int(shade)) <= 1.01 for shade, gap in spans)


def test_a_sweep_has_its_figure(page):
    _, text, _, _ = page
    assert text.count("<svg") == 1
    assert "Accuracy against k" in text


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        write_report(tmp_path)
