"""A run of pretraining as a whole: what it leaves behind, adapters, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from made_up_stores import in_rows, made_up_documents, made_up_store
from safetensors.torch import load_file
from tiny_models import build_model, tiny_config

from forkpoint.engines.identity import vocabulary_digest
from forkpoint.training.configs import SelectiveConfig
from forkpoint.training.selective_run import pretrain
from forkpoint.types import UserError

LENGTHS = (5, 16, 9, 12, 3, 16, 8, 11, 14, 6, 16, 7, 12, 10)
ARGUMENTS = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2, "logging_steps": 3,
    "save_steps": 3, "learning_rate": 0.01, "eval_strategy": "steps", "eval_steps": 2, "ratio_warmup": 0.5,
    "snapshots": 5, "seed": 3,
}  # fmt: skip


def made(path, tokenizer, length=16, scored=True, vocabulary=None):
    """A store of fourteen rows."""
    reference = build_model(tiny_config(tokenizer), seed=2) if scored else None
    documents = made_up_documents(LENGTHS, vocabulary=len(tokenizer))
    digest = vocabulary or vocabulary_digest(tokenizer)
    return made_up_store(path, documents, in_rows(length), reference=reference, vocabulary=digest)


@pytest.fixture(scope="module")
def store(tokenizer, tmp_path_factory):
    """One with scores."""
    return made(tmp_path_factory.mktemp("stores") / "store", tokenizer)


@pytest.fixture(scope="module")
def whole(tokenizer, store, tmp_path_factory):
    """The directory of a run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    trained(store, out, tokenizer)
    return out


def trained(store, out, tokenizer, model=None, ref_model=None, **more):
    """The summary of a training of a new model, in eight steps, judged on the rows that it is trained on."""
    model, args = model or build_model(tiny_config(tokenizer), seed=1), SelectiveConfig(**(ARGUMENTS | more))
    return pretrain(model, tokenizer, store, args, out, eval_store=store, ref_model=ref_model)


def names(path):
    return {p.name for p in path.iterdir() if not p.name.startswith(".")}


def test_a_run_leaves_a_model_a_summary_and_snapshots(whole):
    assert names(whole) == {"config.json", "summary.json", "model", "snapshots"}
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= names(whole / "model")
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["method"], summary["rows"], summary["steps"]) == ("slm", 14, 8)
    assert summary["tokens_in_an_epoch"] == sum(LENGTHS)
    judged = [row["eval_loss"] for row in summary["history"] if "eval_loss" in row]
    assert len(judged) == 4
    assert judged[-1] < judged[0]
    logged = [row for row in summary["history"] if "loss" in row]
    assert [row["step"] for row in logged] == [3, 6, 8]
    shares = [row["selection/share"] for row in logged]
    assert shares == pytest.approx([0.9, 0.63, 0.6], abs=0.02)  # of steps: 1, 0.9, 0.8; 0.7, 0.6, 0.6; 0.6, 0.6
    assert logged[-1]["num_input_tokens_seen"] == 2 * sum(LENGTHS)


def test_snapshots_are_evenly_spaced_from_the_first_model_to_the_last(whole, tokenizer):
    assert names(whole / "snapshots") == {f"step-{step}" for step in (0, 2, 4, 6, 8)}
    first = load_file(whole / "snapshots" / "step-0" / "model.safetensors")
    for name, tensor in build_model(tiny_config(tokenizer), seed=1).state_dict().items():
        assert torch.equal(first[name], tensor), name
    for name in names(whole / "model") - {"README.md"}:
        last = (whole / "snapshots" / "step-8" / name).read_bytes()
        assert last == (whole / "model" / name).read_bytes(), name
    weights = {(p / "model.safetensors").read_bytes() for p in (whole / "snapshots").iterdir()}
    assert len(weights) == 5


def test_a_finished_run_is_not_repeated_and_another_one_refused(whole, store, tokenizer, monkeypatch):
    monkeypatch.setattr("forkpoint.training.fit.fit", None)
    assert trained(store, whole, tokenizer)["steps"] == 8
    with pytest.raises(UserError, match=r"holds a run with another configuration: rule\.ratio was 0\.6, now 0\.7"):
        trained(store, whole, tokenizer, ratio=0.7)


@pytest.mark.parametrize("merge", [False, True])
def test_adapters_alone_or_merged(merge, store, tokenizer, tmp_path):
    args = {"lora_r": 2, "lora_target_modules": ["q_proj"], "merge": merge, "snapshots": 2}
    summary = trained(store, tmp_path / "out", tokenizer, **args)
    losses = [row["eval_loss"] for row in summary["history"] if "eval_loss" in row]
    assert losses[-1] < losses[0]
    file = "model.safetensors" if merge else "adapter_model.safetensors"
    assert [name for name in names(tmp_path / "out" / "model") if name.endswith(".safetensors")] == [file]
    begin, end = (load_file(tmp_path / f"out/snapshots/step-{i}/adapter_model.safetensors") for i in (0, 8))
    assert all("q_proj.lora" in name for name in begin)
    assert not any(torch.equal(begin[name], end[name]) for name in begin)
    if merge:
        weights = load_file(tmp_path / "out" / "model" / file)
        before = build_model(tiny_config(tokenizer), seed=1).state_dict()
        changed = {name for name, tensor in before.items() if not torch.equal(weights[name], tensor)}
        assert changed == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}


REFUSED = {
    "another tokenizer": ({"vocabulary": "another"}, {}, "was made with another tokenizer, made-up's"),
    "long rows": ({"length": 600}, {}, "has rows of 600 tokens, but the model reads at most 512"),
    "no scores": ({"scored": False}, {}, "the rule excess_loss needs a reference model's scores, but .* has none"),
    "no such rule": ({}, {"rule": "rho"}, "a selection rule must be one of uniform, .* but is 'rho'"),
    "one snapshot": ({}, {"snapshots": 1}, "snapshots must be 0 or at least 2"),
    "no such layer": ({}, {"lora_r": 2, "lora_target_modules": ["x"]}, "the model has no linear layer 'x'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_one_sentence(name, tokenizer, tmp_path):
    of_store, of_training, message = REFUSED[name]
    other = made(tmp_path / "store", tokenizer, **of_store)
    with pytest.raises(UserError, match=message) as error:
        trained(other, tmp_path / "out", tokenizer, **of_training)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_model_or_reference_with_fewer_tokens_than_the_store_is_refused(store, tokenizer, tmp_path):
    small = build_model(tiny_config(tokenizer, vocab_size=100), seed=2)
    for whose, some in (("model", {"model": small}), ("reference model", {"ref_model": small})):
        with pytest.raises(UserError, match=f"holds token id .*, but the {whose} knows 0 to 99 only"):
            trained(store, tmp_path / "out", tokenizer, **some)
