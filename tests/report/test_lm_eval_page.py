"""The page of an `lm-eval` run, of made-up results: every figure, and the strategies' samples side by side."""

from __future__ import annotations

import json

import pytest
from browser import browser
from test_critical_page import NASTY, NO_NETWORK, parsed

from forkpoint.report import page_of, write_report
from forkpoint.report.pages import lm_eval as module
from forkpoint.report.pages.lm_eval import page_of_summary
from forkpoint.types import UserError

SPECS = ("greedy", "self-consistency:n=3,temperature=0.7")


def entry(spec, match, perplexity):
    figures = {
        "alias": "maths", "sample_len": 2, "exact_match,strict": match, "exact_match_stderr,strict": 0.05,
        "word_perplexity,none": perplexity, "word_perplexity_stderr,none": "N/A",
    }  # fmt: skip
    return {
        "strategy": spec, "directory": spec.split(":")[0], "tokens_generated": 1234,
        "results": {"maths": figures, "choice": {"acc,none": 0.5, "acc_stderr,none": 0.5}},
        "versions": {"maths": 3.0, "choice": "Yaml"}, "n-shot": {"maths": 5, "choice": 0},
        "higher_is_better": {"maths": {"exact_match": True, "word_perplexity": False}, "choice": {"acc": True}},
        "n-samples": {"maths": {"original": 9, "effective": 2}, "choice": {"original": 1, "effective": 1}},
    }  # fmt: skip


def generated(number, answer, gold, name="strict"):
    return {
        "doc_id": number, "doc": {"question": f"What is {number} and 1?"}, "target": gold, "filter": name,
        "arguments": {"gen_args_0": {"arg_0": "Q: ...", "arg_1": {"until": ["Q:"]}}}, "filtered_resps": [answer],
        "metrics": ["exact_match"], "exact_match": float(answer == gold),
    }  # fmt: skip


def chosen(likely):
    """A question of two choices without a question column; `likely` is the number of the likelier one."""
    given = {f"gen_args_{i}": {"arg_0": "x" * 500 + " Blue?", "arg_1": text} for i, text in enumerate((" no", " yes"))}
    return {
        "doc_id": 0, "doc": {"label": 1}, "target": "1", "filter": "none", "arguments": given, "metrics": ["acc"],
        "filtered_resps": [["-1.0" if i == likely else "-3.0", "False"] for i in (0, 1)], "acc": float(likely == 1),
    }  # fmt: skip


@pytest.fixture
def results():
    return {
        "model": "lab",
        "tasks": ["maths", "choice"],
        "strategies": [entry(SPECS[0], 0.5, 9.25), entry(SPECS[1], 1.0, 8.0)],
    }


@pytest.fixture
def run(results, tmp_path):
    answers = {"greedy": ("2", "7", 0), "self-consistency": ("2", "3", 1)}
    for directory, (one, two, likely) in answers.items():
        (tmp_path / directory).mkdir()
        rows = [generated(1, one, "2"), generated(2, two, "3")]
        rows = rows if directory == "greedy" else rows[::-1]  # told apart by their number, not by their place
        (tmp_path / directory / "samples_maths.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / directory / "samples_choice.jsonl").write_text(json.dumps(chosen(likely)) + "\n")
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "config.json").write_text('{"verb": "lm-eval"}')
    return tmp_path


