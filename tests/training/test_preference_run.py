"""`forkpoint train` as a whole: every method, what it leaves behind, kills, what it is given."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from forkpoint.cli import main
from forkpoint.engines import load_engine
from forkpoint.engines.local import logprobs
from forkpoint.files import to_json
from forkpoint.lab.problem_generator import load_problems
from forkpoint.pairs.pair_choice import choose_pairs
from forkpoint.pairs.pair_files import make_pair, pair_row
from forkpoint.training import preference_run
from forkpoint.training.configs import PreferenceConfig
from forkpoint.training.reference_logprobs import cache_directory
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Sampling, UserError

SHORT = (
    "--num_train_epochs=2",
    "--per_device_train_batch_size=4",
    "--logging_steps=2",
    "--save_steps=3",
    "--learning_rate=1e-3",
)


@pytest.fixture(scope="module")
def pairs(lab):
    """Pairs of the lab's own responses, with made-up weights."""
    drawn = sample_trajectories(lab, load_problems("train", limit=24), Sampling(max_tokens=120), n=6, prompt="cot")
    return [
        make_pair(
            right.problem.id, right.prompt_ids, right.token_ids, wrong.token_ids, lab.tokenizer,
            rejected_weights=tuple(round(i / len(wrong.token_ids), 3) for i in range(len(wrong.token_ids))),
        )
        for right, wrong in choose_pairs(drawn).pairs
    ][:12]  # fmt: skip


@pytest.fixture(scope="module")
def file(pairs, tmp_path_factory):
    """pairs.jsonl with them."""
    return written(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs)


def written(path, pairs):
    path.write_text("".join(to_json(pair_row(p)) + "\n" for p in pairs))
    return path


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def train(method, file, out, *flags):
    """The exit code, with a short training."""
    return main(["train", method, "--pairs", str(file), "--out", str(out), "--quiet", *SHORT, *flags])


def summary_of(out):
    return json.loads((out / "summary.json").read_text())


@pytest.mark.parametrize("method", ["sft", "dpo", "rpo", "tdpo", "cdpo"])
def test_every_method_trains_and_leaves_a_model(method, file, lab, tmp_path, capsys):
    assert train(method, file, tmp_path / "out") == 0
    summary = summary_of(tmp_path / "out")
    assert summary["method"] == {"tdpo": "tdpo2", "cdpo": "critical-dpo"}.get(method, method)
    assert (summary["pairs"], summary["steps"]) == (12, 6)
    logged = [row for row in summary["history"] if "loss" in row]
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert {p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith(".")} == {
        "command.json", "config.json", "model", "report.html", "summary.json"
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "12 pairs, 6 steps" in printed
    assert printed.splitlines()[-2:] == [str(tmp_path / "out" / name) for name in ("model", "report.html")]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", use_safetensors=True)
    changed = [
        float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), lab.model.parameters(), strict=True)
    ]
    assert max(changed) > 1e-4
    names = {p.name for p in (tmp_path / "out" / "model").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)
    assert (
        load_engine(str(tmp_path / "out" / "model")).tokenizer("17 + 4")["input_ids"]
        == lab.tokenizer("17 + 4")["input_ids"]
    )


def test_fork_dpo_trains_on_single_tokens_by_weight(pairs, tmp_path):
    single = [
        replace(p, chosen_ids=p.chosen_ids[:1], rejected_ids=(p.chosen_ids[0] + 1,), chosen="", rejected="",
                rejected_weights=None, weight=0.25)
        for p in pairs
    ]  # fmt: skip
    rows = [pair_row(p) for p in single]
    for row in rows:
        row["chosen"] = row["rejected"] = None
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(to_json(row) + "\n" for row in rows))
    assert train("fork-dpo", path, tmp_path / "out") == 0
    first = next(row for row in summary_of(tmp_path / "out")["history"] if "loss" in row)
    assert first["loss"] < 0.25 * 0.7  # ln 2 before training, times the weight


def test_reference_at_each_step_gives_the_same(file, tmp_path):
    assert train("dpo", file, tmp_path / "stored") == 0
    assert list(cache_directory().iterdir())
    assert train("dpo", file, tmp_path / "online", "--precompute_ref_log_probs=false") == 0
    for a, b in zip(*(summary_of(tmp_path / name)["history"] for name in ("stored", "online")), strict=True):
        assert a["rewards/margins"] == pytest.approx(b["rewards/margins"], abs=1e-4)


