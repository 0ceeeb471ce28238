"""A run of pretraining as a whole: what it leaves behind, kills, adapters, and what it refuses."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from made_up_stores import in_rows, made_up_documents, made_up_store
from safetensors.torch import load_file
from tiny_models import build_model, tiny_config
from transformers import AutoTokenizer

from forkpoint.engines.identity import vocabulary_digest
from forkpoint.lab import MODEL_DIR
from forkpoint.scores.store import open_store
from forkpoint.training.configs import SelectiveConfig
from forkpoint.training.selective_run import pretrain
from forkpoint.types import UserError

LENGTHS = (5, 16, 9, 12, 3, 16, 8, 11, 14, 6, 16, 7, 12, 10)
ARGUMENTS = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2, "logging_steps": 3,
    "save_steps": 3, "learning_rate": 0.01, "eval_strategy": "steps", "eval_steps": 2,
}  # fmt: skip


def eight_steps(**more):
    return SelectiveConfig(**(ARGUMENTS | {"ratio_warmup": 0.5, "snapshots": 5, "seed": 3} | more))


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
    """The directory of an undisturbed run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    trained(store, out, tokenizer)
    return out


def trained(store, out, tokenizer, args=None, **more):
    """The summary of a training of a new model, judged on the rows that it is trained on."""
    model = build_model(tiny_config(tokenizer), seed=1)
    return pretrain(model, tokenizer, store, args or eight_steps(), out, eval_store=store, **more)


def names(path):
    return {p.name for p in path.iterdir() if not p.name.startswith(".")}


def test_a_run_leaves_a_model_a_summary_and_snapshots(whole, store):
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


MOMENTS = ("1", "snapshot", "checkpoint", "5", "checkpoint again", "7", "model", "summary")


def killed_at(moment):
    """Have this process kill itself the next time that it gets there."""
    import signal

    import transformers.trainer_callback as callbacks

    from forkpoint.training import fit, models

    def stop():
        os.kill(os.getpid(), signal.SIGKILL)

    if moment.isdigit():
        step = fit._Report.on_step_end
        fit._Report.on_step_end = lambda self, args, state, control, **more: (
            stop() if state.global_step == int(moment) else step(self, args, state, control, **more)
        )
    elif moment.startswith("checkpoint"):
        number, save = 6 if "again" in moment else 3, callbacks.TrainerState.save_to_json

        def torn(self, path):
            if self.global_step != number:
                return save(self, path)
            Path(path).write_text('{"epoch": 1.')
            stop()

        callbacks.TrainerState.save_to_json = torn
    elif moment == "summary":
        fit.write_whole = lambda *_: stop()
    else:  # while it is saved
        name, sort = {"snapshot": ".step-2.partial", "model": ".model.partial"}[moment], models.settle_config
        models.settle_config = lambda path: stop() if path.name == name else sort(path)


