"""`forkpoint train` as a whole: every method, what it leaves behind, what it is given."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_pairs import made_up_pairs, write_pairs

from forkpoint.cli import main
from forkpoint.engines import load_engine
from forkpoint.training import preference_run
from forkpoint.training.configs import PreferenceConfig
from forkpoint.types import UserError

SHORT = ("--num_train_epochs=2", "--per_device_train_batch_size=4", "--logging_steps=2", "--learning_rate=2e-5")


@pytest.fixture(scope="module")
def pairs(tokenizer):
    """Twelve pairs of weight 1."""
    return [replace(p, weight=1.0) for p in made_up_pairs(12, len(tokenizer))]


@pytest.fixture(scope="module")
def file(pairs, tmp_path_factory):
    """pairs.jsonl with them."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs)


def train(method, file, out, *flags):
    """The exit code, with a short training."""
    return main(["train", method, "--pairs", str(file), "--out", str(out), "--quiet", *SHORT, *flags])


def names(out):
    return {path.name for path in out.iterdir() if not path.name.startswith(".")}


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize("method", ["sft", "rpo", "tdpo", "cdpo", "fork-dpo"])
def test_every_method_trains_and_leaves_a_model(method, pairs, lab, tmp_path, capsys):
    if method == "fork-dpo":
        single = [replace(p, chosen_ids=(5 + i,), rejected_ids=(6 + i,)) for i, p in enumerate(pairs)]
        pairs = [replace(p, rejected_weights=None) for p in single]
    out, whole = tmp_path / "out", ("--per_device_train_batch_size=12", "--num_train_epochs=6")  # a step has all pairs
    assert train(method, write_pairs(tmp_path / "pairs.jsonl", pairs), out, *whole) == 0
    summary = summary_of(out)
    assert summary["method"] == {"tdpo": "tdpo2", "cdpo": "critical-dpo"}.get(method, method)
    assert (summary["pairs"], summary["steps"]) == (12, 6)
    logged = [row for row in summary["history"] if "loss" in row]
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert names(out) == {"command.json", "config.json", "model", "report.html", "summary.json"}
    printed = capsys.readouterr().out
    assert "12 pairs, 6 steps" in printed
    assert printed.splitlines()[-2:] == [f"{out}/model", f"{out}/report.html"]
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= names(out / "model")
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names(out / "model"))
    trained = load_engine(f"{out}/model")
    assert not any(torch.equal(a, b) for a, b in zip(trained.model.parameters(), lab.model.parameters(), strict=True))
    assert trained.tokenizer("17 + 4")["input_ids"] == lab.tokenizer("17 + 4")["input_ids"]


