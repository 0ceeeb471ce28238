"""Token dynamics over the checkpoints of a training, and what is left of an interrupted study."""

from __future__ import annotations

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from selective_stores import corpus
from tiny_models import build_model, tiny_config

from forkpoint.engines.loading import load_pretrained
from forkpoint.scores.checkpoint_losses import checkpoints_of, study
from forkpoint.scores.context import Context
from forkpoint.scores.reference_losses import score_corpus
from forkpoint.scores.store import open_store
from forkpoint.types import UserError

TEXTS = ("Q: Ada has 5 pens.\nA: 5.", "", "Then the number of pens doubles.", "Q: How many? A: The answer is 10.")


def load(name):
    return load_pretrained(
        name, device="cpu", dtype="float32", attn_implementation=None, revision=None, trust_remote_code=False
    )


@pytest.fixture(scope="module")
def snapshots(tokenizer, tmp_path_factory):
    """Three models: one, the same with its logits scaled, and with them scaled more."""
    folder = tmp_path_factory.mktemp("snapshots")
    for step, scale in ((0, 1.0), (20, 0.5), (100, 0.1)):
        model = build_model(tiny_config(tokenizer))
        with torch.no_grad():
            model.lm_head.weight *= scale
        model.save_pretrained(folder / f"step-{step}")
        tokenizer.save_pretrained(folder / f"step-{step}")
    return folder


@pytest.fixture(scope="module")
def store(tokenizer, snapshots, tmp_path_factory):
    out = tmp_path_factory.mktemp("dynamics") / "store"
    model = load(str(snapshots / "step-0"))[0]
    score_corpus(corpus(*TEXTS), tokenizer, out, Context("isolated", 32, 32), model=model)
    return open_store(out)


def test_checkpoints_stand_in_the_order_of_their_steps(snapshots):
    assert [path.name for path in checkpoints_of([snapshots])] == ["step-0", "step-20", "step-100"]
    assert checkpoints_of([snapshots / "step-20", snapshots / "step-0"])[0].name == "step-20"
    for paths in ([snapshots / "step-0"], [snapshots.parent / "nothing"]):
        with pytest.raises(UserError):
            checkpoints_of(paths)


def test_losses_are_each_checkpoint_s_own_and_a_killed_study_goes_on_with_the_next(snapshots, store, tmp_path):
    checkpoints = checkpoints_of([snapshots])
    summary = study(load, checkpoints, store, tmp_path / "out", limit=3, shown=2)
    losses = [np.load(path) for path in sorted((tmp_path / "out" / "losses").iterdir())]
    stored = np.concatenate([store[i].scores["reference_loss"] for i in range(3)])
    np.testing.assert_allclose(losses[0], stored, atol=0.02)  # the reference is the first checkpoint
    assert not np.allclose(losses[0], losses[2], atol=0.02, equal_nan=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "documents.jsonl").read_text().splitlines()]
    assert [line["token_ids"] for line in lines] == [store[i].row.ids.tolist() for i in range(2)]
    assert lines[0]["loss"][1] == pytest.approx(float(losses[2][1]), abs=1e-5)
    assert lines[0]["excess_loss"][1] == pytest.approx(float(losses[2][1] - stored[1]), abs=1e-5)
    assert lines[0]["class"][0] is None
    assert sum(row["tokens"] for row in summary["dynamics"]["classes"].values()) == int(np.isfinite(stored).sum())

    loaded = [load(str(path)) for path in checkpoints]
    broken = Mock(side_effect=[loaded[0], KeyboardInterrupt, *loaded[1:], loaded[2]])
    with pytest.raises(KeyboardInterrupt):
        study(broken, checkpoints, store, tmp_path / "broken", limit=3, shown=2)
    assert study(broken, checkpoints, store, tmp_path / "broken", limit=3, shown=2) == summary
    assert broken.call_count == 5  # the first checkpoint is not loaded again; the last call is for its tokenizer
    for file in ("documents.jsonl", "summary.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes()


def test_models_with_other_tokens_are_refused(snapshots, store, tmp_path):
    def other(name):
        model, tokenizer = load(name)
        tokenizer.add_tokens(["<new>"])
        return model, tokenizer

    with pytest.raises(UserError, match="other tokens"):
        study(other, checkpoints_of([snapshots]), store, tmp_path / "out", limit=3, shown=2)