def killed_again_and_again(path, out):
    """Run in a process of its own: start a training and kill it, at each of the moments."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    for name in ("peft", "forkpoint.training.selective_trainer"):
        import_module(name)  # once for all of them
    gc.freeze()
    for moment in MOMENTS:
        child = os.fork()
        if not child:
            killed_at(moment)
            trained(open_store(path), out, tokenizer)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9, moment
        assert not (out / "summary.json").exists()
    assert (out / "model").exists()


@pytest.mark.slow
def test_kill_9_and_on_to_the_same_bytes(whole, store, tokenizer, tmp_path):
    """Each process gets a little further than the one before; checkpoints lie within epochs."""
    out = tmp_path / "killed"
    tests = Path(__file__).parents[1]
    source = os.environ.get("PYTHONPATH", "")
    places = os.pathsep.join(map(str, (tests / "training", tests / "helpers", source)))
    script = "import sys, pathlib, test_selective_run as t; t.killed_again_and_again(*map(pathlib.Path, sys.argv[1:]))"
    subprocess.run(
        [sys.executable, "-c", script, str(store.path), str(out)], check=True, timeout=600,
        env=os.environ | {"PYTHONPATH": places},
    )  # fmt: skip
    trained(store, out, tokenizer)
    files = [p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and p.name[0] != "."]
    assert sorted(files) == sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file() and p.name[0] != ".")
    for file in files:
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file


def test_a_finished_run_is_not_repeated_and_another_one_refused(whole, store, tokenizer, monkeypatch):
    monkeypatch.setattr("forkpoint.training.fit.fit", None)
    assert trained(store, whole, tokenizer)["steps"] == 8
    with pytest.raises(UserError, match=r"holds a run with another configuration: rule\.ratio was 0\.6, now 0\.7"):
        trained(store, whole, tokenizer, eight_steps(ratio=0.7))


@pytest.mark.parametrize("merge", [False, True])
def test_adapters_alone_or_merged(merge, store, tokenizer, tmp_path):
    args = eight_steps(lora_r=2, lora_target_modules=["q_proj"], merge=merge, snapshots=2)
    summary = trained(store, tmp_path / "out", tokenizer, args)
    losses = [row["eval_loss"] for row in summary["history"] if "eval_loss" in row]
    assert losses[-1] < losses[0]
    file = "model.safetensors" if merge else "adapter_model.safetensors"
    assert [name for name in names(tmp_path / "out" / "model") if name.endswith(".safetensors")] == [file]
    begin, end = (load_file(tmp_path / f"out/snapshots/step-{i}/adapter_model.safetensors") for i in (0, 8))
    assert all("q_proj.lora" in name for name in begin)
    assert not any(torch.equal(begin[name], end[name]) for name in begin)
    if merge:
        weights = load_file(tmp_path / "out" / "model" / file)
        changed = {
            name for name, tensor in build_model(tiny_config(tokenizer), seed=1).state_dict().items()
            if not torch.equal(weights[name], tensor)
        }  # fmt: skip
        assert changed == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}


REFUSED = {
    "another tokenizer": ({"vocabulary": "another"}, {}, "was made with another tokenizer, made-up's"),
    "long rows": ({"length": 600}, {}, "has rows of 600 tokens, but the model reads at most 512"),
    "no scores": ({"scored": False}, {}, "the rule excess_loss needs a reference model's scores, but .* has none"),
    "no such rule": ({}, {"rule": "rho"}, "a selection rule must be one of uniform, .* but is 'rho'"),
    "ratio": ({}, {"ratio": 0.0}, r"ratio must be above 0 and at most 1, but is 0\.0"),
    "one snapshot": ({}, {"snapshots": 1}, "snapshots must be 0 or at least 2"),
    "no such layer": ({}, {"lora_r": 2, "lora_target_modules": ["x"]}, "the model has no linear layer 'x'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_one_sentence(name, tokenizer, tmp_path):
    of_store, of_training, message = REFUSED[name]
    other = made(tmp_path / "store", tokenizer, **of_store)
    with pytest.raises(UserError, match=message) as error:
        trained(other, tmp_path / "out", tokenizer, eight_steps(**of_training))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_model_or_reference_with_fewer_tokens_than_the_store_is_refused(store, tokenizer, tmp_path):
    small = build_model(tiny_config(tokenizer, vocab_size=100), seed=2)
    with pytest.raises(UserError, match=r"holds token id .*, but the model knows 0 to 99 only"):
        pretrain(small, tokenizer, store, eight_steps(), tmp_path / "out", eval_store=store)
    with pytest.raises(UserError, match=r"holds token id .*, but the reference model knows 0 to 99 only"):
        trained(store, tmp_path / "out", tokenizer, ref_model=small)


def test_a_model_or_a_reference_that_is_broken_names_the_row(store, tokenizer, tmp_path):
    broken, reference = (build_model(tiny_config(tokenizer), seed=1) for _ in range(2))
    for model in (broken, reference):
        with torch.no_grad():
            model.get_input_embeddings().weight[int(store[4].row.ids[0])] = math.nan
    args = eight_steps(train_sampling_strategy="sequential", eval_steps=8)
    with pytest.raises(UserError, match="the reference model's loss of a token in row 4 of the store is nan at step 2"):
        trained(store, tmp_path / "reference", tokenizer, args, ref_model=reference)
    with pytest.raises(UserError, match="the loss of a token in row 4 of the store is nan at step 2"):
        pretrain(broken, tokenizer, store, args, tmp_path / "model", eval_store=store)
