"""A static selection as labels: what is kept, how it is ranked, and that other trainers can read it."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from made_up_stores import made_up_documents, made_up_store

from forkpoint.scores.context import Context, counted
from forkpoint.training.selection_labels import export_labels
from forkpoint.types import UserError
from forkpoint.weights.rules import Rule

RULES = [
    Rule("reference_loss", 0.3),
    Rule("reference_entropy", 0.6),
    Rule("union", 0.2, 0.4),
    Rule("intersection", 0.7),
    Rule("random", 0.5),
]


def scores(row):
    """Numbers of a few values only, so that many are equal; NaN where nothing is predicted."""
    rng = np.random.default_rng(int(row.ids.sum()))
    predicted = counted(len(row.ids), row.starts, row.context)
    return {
        name: np.where(predicted, rng.integers(0, 9, len(row.ids)) / 4, np.nan).astype(np.float32)
        for name in ("reference_loss", "reference_entropy")
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    lengths = [5, 9, 30, 2, 17, 12, 8, 21, 1, 14]
    context = Context("isolated", 20, 15)
    return made_up_store(
        tmp_path_factory.mktemp("export") / "store", made_up_documents(lengths), context, scores=scores
    )


def kept_of(data):
    return [np.array(row["labels"]) != -100 for row in data]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.score)
def test_each_row_is_ranked_by_itself(store, rule, tmp_path):
    summary = export_labels(store, rule, tmp_path / "out")
    data = datasets.load_from_disk(str(tmp_path / "out"))
    assert len(data) == len(store) == summary["rows"]
    for row, stored, kept in zip(data, store, kept_of(data), strict=True):
        ids = stored.row.ids
        predicted = counted(len(ids), stored.row.starts, stored.row.context)
        assert row["input_ids"] == ids.tolist()
        assert np.array_equal(np.array(row["labels"])[kept], ids[kept])  # aligned: label i is token i
        assert not kept[~predicted].any()
        if rule.score.startswith("reference"):
            wanted = int(np.floor(rule.ratio * predicted.sum() + 0.5))
            values = stored.scores[rule.score]
            assert kept.sum() == wanted
            assert not wanted or values[kept].max() <= values[predicted & ~kept].min(initial=np.inf)
    assert summary["selected_tokens"] == sum(k.sum() for k in kept_of(data))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.score)
def test_or_all_rows_together(store, rule, tmp_path):
    summary = export_labels(store, rule, tmp_path / "out", scope="corpus")
    kept = np.concatenate(kept_of(datasets.load_from_disk(str(tmp_path / "out"))))
    predicted = np.concatenate([counted(len(s.row.ids), s.row.starts, s.row.context) for s in store])
    values = {name: np.concatenate([s.scores[name] for s in store]) for name in store[0].scores}
    ratios = {"reference_loss": rule.ratio, "reference_entropy": rule.entropy_ratio or rule.ratio}
    below = {
        name: column <= np.sort(column[predicted])[max(0, int(ratios[name] * predicted.sum()) - 1)]
        for name, column in values.items()
    }
    if rule.score in below:  # equal scores at the limit are kept by chance, as many as are wanting in expectation
        assert not kept[predicted & ~below[rule.score]].any()
        assert kept.sum() == pytest.approx(rule.ratio * predicted.sum(), abs=8)
    elif rule.score == "intersection":
        assert not kept[~(below["reference_loss"] & below["reference_entropy"])].any()
    elif rule.score == "union":
        assert not kept[~(below["reference_loss"] | below["reference_entropy"])].any()
    assert 0 < summary["selected_tokens"] == kept.sum() < summary["counted_tokens"] == predicted.sum()


def test_all_tokens_at_a_ratio_of_1(store, tmp_path):
    for scope in ("sequence", "corpus"):
        summary = export_labels(store, Rule("reference_loss", 1.0), tmp_path / scope, scope=scope)
        assert summary["selected_tokens"] == summary["counted_tokens"]


def test_rules_that_read_the_trained_model_are_refused(store, tmp_path):
    for name in ("excess_loss", "loss", "uniform"):
        with pytest.raises(UserError, match="knows its tokens before training"):
            export_labels(store, Rule(name), tmp_path / name)


def test_a_finished_export_is_kept_and_another_one_refused(store, tmp_path):
    first = export_labels(store, RULES[0], tmp_path / "out")
    assert export_labels(store, RULES[0], tmp_path / "out") == first
    with pytest.raises(UserError, match=r"another configuration: ratio was 0\.3, now 0\.4"):
        export_labels(store, Rule("reference_loss", 0.4), tmp_path / "out")
