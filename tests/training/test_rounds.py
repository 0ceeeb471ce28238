"""Whole runs of `rounds` on the lab: the files, what the trainer sees, and wrong input."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_runs import rows_of
from safetensors.numpy import load_file

from forkpoint.cli import main
from forkpoint.engines import load_engine
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.lab import MODEL_DIR
from forkpoint.lab.problem_generator import load_problems
from forkpoint.tasks import stop_strings
from forkpoint.training import rounds as module
from forkpoint.training.configs import TrainingConfig
from forkpoint.training.heldout_eval import figures, respond
from forkpoint.training.own_answers import LikelihoodFilter, choose
from forkpoint.training.rounds import Base, RoundsConfig, round_seed, tune_in_rounds
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Sampling, UserError

COMMAND = ["rounds", "--limit=8", "--n=5", "--eval-limit=5", "--eval-n=4", "--rounds=2", "--max-tokens=100", "--seed=3",
           "--learning-rate=1e-3", "--warmup-steps=0", "--filter=example"]  # fmt: skip
SAMPLING = Sampling(max_tokens=100, stop=stop_strings("cot"), seed=3)
SETTINGS = RoundsConfig(
    1, n=5, eval_n=1, sampling=SAMPLING, tuning=TrainingConfig(learning_rate=1e-3, num_train_epochs=1)
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """One run of the command line."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert main([*COMMAND, "--out", str(out)]) == 0
    return out, json.loads((out / "summary.json").read_text())


def test_the_summary_follows_from_the_files(finished):
    out, summary = finished
    assert [row["round"] for row in summary["results"]] == [0, 1, 2]
    assert summary["stopped"] is None
    for row in summary["results"]:
        directory = out / f"round-{row['round']}"
        assert json.loads((directory / "round.json").read_text()) == row
        evaluated = rows_of(directory / "evaluation.jsonl")
        assert [one["problem_id"] for one in evaluated] == [p.id for p in load_problems("test", limit=5)]
        assert row["held_out"] == figures(evaluated)
        assert not (directory / "journal.jsonl").exists()
        assert not (directory / "checkpoints").exists()
    assert not (out / "round-0/samples.jsonl").exists()
    assert summary["results"][0].keys() == {"round", "stopped", "held_out"}
    for number in (1, 2):
        row, samples = summary["results"][number], rows_of(out / f"round-{number}/samples.jsonl")
        assert [one["id"] for one in samples] == [f"{p.id}/{i}" for p in load_problems("train", limit=8)
                                                  for i in range(5)]  # fmt: skip
        trained = [one for one in samples if one["status"] == "trained"]
        assert row["samples"]["trained"] == row["training"]["examples"] == len(trained) > 0
        assert row["samples"]["wrong"] == sum(not one["correct"] for one in samples)
        assert row["training"]["tokens_in_an_epoch"] == sum(
            len(one["prompt_ids"]) + len(one["token_ids"]) for one in trained
        )
    assert (out / "rounds.svg").read_text().startswith("<svg")


def test_each_round_starts_from_the_model_of_the_one_before(finished, lab):
    """Round 2's samples are drawn from round 1's model, with a seed of its own; round 1's from the base model."""
    out, _ = finished
    problems = load_problems("train", limit=8)
    for number, engine in ((1, lab), (2, load_engine(str(out / "round-1/model")))):
        sampling = replace(SAMPLING, seed=round_seed(3, number))
        drawn = sample_trajectories(engine, problems, sampling, n=5, prompt="cot")
        samples = rows_of(out / f"round-{number}/samples.jsonl")
        assert [tuple(row["token_ids"]) for row in samples] == [t.token_ids for t in drawn]
        assert [row["correct"] for row in samples] == [t.correct for t in drawn]
        row = samples[7]
        (scored,) = engine.score([(*row["prompt_ids"], *row["token_ids"])], starts=[len(row["prompt_ids"])])
        np.testing.assert_allclose(row["logprobs"], scored.logprobs[len(row["prompt_ids"]) : -1], atol=1e-4)
        assert row["mean_logprob"] == pytest.approx(np.mean(row["logprobs"]), abs=1e-5)
    weights = [
        load_file(path / "model.safetensors") for path in (MODEL_DIR, out / "round-1/model", out / "round-2/model")
    ]
    for before, after in itertools.pairwise(weights):
        assert not np.array_equal(before["model.norm.weight"], after["model.norm.weight"])


def test_every_model_answers_with_the_same_random_numbers(finished, lab):
    """So rounds differ by their models alone."""
    out, _ = finished
    problems = load_problems("test", limit=5)
    for number, engine in ((0, lab), (2, load_engine(str(out / "round-2/model")))):
        assert rows_of(out / f"round-{number}/evaluation.jsonl") == respond(
            engine, problems, SAMPLING, n=4, prompt="cot"
        )
    assert len({round_seed(seed, number) for seed in range(50) for number in range(50)} | {*range(50)}) == 2550