def test_training_arguments_by_their_own_names_and_from_a_file(file, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("beta: 0.3\nweight_decay: 0.02\nmax_steps: 3\nlora_target_modules: [q_proj]\nlora_r: 2\n")
    assert train("dpo", file, tmp_path / "out", "--adam-beta2=0.98", "--config", str(config), "--max_steps", "2") == 0
    summary = summary_of(tmp_path / "out")
    assert (summary["beta"], summary["steps"]) == (0.3, 2)
    assert summary["lora"] == {
        "lora_r": 2, "lora_alpha": 32.0, "lora_target_modules": ["q_proj"], "lora_dropout": 0.0, "merge": False
    }  # fmt: skip
    assert summary["arguments"] | {"weight_decay": 0.02, "adam_beta2": 0.98, "max_steps": 2} == summary["arguments"]


@pytest.mark.parametrize("method", ["sft", "tdpo"])
def test_held_out_pairs_are_judged_after_each_epoch(method, pairs, file, tmp_path):
    others = write_pairs(tmp_path / "others.jsonl", pairs[:5])
    more = ("--eval_pairs", str(others), "--logging_steps=100", "--save_steps=100")
    assert train(method, file, tmp_path / "out", *more) == 0
    judged = evaluations(tmp_path / "out")
    assert [row["epoch"] for row in judged] == [1.0, 2.0]
    assert judged[1]["eval_loss"] < judged[0]["eval_loss"]  # it has seen them


def test_an_evaluation_is_of_the_held_out_pairs_alone(pairs, file, lab, tmp_path):
    """Not of what was trained on since the last log; at a rate of 0 the model is the lab's."""
    others = write_pairs(tmp_path / "others.jsonl", pairs[:5])
    more = ("--logging_steps=100", "--learning_rate=0", "--num_train_epochs=1")
    assert train("dpo", file, tmp_path / "out", "--eval_pairs", str(others), *more) == 0
    (judged,) = evaluations(tmp_path / "out")
    starts = [len(p.prompt_ids) for p in pairs[:5]]
    scored = lab.score([(*p.prompt_ids, *p.chosen_ids) for p in pairs[:5]], starts=starts)
    chosen = [one.logprobs[start:-1].sum() for one, start in zip(scored, starts, strict=True)]
    assert judged["eval_logps/chosen"] == pytest.approx(np.mean(chosen), rel=1e-5)
    assert judged["eval_loss"] == pytest.approx(math.log(2), abs=1e-6)


def evaluations(out):
    return [row for row in summary_of(out)["history"] if "eval_loss" in row]


def test_in_bfloat16_the_stored_reference_computes_alike(file, tmp_path):
    assert train("dpo", file, tmp_path / "out", "--bf16", "--logging_steps=1", "--max_steps=1") == 0
    assert abs(summary_of(tmp_path / "out")["history"][0]["rewards/margins"]) < 1e-6


def test_a_cache_that_cannot_be_written_is_a_warning(file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert train("dpo", file, tmp_path / "out", "--max_steps=1") == 0


BAD = [
    ("dpo", "--leraning_rate=1", "did you mean"), ("dpo", "--seed=-1", "seed"), ("dpo", "--max_steps=0", "max_steps"),
    ("dpo", "--per_device_train_batch_size=0", "at least 1"), ("dpo", "--num_train_epochs=0", "above 0"),
    ("dpo", "--report_to=foo", "do not go together"), ("dpo", "--train_sampling_strategy=foo", "one of random"),
    ("dpo", "--fsdp=full_shard", "not offered"), ("dpo", "--label_smoothing_factor=0.1", "does nothing"),
    ("dpo", "--eval_steps=5", "without --eval_strategy steps"), ("dpo", "--optim=adamw_8bit", "bitsandbytes"),
    ("dpo", "--use_liger_kernel=true", "liger-kernel"), ("sft", "--weight_decay=-1", "at least 0"),
    ("dpo", "--lr_scheduler_type=warmup_stable_decay", "num_decay_steps"), ("dpo", "--beta=0", "beta must be above 0"),
    ("dpo", "--max_length=2", "every pair is too long"), ("dpo", "--eval_strategy=steps", "no held-out data"),
    ("sft", "--save_strategy=best", "needs held-out data"), ("fork-dpo", "--seed=1", "takes single tokens"),
    ("dpo", "--model=./nowhere", "is not a model directory"), ("dpo", "--pairs=nowhere.jsonl", "does not exist"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "flag", "message"), BAD)
def test_bad_input_is_one_sentence(method, flag, message, file, tmp_path, capsys):
    assert main(["train", method, "--pairs", str(file), "--quiet", "--out", str(tmp_path / "out"), flag]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_pairs_that_do_not_fit_are_refused(pairs, lab, tmp_path):
    bare = [replace(p, rejected_weights=None) for p in pairs]
    for some, more, message in (
        (bare, {}, "has no rejected_weights"), ([], {}, "there are no pairs"),
        (pairs, {"lora_r": 2, "lora_dropout": 0.1}, "takes no lora_dropout"),
        (pairs, {"lora_r": 2, "lora_target_modules": ["x"]}, "no linear layer 'x'"),
        ([replace(pairs[0], chosen_ids=())], {}, "empty prompt or response"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            preference_run.train(lab.model, lab.tokenizer, some, PreferenceConfig(**more), tmp_path / "out")


def test_weights_of_sft_are_those_of_the_chosen_tokens(pairs, lab, tmp_path):
    """Weights of 1 are TRL's own to the last bit; tokens of weight 0 are as good as unlabelled."""

    def weights(some, name):
        model, args = copy.deepcopy(lab.model), PreferenceConfig(method="sft", max_steps=2, learning_rate=1e-3)
        preference_run.train(model, lab.tokenizer, some, args, tmp_path / name)
        return (tmp_path / name / "model" / "model.safetensors").read_bytes()

    def weighted(of):
        return [replace(p, chosen_weights=tuple(of(t) for t in range(len(p.chosen_ids)))) for p in pairs]

    plain = weights(pairs, "plain")
    assert weights(weighted(lambda t: 1.0), "ones") == plain
    halves = weights(weighted(lambda t: (0.5, 1.0)[t % 2] * (t < 4)), "halves")
    assert plain != halves != weights(weighted(lambda t: 1.0 * (t < 4)), "first")


@pytest.mark.parametrize("weighted", [0, 1])
def test_either_of_two_files_of_pairs_may_have_weights(weighted, pairs, lab, tmp_path):
    some = [replace(p, chosen_weights=(0.5,) * len(p.chosen_ids)) for p in pairs]
    data = [some, pairs] if weighted == 0 else [pairs, some]
    args = PreferenceConfig(method="sft", max_steps=1)
    model = copy.deepcopy(lab.model)
    summary = preference_run.train(model, lab.tokenizer, data[0], args, tmp_path / "out", eval_pairs=data[1])
    assert any("eval_loss" in row for row in summary["history"])


def test_evaluations_switched_off_are_another_run(pairs, lab, tmp_path):
    for name, more in (("on", {}), ("off", {"eval_strategy": "no"})):
        args = PreferenceConfig(method="dpo", max_steps=1, **more)
        model = copy.deepcopy(lab.model)
        preference_run.train(model, lab.tokenizer, pairs, args, tmp_path / name, eval_pairs=pairs)
    assert (tmp_path / "on/config.json").read_bytes() != (tmp_path / "off/config.json").read_bytes()
