"""The page of a `select` run: how many tokens are selected, and which ones in the store's first rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from datasets import load_from_disk
from test_critical_page import embedded

from forkpoint.cli import main
from forkpoint.report import page_of, write_report
from forkpoint.training.sft import IGNORED

TEXTS = ["Q: Ada has 5 pens.\nA: 5.", "Then the number of pens doubles. " * 4, "Q: How many? A: The answer is 10."]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Rows of at most 16 tokens that overlap, so that some tokens are context only."""
    place = tmp_path_factory.mktemp("score")
    (place / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 20))
    command = ["score", "--data", str(place / "corpus.jsonl"), "--length", "16", "--stride", "12", "--quiet"]
    assert main([*command, "--out", str(place / "store")]) == 0
    return place / "store"


@pytest.mark.parametrize("options", [
    ["--rule", "reference_loss", "--ratio", "0.3"],
    ["--rule", "union", "--ratio", "0.5", "--entropy_ratio", "0.2", "--scope", "corpus"],
    ["--rule", "random", "--ratio", "0.5", "--scope", "corpus", "--seed", "3"],
])  # fmt: skip
def test_the_shown_tokens_are_the_selected_ones(store, tmp_path, capsys, options):
    out = tmp_path / "labels"
    assert main(["select", f"--store={store}", *options, f"--out={out}", "--quiet"]) == 0
    said = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    kept, of = summary["selected_tokens"], summary["counted_tokens"]
    assert 0 < kept < of
    sentence = f"{summary['rows']:,} rows, {kept:,} of {of:,} tokens ({kept / of:.1%}) are selected"
    assert sentence in said
    assert said.endswith(f"\n{out}\n{out / 'report.html'}\n")
    data = embedded((out / "report.html").read_text(encoding="utf-8"))
    assert "selected" in [score["key"] for score in data["scores"]]
    labels = load_from_disk(str(out))
    assert len(data["rows"]) == 50
    for shown, label in zip(data["rows"], labels, strict=False):
        assert shown["ids"] == label["input_ids"]
        marks = shown["columns"]["selected"]
        assert [mark == 1 for mark in marks] == [one != IGNORED for one in label["labels"]]
        unknown = [value is None for value in shown["columns"]["reference_loss"]]
        assert [mark is None for mark in marks] == unknown
        assert unknown[0]
    drawn = page_of(out).sections
    assert [section.title for section in drawn] == ["Scores of what is selected and left out"]


def test_settings_are_said(store, tmp_path):
    out = tmp_path / "labels"
    rule = ["--rule=intersection", "--ratio=0.7", "--entropy_ratio=0.9", "--scope=corpus", "--seed=2"]
    assert main(["select", f"--store={store}", *rule, f"--out={out}", "--quiet"]) == 0
    page = page_of(out)
    assert page.title == "Tokens selected by intersection"
    assert page.lines[1] == "ratio 0.7, entropy_ratio 0.9, scope corpus, seed 2"


def test_a_store_without_texts_leaves_the_sentences(store, tmp_path):
    bare = tmp_path / "store"
    bare.mkdir()
    for path in store.iterdir():
        if path.name != "documents.jsonl":
            (bare / path.name).write_bytes(path.read_bytes())
    assert main(["select", f"--store={bare}", f"--out={tmp_path / 'labels'}", "--quiet"]) == 0
    assert not (tmp_path / "labels" / "documents.jsonl").exists()
    page = page_of(tmp_path / "labels")
    assert (page.tokens, list(page.sections)) == (None, [])
    assert "are selected" in write_report(tmp_path / "labels").read_text(encoding="utf-8")


def test_all_tokens_selected_make_one_line(store, tmp_path):
    out = tmp_path / "labels"
    assert main(["select", f"--store={store}", "--ratio=1", f"--out={out}", "--quiet"]) == 0
    rows = [json.loads(line) for line in (out / "documents.jsonl").read_text().splitlines()]
    assert {mark for row in rows for mark in row["selected"]} == {None, 1}
    (chart,) = page_of(out).sections
    assert "<svg" in chart.svg()
    assert np.isfinite([v for row in rows for v in row["reference_loss"] if v is not None]).all()