def test_the_trainer_gets_what_the_filter_leaves(tmp_path, monkeypatch):
    whole, seen = module.sft_trainer, []
    monkeypatch.setattr(module, "sft_trainer", lambda *args: seen.extend(args[3]) or whole(*args))
    settings = replace(SETTINGS, filter=LikelihoodFilter("token", max_token_probability=0.8))
    tune_in_rounds(Base(), load_problems("train", limit=8), load_problems(limit=1), settings, tmp_path / "out")
    examples, _ = choose(rows_of(tmp_path / "out/round-1/samples.jsonl"), settings.filter)
    assert seen == examples
    assert all(one["labels"][-1] == -100 for one in examples)  # the end is likely, always


def test_adapters_become_a_whole_model_each_round(tmp_path):
    settings = replace(SETTINGS, tuning=replace(SETTINGS.tuning, lora_r=2, lora_target_modules=["q_proj"]))
    tune_in_rounds(Base(), load_problems("train", limit=6), load_problems(limit=2), settings, tmp_path / "out")
    assert not (tmp_path / "out/round-1/model/adapter_config.json").exists()
    before, after = (load_file(path / "model.safetensors") for path in (MODEL_DIR, tmp_path / "out/round-1/model"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed
    assert all("q_proj" in name for name in changed)


def test_a_finished_run_returns_at_once_and_another_configuration_is_refused(finished, capsys, monkeypatch):
    out, summary = finished
    monkeypatch.setattr(TransformersEngine, "generate", None)
    command = [*COMMAND, "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert all(f" {row['samples']['trained']} " in printed for row in summary["results"][1:])
    assert main([*command, "--n", "6"]) == 2
    assert "n was 5, now 6" in capsys.readouterr().err


def data(path: Path, problems: list[Any], **changes: str) -> str:
    path.write_text("".join(json.dumps({"question": p.question, "answer": p.answer, **changes}) + "\n"
                            for p in problems))  # fmt: skip
    return str(path)


@pytest.mark.parametrize(("argv", "why"), [
    (["--filter", "token", "--max-token-probability", "1e-9"], "every token has a probability above 1e-09"), ([], None),
])  # fmt: skip
def test_nothing_to_tune_on_is_a_clear_result(tmp_path, capsys, argv, why):
    """With the table up to there: nothing is left by the filter, or (no problem's answer is 10000000) right at all."""
    file = data(tmp_path / "train.jsonl", load_problems("train", limit=3), **({} if why else {"answer": "10000000"}))
    held = data(tmp_path / "test.jsonl", load_problems("test", limit=2))
    command = ["rounds", "--task", "jsonl", "--data", file, "--eval-data", held, "--n", "4", "--eval-n", "2",
               "--max-tokens", "100", "--out", str(tmp_path / "out"), *argv]  # fmt: skip
    for _ in range(2):
        assert main(command) == 2
        printed = capsys.readouterr()
        sentence = why or "none of its 12 samples is correct"
        assert printed.err.strip().splitlines()[-1].startswith("forkpoint: round 1 has nothing to tune on: ")
        assert sentence in printed.err
        assert "greedy" in printed.out
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [row["round"] for row in summary["results"]] == [0, 1]
    assert sentence in summary["stopped"]
    assert len(rows_of(tmp_path / "out/round-1/samples.jsonl")) == 12
    assert not (tmp_path / "out/round-1/model").exists()


def test_held_out_problems_are_not_tuned_on(tmp_path):
    """With one split for both, the first problems are held out, and the next ones tuned on."""
    out = tmp_path / "out"
    assert main([*COMMAND, "--split=test", "--limit=4", "--rounds=1", "--out", str(out)]) == 0
    sampled = list(dict.fromkeys(row["problem_id"] for row in rows_of(out / "round-1/samples.jsonl")))
    assert sampled == [p.id for p in load_problems("test", limit=9)[5:]]
    problems = load_problems(limit=3)
    with pytest.raises(UserError, match="is also one to tune on"):
        tune_in_rounds(Base(), problems, problems[:1], SETTINGS, tmp_path / "other")


@pytest.mark.parametrize(("argv", "message"), [
    (["--rounds", "0"], "rounds must be"), (["--temperature", "0"], "temperature must be above 0"),
    (["--filter", "example", "--keep-quantile", "0"], "keep_quantile"), (["--max-tokens", "5000"], "reads at most"),
    (["--model", "/nowhere"], "is not a model directory"), (["--learning-rate", "-1"], "learning_rate"),
    (["--eval-split", "train", "--eval-limit", "4", "--data", "SAME", "--task", "jsonl"], "is held out"),
])  # fmt: skip
def test_a_mistake_is_one_sentence(capsys, tmp_path, argv, message):
    same = data(tmp_path / "same.jsonl", load_problems(limit=2))
    argv = [same if word == "SAME" else word for word in argv]
    assert main(["rounds", "--limit", "2", "--eval-limit", "2", "--out", str(tmp_path / "out"), *argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