KILLER = """
import json, os, signal, sys
import peft, trl, forkpoint.training.preference_trainer, forkpoint.cli.train
from forkpoint.cli import main
from forkpoint.training import fit
import transformers.trainer_callback as callbacks

def stop():
    os.kill(os.getpid(), signal.SIGKILL)

def prepare(moment):
    if moment.isdigit():
        whole = fit._Report.on_step_end
        def step(self, args, state, control, **more):
            stop() if state.global_step == int(moment) else whole(self, args, state, control, **more)
        fit._Report.on_step_end = step
    elif moment == "checkpoint":
        save = callbacks.TrainerState.save_to_json
        def torn(self, path):
            if self.global_step == 2:
                return save(self, path)
            open(path, "w").write('{"epoch": 1.')
            stop()
        callbacks.TrainerState.save_to_json = torn
    elif moment == "model":
        fit.model_card = lambda *_: stop()
    elif moment == "summary":
        write_whole = fit.write_whole
        fit.write_whole = lambda path, text: stop() if path.name == "summary.json" else write_whole(path, text)

for line in sys.stdin:
    moment, *argv = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        prepare(moment)
        os._exit(main(argv))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed_at():
    """Runs the command line in a process that kills itself at a moment; returns its exit code."""
    driver = subprocess.Popen([sys.executable, "-c", KILLER], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def exit_code(moment, *argv):
        driver.stdin.write(json.dumps([moment, *argv]) + "\n")
        driver.stdin.flush()
        return int(driver.stdout.readline())

    with driver:
        yield exit_code
        driver.stdin.close()


@pytest.mark.parametrize(("method", "more"), [("critical-dpo", []), ("sft", []), ("tdpo", ["--lora_r=2"])])
@pytest.mark.slow
def test_kill_9_and_on_to_the_same_model(method, more, file, killed_at, tmp_path):
    """Each process gets a little further than the one before; checkpoints lie within epochs."""
    assert train(method, file, tmp_path / "whole", "--save_steps=2", *more) == 0
    out = tmp_path / "killed"
    command = ["train", method, "--pairs", str(file), "--out", str(out), "--quiet", *SHORT, "--save_steps=2", *more]
    for moment in ("2", "4", "checkpoint", "model", "summary"):
        assert killed_at(moment, *command) == -signal.SIGKILL, moment
        assert not (out / "summary.json").exists()
        assert (out / "checkpoints" / "checkpoint-2").exists() == (moment in ("4", "checkpoint"))
    assert main(command) == 0
    assert (out / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    files = sorted(path.name for path in (out / "model").iterdir())
    assert ("adapter_model.safetensors" if more else "model.safetensors") in files
    for name in files:
        assert (out / "model" / name).read_bytes() == (tmp_path / "whole" / "model" / name).read_bytes(), name
        assert (out / "model" / name).stat().st_mode & 0o777 == 0o666 & ~umask()


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


@pytest.mark.parametrize("method", ["dpo", "sft", "tdpo"])
def test_held_out_pairs_are_judged_after_each_epoch(method, pairs, file, tmp_path):
    others = written(tmp_path / "others.jsonl", pairs[:5])
    more = ("--eval_pairs", str(others), "--logging_steps=100", "--save_steps=100")
    assert train(method, file, tmp_path / "out", *more) == 0
    judged = [row for row in summary_of(tmp_path / "out")["history"] if "eval_loss" in row]
    assert [row["epoch"] for row in judged] == [1.0, 2.0]
    assert judged[1]["eval_loss"] < judged[0]["eval_loss"]  # it has seen them
    if method != "sft":  # of those pairs alone, not of what was trained on since the last log
        assert train(method, others, tmp_path / "alone", "--eval_pairs", str(others), "--learning_rate=0") == 0
        assert train(method, file, tmp_path / "still", *more, "--learning_rate=0") == 0
        a, b = (
            next(row for row in summary_of(tmp_path / name)["history"] if "eval_loss" in row)
            for name in ("alone", "still")
        )
        assert a["eval_logps/chosen"] == pytest.approx(b["eval_logps/chosen"], abs=1e-5)
        assert a["eval_loss"] == pytest.approx(b["eval_loss"], abs=1e-6)


def test_in_bfloat16_the_stored_reference_computes_alike(file, tmp_path, monkeypatch):
    seen = []
    logits = logprobs._Matrix.logits
    monkeypatch.setattr(logprobs._Matrix, "logits", lambda self, h: seen.append(self.weight.dtype) or logits(self, h))
    assert train("dpo", file, tmp_path / "out", "--bf16", "--logging_steps=1", "--max_steps=1") == 0
    assert seen.count(torch.bfloat16) == 4  # two batches of the reference; the policy, forward and backward
    assert seen.count(torch.float32) == 2  # the one probe of shared prompts
    assert abs(summary_of(tmp_path / "out")["history"][0]["rewards/margins"]) < 1e-6


def test_a_cache_that_cannot_be_written_is_a_warning(file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.warns(UserWarning, match="could not be kept"):
        assert train("dpo", file, tmp_path / "out", "--max_steps=1") == 0


def test_a_finished_run_is_not_repeated_and_another_one_refused(file, tmp_path, monkeypatch, capsys):
    assert train("dpo", file, tmp_path / "out") == 0
    monkeypatch.setattr("forkpoint.training.fit.fit", None)
    assert train("dpo", file, tmp_path / "out") == 0
    assert train("dpo", file, tmp_path / "out", "--weight_decay", "0.1") == 2
    assert "another configuration: arguments.weight_decay was" in capsys.readouterr().err


BAD = [
    ("dpo", "--leraning_rate=1", "did you mean"), ("dpo", "--seed=-1", "seed"), ("dpo", "--max_steps=0", "max_steps"),
    ("dpo", "--per_device_train_batch_size=0", "at least 1"), ("dpo", "--num_train_epochs=0", "above 0"),
    ("dpo", "--report_to=foo", "do not go together"), ("dpo", "--train_sampling_strategy=foo", "one of random"),
    ("dpo", "--fsdp=full_shard", "not offered"), ("dpo", "--label_smoothing_factor=0.1", "does nothing"),
    ("dpo", "--eval_steps=5", "without --eval_strategy steps"), ("dpo", "--optim=adamw_8bit", "bitsandbytes"),
    ("dpo", "--use_liger_kernel=true", "liger-kernel"), ("sft", "--weight_decay=-1", "at least 0"),
    ("dpo", "--lr_scheduler_type=warmup_stable_decay", "num_decay_steps"), ("dpo", "--beta=0", "beta must be above 0"),
    ("dpo", "--max_length=3", "every pair is too long"), ("dpo", "--eval_strategy=steps", "no held-out data"),
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
    halves = weights(weighted(lambda t: 0.5 * (t < 4)), "halves")
    assert plain != halves != weights(weighted(lambda t: 1.0 * (t < 4)), "first")


@pytest.mark.parametrize("weighted", [0, 1])
def test_either_of_two_files_of_pairs_may_have_weights(weighted, pairs, lab, tmp_path):
    some = [replace(p, chosen_weights=(0.5,) * len(p.chosen_ids)) for p in pairs]
    data = [some, pairs] if weighted == 0 else [pairs, some]
    args = PreferenceConfig(method="sft", max_steps=1)
    model = copy.deepcopy(lab.model)
    summary = preference_run.train(model, lab.tokenizer, data[0], args, tmp_path / "out", eval_pairs=data[1])
    assert any("eval_loss" in row for row in summary["history"])


def test_the_best_model_is_kept_with_evaluations_by_default(pairs, lab, tmp_path):
    args = PreferenceConfig(method="dpo", max_steps=1, save_strategy="epoch", load_best_model_at_end=True)
    model = copy.deepcopy(lab.model)
    summary = preference_run.train(model, lab.tokenizer, pairs, args, tmp_path / "out", eval_pairs=pairs)
    assert any("eval_loss" in row for row in summary["history"])


def test_evaluations_switched_off_are_another_run(pairs, lab, tmp_path):
    for name, more in (("on", {}), ("off", {"eval_strategy": "no"})):
        args = PreferenceConfig(method="dpo", max_steps=1, **more)
        model = copy.deepcopy(lab.model)
        preference_run.train(model, lab.tokenizer, pairs, args, tmp_path / name, eval_pairs=pairs)
    assert (tmp_path / "on/config.json").read_bytes() != (tmp_path / "off/config.json").read_bytes()