def test_every_figure_is_in_the_table(results):
    page = page_of_summary(results)
    assert page.title == "lab on maths, choice"
    assert page.lines == [f"greedy, 1,234 tokens; {SPECS[1]}, 1,234 tokens"]
    counted = [entry | {"responses": 20, "cut_off": i + 2} for i, entry in enumerate(results["strategies"])]
    assert page_of_summary(results | {"strategies": counted}).lines == [
        f"greedy, 1,234 tokens, 2 cut off; {SPECS[1]}, 1,234 tokens, 3 cut off",
        f"cut off at the length limit: {SPECS[1]} 3 of 20 responses; raise max_tokens of the strategy",
    ]
    (table,) = page.sections
    assert [tuple(row) for row in table.rows] == [
        ("maths", "exact_match ↑, strict", SPECS[0], "0.5000", "0.0500"),
        ("maths", "exact_match ↑, strict", SPECS[1], "1.0000", "0.0500"),
        ("maths", "word_perplexity ↓", SPECS[0], "9.2500", ""),
        ("maths", "word_perplexity ↓", SPECS[1], "8.0000", ""),
        ("choice", "acc ↑", SPECS[0], "0.5000", "0.5000"),
        ("choice", "acc ↑", SPECS[1], "0.5000", "0.5000"),
    ]
    assert table.note == "maths: version 3, 5-shot, 2 questions; choice: version Yaml, 0-shot, 1 question."


def test_groups_have_a_table(results):
    for one in results["strategies"]:
        one["groups"] = {"all": {"acc,none": 0.25, "acc_stderr,none": 0.125}}
    _, groups = page_of_summary(results).sections
    assert groups.title == "Groups"
    assert [tuple(row) for row in groups.rows] == [("all", "acc", spec, "0.2500", "0.1250") for spec in SPECS]


def test_samples_stand_side_by_side(run):
    _, samples = page_of(run).sections
    assert samples.folded
    assert list(samples.columns) == ["task", "filter", "question", "target", *SPECS]
    first, second, third = (tuple(row) for row in samples.rows)
    assert first == ("maths", "strict", "What is 1 and 1?", "2", "✓ 2", "✓ 2")
    assert second == ("maths", "strict", "What is 2 and 1?", "3", "✗ 7", "✓ 3")
    assert third[2].startswith("…xxx")
    assert third[2].endswith("x Blue?")
    assert len(third[2]) == module.LONGEST
    assert third[3:] == ("yes", "✗ no", "✓ yes")


def test_one_task_and_filter_need_no_column_and_many_samples_are_cut(run, monkeypatch):
    for path in run.glob("*/samples_choice.jsonl"):
        path.unlink()
    assert list(page_of(run).sections[1].columns) == ["question", "target", *SPECS]
    monkeypatch.setattr(module, "SAMPLES_SHOWN", 1)
    samples = page_of(run).sections[1]
    assert len(samples.rows) == 1
    assert samples.note.endswith("The first 1 rows; all are in the strategies' samples files.")
    for path in run.glob("*/samples_maths.jsonl"):
        path.unlink()
    assert len(page_of(run).sections) == 1


def test_the_page_runs_nothing_of_the_samples(run):
    nasty = NASTY.replace("\ud800", "")
    row = generated(1, nasty, "2") | {"doc": {"question": nasty}}
    for directory in ("greedy", "self-consistency"):
        (run / directory / "samples_maths.jsonl").write_text(json.dumps(row) + "\n")
    text = write_report(run).read_text(encoding="utf-8")
    assert not NO_NETWORK.search(text)
    tags = parsed(text)
    assert "img" not in tags.tags
    assert tags.tags.count("script") == 1
    assert "alert(1)" in "".join(tags.text)


def test_broken_samples_are_one_sentence(run):
    path = run / "greedy" / "samples_maths.jsonl"
    for broken in ("{", '{"doc_id": 1}', json.dumps(generated(7, "1", "1"))):
        path.write_text(broken + "\n")
        with pytest.raises(UserError, match=r"the samples in .* cannot be read"):
            page_of(run)


def test_the_samples_are_searched(run, tmp_path):
    address = write_report(run).as_uri()
    with browser(tmp_path / "profile") as tab:
        tab.open(address)
        tab.run("document.querySelector('details.data').open = true")
        shown = "[...document.querySelectorAll('details.data tbody tr')].filter(r => r.checkVisibility()).length"
        assert tab.run(shown) == 3
        tab.run("document.querySelector('.find input').focus()")
        tab.press(*"WHAT is 2")
        assert tab.run(shown) == 1
        assert tab.run("document.querySelector('.find span').textContent") == " 1 of 3"
        assert tab.complaints() == []
