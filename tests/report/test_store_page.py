"""The page of a `score` run: what the store holds, how its scores are spread, and its first rows token by token."""

from __future__ import annotations

import copy
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from test_critical_page import embedded

from forkpoint.cli import main
from forkpoint.report import page_of, write_report
from forkpoint.report.figures.distribution import counts_of, distribution_svg
from forkpoint.report.pages import store as module
from forkpoint.scores.documents import SHOWN
from forkpoint.scores.store import SCORES, open_store
from forkpoint.text import visible_pieces
from forkpoint.types import UserError

TEXTS = ["Q: Ada has 5 pens.\nA: 5.", "", "Then the number of pens doubles. " * 4, "Q: How many? A: The answer is 10."]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A store of 80 documents in rows of at most 32 tokens."""
    place = tmp_path_factory.mktemp("score")
    (place / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 20))
    command = [
        "score",
        "--data",
        str(place / "corpus.jsonl"),
        "--length",
        "32",
        "--quiet",
        "--out",
        str(place / "store"),
    ]
    assert main(command) == 0
    return place / "store"


@pytest.fixture(scope="module")
def scores(run):
    """All scores that the store holds, without those that are missing."""
    store = open_store(run)
    columns = {name: np.concatenate([store[i].scores[name] for i in range(len(store))]) for name in SCORES}
    return {name: column[np.isfinite(column)] for name, column in columns.items()}


def test_the_sentence_and_the_table_are_the_stores(run, scores):
    page = page_of(run)
    facts = json.loads((run / "store.json").read_text())
    assert page.title.endswith("corpus.jsonl")
    assert page.lines == [
        f"80 documents (20 of them empty), {facts['rows']} rows (isolated, at most 32 tokens), "
        f"{facts['tokens']:,} tokens, {facts['counted_tokens']:,} of them predicted, shards: 1; scored by lab"
    ]
    table = page.sections[1]
    assert table.columns[1:] == ("mean", "10%", "25%", "50%", "75%", "90%", "largest")
    assert [row[0] for row in table.rows] == ["reference loss", "reference entropy"]
    for row, values in zip(table.rows, scores.values(), strict=True):
        mean, *quantiles, largest = (float(cell) for cell in row[1:])
        assert mean == pytest.approx(values.mean(), abs=1e-3)
        wanted = np.quantile(values, module.QUANTILES, method="inverted_cdf")
        assert quantiles == pytest.approx(wanted, abs=1e-3)
        assert largest == pytest.approx(values.max(), abs=1e-3)
    assert ElementTree.fromstring(page.sections[0].svg()).tag.endswith("svg")


def test_the_first_rows_are_there_with_texts_and_scores(run, tokenizer):
    data = embedded(write_report(run).read_text(encoding="utf-8"))
    assert [score["key"] for score in data["scores"]] == list(SCORES)
    store = open_store(run)
    assert len(data["rows"]) == SHOWN < len(store)
    for i, row in enumerate(data["rows"]):
        scored = store[i]
        assert (row["id"], row["ids"]) == (f"row {i}", scored.row.ids.tolist())
        assert row["tokens"] == visible_pieces(tokenizer, row["ids"])
        for name in SCORES:
            known = [np.nan if value is None else value for value in row["columns"][name]]
            assert known == pytest.approx(scored.scores[name], rel=1e-3, nan_ok=True)


def test_the_spread_is_that_of_some_shards(monkeypatch):
    class Shards:
        shards = [None] * 5

        def values(self, i, name):
            return np.array([i, np.nan], np.float16)

    monkeypatch.setattr(module, "SHARDS", 3)
    _, table = module._spread(Shards())
    assert table.note.startswith("Of 3 shards of 5, evenly spaced.")
    assert table.rows[0] == ("reference loss", "2.000", "0.000", "0.000", "2.000", "4.000", "4.000", "4.000")


def test_the_chart_is_that_of_the_counts():
    values = np.array([0, 0.1, 0.4, 7, np.nan, np.inf], np.float16)
    counts = counts_of(values)
    assert counts.sum() == 4
    text = distribution_svg({"loss": {"tokens": counts}})
    assert "<!-- loss (nats) -->" in text
    assert text == distribution_svg({"loss": {"tokens": counts.copy()}})
    assert text != distribution_svg({"loss": {"tokens": counts_of(np.array([0, 0.1, 2, 7], np.float16))}})
    both = distribution_svg({"loss": {"selected": counts, "left out": counts}})
    assert "<!-- left out -->" in both
    assert (
        ElementTree.fromstring(distribution_svg({"loss": {"tokens": counts_of(np.zeros(3, np.float16))}})) is not None
    )


def test_a_store_that_is_only_tokenised_or_older_has_a_page(run, tmp_path):
    """A store made before documents.jsonl has no texts; without a reference there is nothing to spread."""
    old = tmp_path / "old"
    old.mkdir()
    for path in run.glob("*.*"):
        if path.suffix in (".json", ".arrow"):
            (old / path.name).write_bytes(path.read_bytes())
    page = page_of(old)
    assert page.tokens is None
    assert len(page.sections) == 2
    facts = json.loads((old / "store.json").read_text())
    plain = copy.deepcopy(facts) | {"reference": None}
    (old / "store.json").write_text(json.dumps(plain))
    page = page_of(old)
    assert page.sections == []
    assert page.lines[0].endswith("scored by nobody: only tokenised")


def test_an_unfinished_or_broken_store_is_refused(run, tmp_path):
    (tmp_path / "config.json").write_text((run / "config.json").read_text())
    with pytest.raises(UserError, match="is not finished; the same command"):
        page_of(tmp_path)
    (tmp_path / "store.json").write_text((run / "store.json").read_text())
    with pytest.raises(UserError, match=r"shard-00000\.arrow is missing"):
        page_of(tmp_path)
