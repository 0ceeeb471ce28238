"""The page of a run: complete, self-contained, and safe with hostile text."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest
import torch

import forkpoint
from forkpoint.report import write_report
from forkpoint.report.command import keep_command
from forkpoint.report.page import html
from forkpoint.report.pages.eval import _rows, page_of_summary
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
    strategies = ["greedy", "cot-decoding", "sample:temperature=3", "self-consistency:n=3"]
    results = forkpoint.evaluate(lab, problems, strategies, task="<b>task</b>", sweep="k=2,4", max_tokens=40, out=out)
    tags = Tags()
    text = write_report(out).read_text()
    tags.feed(text)
    return out, text, tags, results


def rows_of(text):
    """The viewer's rows, with their tokens and what their group's first row says."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    first = {}
    for row in data["rows"]:
        head = first.setdefault(row["group"], row)
        row |= {key: head[key] for key in ("question", "gold", "tags", "marks")}
        if "tokens" not in row:
            row["tokens"] = [data["texts"][str(token)] for token in row["ids"]]
    return data["rows"]


def test_nothing_executes_and_nothing_is_fetched(page):
    _, text, tags, _ = page
    assert tags.tags.count("script") == 2
    assert not {"img", "iframe", "object", "b/"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    links = {v for name, v in tags.attributes if name in ("src", "href", "xlink:href") and v and v[0] != "#"}
    assert links == {"data:,"}
    assert "default-src 'none'" in text
    assert rows_of(text)[0]["question"].startswith(HOSTILE)
    assert "lab on <b>task</b>" in "".join(tags.text)


def test_the_table_has_the_results(page):
    _, _, tags, results = page
    shown = " ".join(tags.text)
    for s in results["strategies"]:
        assert s["strategy"] in shown
        assert f"{100 * s['accuracy']:.1f}%" in shown
    for c in results["comparisons"]:
        assert f"{100 * c['difference']:+.1f}" in shown


def test_every_path_is_there_under_its_problem(page):
    out, text, _, _ = page
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    paths = [(row, i, path) for row in samples for i, path in enumerate(row["paths"])]
    shown = {row["id"]: row for row in rows_of(text)}
    assert len(shown) == len(paths)
    for row, i, path in paths:
        several = len(row["paths"]) > 1
        own = shown[f"{row['problem_id']}/{row['strategy']}" + (f"/{i}" if several else "")]
        assert [own[k] for k in ("group", "tokens", "ids")] == [row["problem_id"], path["tokens"], path["token_ids"]]
        assert own["columns"]["gap"] == pytest.approx(path["gaps"], rel=1e-3)
        assert own.get("span") == path["span"]
        assert own["picked"] == (several and i == row["chosen"])
        assert ("votes" in own["note"]) == (own["picked"] and row["strategy"].startswith("self-consistency"))
        if path["confidence"] is not None:
            assert f"Δ {path['confidence']:.3f}" in own["note"]
        if path["answer"] == row["answer"] is not None:
            assert own["correct"] == row["correct"]
        assert own["marks"] == [r["correct"] for r in samples if r["problem_id"] == row["problem_id"]]
        assert f"{row['strategy']} {'right' if row['correct'] else 'wrong'}" in own["tags"]


def test_a_path_whose_answer_nobody_graded_has_no_verdict(tmp_path):
    path = {"token_ids": [1], "tokens": ["7"], "gaps": [0.5], "text": "7", "continuation": None,
            "finish_reason": "stop", "span": [0, 1], "confidence": 0.5, "dropped": None}  # fmt: skip
    rows = [
        {"problem_id": "p", "strategy": "s", "question": "q", "gold": "7", "answer": "8", "correct": False, "chosen": 1,
         "paths": [path | {"answer": "7"}, path | {"answer": "8"}, path | {"answer": "9"}, path | {"answer": None}]},
    ]  # fmt: skip
    (tmp_path / "samples.jsonl").write_text(json.dumps(rows[0]) + "\n")
    assert [row["correct"] for row in _rows(tmp_path / "samples.jsonl")] == [True, False, None, None]


@pytest.mark.parametrize(("strategy", "votes", "note"), [
    ("self-consistency:n=9", {"7": 1.0, "8": 6.0, "9": 2.0}, "its answer was taken; votes: 8 ×6, 9 ×2, 7 ×1"),
    ("self-consistency", dict.fromkeys("54321", 1), "its answer was taken; votes: 5 ×1, 4 ×1, 3 ×1, 2 ×1 and 1 more"),
    ("cot-decoding:aggregate=True", {"7": 1.0, "8": 1.256}, "its answer was taken; votes: 8 ×1.26, 7 ×1.00"),
    ("cot-decoding:k=3", {"7": 1.0, "8": 1.256}, "its answer was taken"),
    ("self-consistency", {}, "its answer was taken; no votes"),
])  # fmt: skip
def test_votes_stand_with_the_path_that_they_picked(tmp_path, strategy, votes, note):
    path = {"token_ids": [1], "tokens": ["7"], "gaps": [0.5], "text": "7", "continuation": None, "answer": "8",
            "finish_reason": "stop", "span": [0, 1], "confidence": None, "dropped": None}  # fmt: skip
    row = {"problem_id": "p", "strategy": strategy, "question": "q", "gold": "7", "answer": "8", "correct": False,
           "chosen": 1, "votes": votes, "paths": [path, path]}  # fmt: skip
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    assert [row["note"] for row in _rows(tmp_path / "samples.jsonl")] == ["", note]


def tables_of(results):
    return {section.title: section for section in page_of_summary(results).sections}


def test_a_sweep_compares_by_value(page):
    results = page[3]
    told = tables_of(results)["Against greedy, problem by problem"]  # without the option it is the same at each value
    assert [row[0] for row in told.rows] == [c["b"] for c in results["comparisons"]]
    lines = [{"strategy": name, "values": [2.0, 4.5], "specs": [f"{name}:2", f"{name}:4"]} for name in ("x", "y")]
    compared = results["comparisons"][:3]
    named = (("x:2", "y:2"), ("x:4", "y:4"), ("x:4", "greedy"))
    swept = {"comparisons": [c | {"a": a, "b": b} for c, (a, b) in zip(compared, named, strict=True)]}
    told = tables_of(results | swept | {"sweep": {"option": "k", "lines": lines}})[
        "Against x at each k, problem by problem"
    ]
    assert list(told.columns[:3]) == ["k", "strategy", "difference"]
    assert [tuple(row[:2]) for row in told.rows] == [("2", "y"), ("4.5", "y"), ("4.5", "greedy")]
    assert told.rows[1][2] == f"{100 * compared[1]['difference']:+.1f}"


def test_what_can_be_found_is_told_where_there_is_something_to_compare(page):
    results = page[3]
    told = [line for line in page_of_summary(results).lines if "80% power" in line]
    assert len(told) == 1
    assert f"{100 * results['minimum_detectable_difference']:.1f} points" in told[0]
    assert "McNemar's test, 5% level" in told[0]
    alone = {**results, "strategies": results["strategies"][:1], "comparisons": [], "sweep": None}
    assert len(page_of_summary(alone).lines) == len(page_of_summary(results).lines) - 1


@pytest.mark.parametrize(("dropped", "said"), [
    ({"no answer": 1}, "greedy: 1 path was left out of the choice (no answer)."),
    ({"no answer": 1200, "length": 1}, "greedy: 1,201 paths were left out of the choice (1,200 no answer, 1 length)."),
    ({}, ""),
])  # fmt: skip
def test_paths_left_out_are_told(page, dropped, said):
    changed = {**page[3], "strategies": [page[3]["strategies"][0] | {"dropped_paths": dropped}]}
    assert tables_of(changed)["Strategies"].note == said


def test_a_sweep_has_its_figure_and_strategies_theirs(page):
    _, text, tags, results = page
    assert tags.tags.count("svg") == 1
    assert "Accuracy against k" in text
    changed = {**results, "sweep": None}
    shown = html(page_of_summary(changed))
    assert "Accuracy with 95% intervals" in shown
    for s in results["strategies"]:
        assert f"<!-- {100 * s['accuracy']:.1f}% -->" in shown


def test_command_versions_and_configuration_stand_on_the_page(page):
    out, text, _, _ = page
    assert "Configuration" in text
    assert "versions" not in text.split("</header>")[0]
    keep_command(out, ["eval", "--model", "a b", "--limit", "<3>"])
    try:
        header = unescape(write_report(out).read_text().split("</header>")[0])
    finally:
        (out / "command.json").unlink()
    assert "forkpoint eval --model 'a b' --limit '<3>'" in header
    assert f"<dt>forkpoint</dt><dd>{forkpoint.__version__}</dd>" in header
    assert f"<dt>torch</dt><dd>{torch.__version__.partition('+')[0]}" in header
    assert "<dt>max_tokens</dt><dd>40</dd>" in header


def test_no_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        write_report(tmp_path)
    (tmp_path / "config.json").write_text('{"verb": "eval"}')
    with pytest.raises(UserError, match="is not finished; the same command"):
        write_report(tmp_path)
    (tmp_path / "samples.jsonl").write_text("")
    with pytest.raises(UserError, match=r"no finished run: there is no results\.json"):
        write_report(tmp_path)
