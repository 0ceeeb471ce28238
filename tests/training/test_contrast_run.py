"""Whole runs of `contrast` on the lab: the files, the training, and wrong input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kills import contents
from lab_runs import rows_of
from peft import PeftModel
from tiny_models import build_model, tiny_config
from transformers import GPT2Config, OPTConfig

from forkpoint.cli import main
from forkpoint.engines import load_engine
from forkpoint.lab.problem_generator import load_problems
from forkpoint.training import adapters
from forkpoint.training import contrast_run as module
from forkpoint.training.adapters import TuningConfig, tune_adapter
from forkpoint.training.contrast_run import ContrastConfig, estimate, read_references
from forkpoint.trajectories.rows import load_trajectories, sample_trajectories, trajectory_row
from forkpoint.types import Problem, Sampling, Trajectory, UserError

SETTINGS = ContrastConfig(
    n=6, sampling=Sampling(max_tokens=100), tuning=TuningConfig(num_train_epochs=2, per_device_train_batch_size=4)
)
COMMAND = ["contrast", "--train_limit=12", "--n=6", "--max_tokens=100", "--num_train_epochs=2",
           "--per_device_train_batch_size=4"]  # fmt: skip


@pytest.fixture(scope="module")
def training():
    return load_problems("train", limit=12)


@pytest.fixture(scope="module")
def critical(lab, tmp_path_factory) -> Path:
    """A critical.jsonl with made-up critical tokens: wrong test trajectories, the last one without a verdict."""
    problems = load_problems("test", limit=12)
    drawn = sample_trajectories(lab, problems, Sampling(max_tokens=100), n=3, prompt="cot")
    rows = [
        trajectory_row(t, lab.tokenizer) | {"status": "critical", "critical_index": len(t.token_ids) // 2}
        for t in drawn if not t.correct
    ]  # fmt: skip
    rows[-1] |= {"status": "undecided", "critical_index": None}
    return written(tmp_path_factory.mktemp("critical") / "critical.jsonl", rows)


@pytest.fixture(scope="module")
def finished(critical, tmp_path_factory):
    """One run of the command line."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert main([*COMMAND, "--limit", "12", "--against", str(critical), "--out", str(out)]) == 0
    return out, json.loads((out / "summary.json").read_text())


def test_every_token_of_every_trajectory_is_scored(finished, critical):
    out, summary = finished
    given, scored = rows_of(critical), rows_of(out / "scores.jsonl")
    assert [row["id"] for row in scored] == [row["id"] for row in given]
    for row, source in zip(scored, given, strict=True):
        for key in ("problem_id", "question", "prompt_ids", "token_ids", "tokens", "answer", "gold", "correct"):
            assert row[key] == source[key]
        assert row.get("critical_index") == source["critical_index"]
        assert {len(column) for column in row["scores"].values()} == {len(row["token_ids"])}
        assert all(0 <= s <= 1 for s in row["scores"]["s"])
        assert (row["scores"]["s"][-1] == 1) == (row["token_ids"][-1] == 0)  # the end-of-sequence token
    tokens = sum(len(row["token_ids"]) for row in scored)
    assert summary["scored"] == {"trajectories": len(scored), "tokens": tokens}


