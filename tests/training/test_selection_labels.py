"""A static selection as labels: what is kept, how it is ranked, and that other trainers can read it."""

from __future__ import annotations

from collections import defaultdict

import datasets
import numpy as np
import pytest
from made_up_stores import in_rows, made_up_documents, made_up_store, plain_selection

from forkpoint.scores.context import counted
from forkpoint.scores.store import SCORES
from forkpoint.training.selection_labels import export_labels
from forkpoint.training.store_batches import Rows
from forkpoint.types import UserError
from forkpoint.weights.rules import Rule

RULES = [
    Rule("reference_loss", 0.3),
    Rule("reference_entropy", 0.6),
    Rule("union", 0.2, 0.4),
    Rule("intersection", 0.7),
    Rule("random", 0.5),
    Rule("reference_loss", 1.0),
]


def scores(row):
    """Numbers of a few values only, so that many are equal; NaN where nothing is predicted."""
    rng = np.random.default_rng(int(row.ids.sum()))
    predicted = counted(len(row.ids), row.starts, row.context)
    values = {name: rng.integers(0, 9, len(row.ids)) / 4 for name in SCORES}
    return {name: np.where(predicted, column, np.nan).astype(np.float32) for name, column in values.items()}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    lengths = [5, 9, 30, 2, 17, 12, 8, 21, 1, 14]
    path = tmp_path_factory.mktemp("export") / "store"
    return made_up_store(path, made_up_documents(lengths), in_rows(20, 15), scores=scores)


def exported(store, rule, out, scope):
    """The counted tokens of a store in columns, as `plain_tokens` gives them, with `kept` of the export."""
    summary = export_labels(store, rule, out, scope=scope)
    data, columns = datasets.load_from_disk(str(out)), defaultdict(list)
    for example, row in zip((Rows(store, 0)[i] for i in range(len(store))), data, strict=True):
        ids, stored = example.scored.row.ids, example.scored.row
        labels, predicted = np.array(row["labels"]), counted(len(ids), stored.starts, stored.context)
        assert row["input_ids"] == ids.tolist()
        assert (labels[labels != -100] == ids[labels != -100]).all()  # aligned: label i is token i
        assert (labels[~predicted] == -100).all()
        row_number = np.full(len(ids), example.index)
        own = {**example.scored.scores, "chance": example.chance, "kept": labels != -100, "index": row_number}
        for name, column in own.items():
            columns[name].append(column[predicted])
    found = {name: np.concatenate(parts) for name, parts in columns.items()}
    assert summary["rows"] == len(store)
    assert (summary["selected_tokens"], summary["counted_tokens"]) == (found["kept"].sum(), len(found["kept"]))
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.score)
def test_each_row_is_ranked_by_itself(store, rule, tmp_path):
    tokens = exported(store, rule, tmp_path / "out", "sequence")
    assert tokens["kept"].tolist() == plain_selection(tokens, rule, tokens["index"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.score)
def test_or_all_rows_together(store, rule, tmp_path):
    """Equal scores at the limit are kept by chance, as many as are wanting in expectation."""
    tokens = exported(store, rule, tmp_path / "out", "corpus")
    plain = plain_selection(tokens, rule, np.zeros(len(tokens["kept"])))
    assert (tokens["kept"] != plain).sum() <= (0 if rule.ratio == 1 else 8)


def test_rules_that_read_the_trained_model_are_refused(store, tmp_path):
    for name in ("excess_loss", "loss", "uniform"):
        with pytest.raises(UserError, match="knows its tokens before training"):
            export_labels(store, Rule(name), tmp_path / name)


def test_a_finished_export_is_kept_and_another_one_refused(store, tmp_path):
    first = export_labels(store, RULES[0], tmp_path / "out")
    assert export_labels(store, RULES[0], tmp_path / "out") == first
    with pytest.raises(UserError, match=r"another configuration: ratio was 0\.3, now 0\.4"):
        export_labels(store, Rule("reference_loss", 0.4), tmp_path / "out")