def test_the_summary_follows_from_the_files(finished, critical, training):
    out, summary = finished
    samples = rows_of(out / "samples.jsonl")
    assert len(samples) == 12 * 6
    assert {row["problem_id"] for row in samples} == {p.id for p in training}
    assert summary["sets"]["samples"] == len(samples)
    assert summary["sets"]["correct"] == sum(row["correct"] for row in samples)
    for name in ("positive", "negative"):
        trained = summary["training"][name]
        assert trained["responses"] == summary["sets"][name]
        assert trained["steps"] == 2 * -(-trained["responses"] // 4)
        assert 0 < trained["losses"][-1] < trained["losses"][0] * 2  # of other responses than the first
        assert (out / name / "adapter_model.safetensors").exists()
    agreement = summary["agreement"]
    assert agreement["trajectories"] == len(rows_of(critical)) - 1
    assert [s["scorer"] for s in agreement["scorers"]] == ["contrast", "policy_prob", "entropy", "random"]
    recomputed = module.compare(rows_of(out / "scores.jsonl"), read_references(critical, load_problems(limit=12)))
    assert recomputed == agreement


def test_the_scores_say_what_the_adapters_say(lab, finished):
    """The adapters that stand in the directory, put on the model by PEFT alone, give the columns of scores.jsonl."""
    out, _ = finished
    row = rows_of(out / "scores.jsonl")[0]
    ids = torch.tensor([[*row["prompt_ids"], *row["token_ids"]]])
    own = torch.tensor(row["token_ids"])[:, None]
    for name in ("positive", "negative"):
        adapted = PeftModel.from_pretrained(load_engine("lab").model, str(out / name))
        with torch.inference_mode():
            logprobs = torch.log_softmax(adapted(ids).logits[0, len(row["prompt_ids"]) - 1 : -1], -1)
        np.testing.assert_allclose(row["scores"][f"logprob_{name}"], logprobs.gather(-1, own)[:, 0], atol=1e-4)


def test_the_loss_is_of_the_given_tokens_and_of_the_response_alone(lab, training, tmp_path):
    """Before its first step an adapter changes nothing: the first loss is the base model's own, token by token."""
    responses = sample_trajectories(lab, training[:5], Sampling(max_tokens=100), n=1, prompt="cot")
    settings, starts = TuningConfig(per_device_train_batch_size=5), [len(r.prompt_ids) for r in responses]
    facts = tune_adapter(lab.model, lab.tokenizer, responses, settings, tmp_path / "adapter")
    scored = lab.score([(*r.prompt_ids, *r.token_ids) for r in responses], starts=starts)
    logprobs = np.concatenate([s.logprobs[start:-1] for s, start in zip(scored, starts, strict=True)])
    assert facts["steps"] == 1
    assert facts["tokens"] == len(logprobs)
    assert facts["losses"] == [pytest.approx(-logprobs.mean(), abs=1e-4)]


def test_tuning_leaves_the_model_as_it_was(lab, training, tmp_path):
    responses = sample_trajectories(lab, training[:6], Sampling(max_tokens=100), n=1, prompt="cot")
    model = lab.model
    weights = {name: p.clone() for name, p in model.named_parameters()}
    attributes, configuration = set(vars(model)), dict(vars(model.config))
    pad = lab.tokenizer.pad_token
    settings = TuningConfig(per_device_train_batch_size=2, learning_rate=1e-2)
    tune_adapter(model, lab.tokenizer, responses, settings, tmp_path / "out")
    assert set(vars(model)) == attributes
    assert vars(model.config) == configuration
    assert lab.tokenizer.pad_token == pad
    assert not model.training
    assert {name for name, _ in model.named_parameters()} == set(weights)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


def test_other_names_of_layers(tokenizer, tmp_path):
    """GPT-2's layers are no nn.Linear; OPT's MLPs are not called so, and must be named."""
    one = Trajectory("t", Problem("p", "?", "1", "number"), (2, 3, 4), (5, 6), None, False, "length")
    sizes = {"n_positions": 64, "n_embd": 32}
    gpt2 = build_model(tiny_config(tokenizer, GPT2Config, **sizes))
    layers = [f"transformer.h.{i}.mlp.{name}" for i in range(2) for name in ("c_fc", "c_proj")]
    assert adapters.check_tuning(TuningConfig(), gpt2) == layers
    assert tune_adapter(gpt2, tokenizer, [one], TuningConfig(), tmp_path / "gpt2")["steps"] == 1
    opt = build_model(tiny_config(tokenizer, OPTConfig, ffn_dim=48, word_embed_proj_dim=32))
    with pytest.raises(UserError, match="name the ones to adapt with --lora_target_modules, of fc1, fc2, k_proj"):
        adapters.check_tuning(TuningConfig(), opt)
    assert len(adapters.check_tuning(TuningConfig(lora_target_modules=("fc1", "fc2")), opt)) == 4


def test_samples_may_be_given_and_their_wrong_ones_are_scored(lab, finished, tmp_path):
    """The run's own samples, handed to it as a file, give the same adapters."""
    out, _ = finished
    other = tmp_path / "out"
    command = [*COMMAND[:2], *COMMAND[4:], "--samples", str(out / "samples.jsonl"), "--out", str(other)]
    assert main([*command, "--max-tokens", "100"]) == 0
    for name in ("positive", "negative"):
        assert contents(other / name) == contents(out / name)
    wrong = [row["id"] for row in rows_of(out / "samples.jsonl") if not row["correct"]]
    assert [row["id"] for row in rows_of(other / "scores.jsonl")] == wrong
    assert not (other / "samples.jsonl").exists()


def test_what_cannot_be_estimated_is_refused(lab, training, tmp_path):
    with pytest.raises(UserError, match="elsewhere is not"):
        estimate(SimpleNamespace(name="elsewhere"), training, SETTINGS, tmp_path / "out")
    (one,) = sample_trajectories(lab, training[:1], Sampling(max_tokens=9), n=1, prompt="cot")
    long = replace(one, token_ids=one.token_ids * 600)
    with pytest.raises(UserError, match="reads at most"):
        estimate(lab, training, SETTINGS, tmp_path / "out", trajectories=[long])
    with pytest.raises(UserError, match="n must be at least 1"):
        estimate(lab, training, replace(SETTINGS, n=0), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_input_is_refused(lab, critical, finished, training, tmp_path):
    """One set is empty; critical tokens are of other trajectories, or outside them, or of none."""
    samples = load_trajectories(finished[0] / "samples.jsonl", training, lab)
    for correct, message in ((True, "are correct, so"), (False, "none of the")):
        some = [t for t in samples if t.correct == correct]
        with pytest.raises(UserError, match=message):
            estimate(lab, training, SETTINGS, tmp_path / str(correct), samples=some)
    problems = load_problems("test", limit=12)
    trajectories = load_trajectories(critical, problems, lab)
    first, *others = rows_of(critical)
    for change, message in (({"id": "another"}, "is not among"), ({"token_ids": [5, 6], "critical_index": 0}, "other")):
        references = read_references(written(tmp_path / "rows.jsonl", [{**first, **change}, *others]), problems)
        with pytest.raises(UserError, match=message):
            estimate(lab, training, SETTINGS, tmp_path / "out", trajectories=trajectories, references=references)
    for rows, message in (
        ([{**first, "critical_index": 1000}], "critical_index is 1000"), ([{"id": "x"}], "expected a row"),
        ([others[-1]], "no trajectory"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_references(written(tmp_path / "rows.jsonl", rows), problems)
    assert not (tmp_path / "out").exists()


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("tuning", "message"), [
    ({"lora_r": 0}, "lora_r must be above 0"), ({"learning_rate": -1.0}, "learning_rate must be above 0"),
    ({"lora_target_modules": ("lm_head",)}, "no linear layer 'lm_head'"),
    ({"learning_rate": 1e30, "per_device_train_batch_size": 1}, "not finite"),
])  # fmt: skip
def test_a_tuning_that_cannot_be_leaves_nothing(tuning, message, lab, training, tmp_path):
    responses = sample_trajectories(lab, training[:4], Sampling(max_tokens=60), n=1, prompt="cot")
    with pytest.raises(UserError, match=message):
        tune_adapter(lab.model, lab.tokenizer, responses, TuningConfig(**tuning), tmp_path / "positive")
    assert not (tmp_path / "positive").exists()
