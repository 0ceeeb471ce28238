"""The command line as a user meets it: options, mistakes, exit codes, YAML."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from forkpoint.cli import load_verb, main
from forkpoint.cli.option_groups import RunOptions, at_least
from forkpoint.cli.options import parse
from forkpoint.cli.train import DpoOptions
from forkpoint.cli.verb import Verb
from forkpoint.lab import MODEL_DIR
from forkpoint.types import FailedError, UserError


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *argv: str) -> str:
    """The one sentence with which a command is refused."""
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("forkpoint: ")
    assert len(err.strip().splitlines()) == 1
    return err


@dataclass
class SomeOptions(RunOptions):
    """An option of each kind."""

    n_samples: int = at_least(1, default=1)
    """a whole number"""
    rate: float | None = 0.5
    """a number, or null"""
    kind: Literal["a", "b"] = "a"
    """a choice"""
    variant: Literal[1, 2] = 1
    """a choice of numbers"""
    shuffle: bool = True
    """true or false"""
    names: list[str] = field(default_factory=list)
    """repeatable"""


@pytest.mark.parametrize(("argv", "expected"), [
    ([], {}),
    (["--n_samples", "3", "--rate=1e-4"], {"n_samples": 3, "rate": 1e-4}),
    (["--n-samples=3", "--rate", "null"], {"n_samples": 3, "rate": None}),
    (["--kind", "b", "--variant", "2", "--out", "x"], {"kind": "b", "variant": 2, "out": Path("x")}),
    (["--quiet", "--shuffle", "False"], {"quiet": True, "shuffle": False}),
    (["--quiet=true", "--shuffle"], {"quiet": True}),
    (["--names", "x", "--names=y,z"], {"names": ["x", "y,z"]}),
    (["--n_samples", "4", "--config", "FILE"], {"n_samples": 4, "rate": 1e-4, "quiet": True, "names": ["f", "g"]}),
    (["--config=FILE", "--names", "x"], {"n_samples": 7, "rate": 1e-4, "quiet": True, "names": ["x"]}),
])  # fmt: skip
def test_options_of_every_kind(tmp_path, argv, expected):
    file = tmp_path / "some.yaml"
    file.write_text("n-samples: 7\nrate: 1e-4\nquiet: true\nnames: [f, g]\nkind: null\n")
    assert parse("eval", SomeOptions, [word.replace("FILE", str(file)) for word in argv]) == replace(
        SomeOptions(), **expected
    )


def test_switches_beside_bare_words(tmp_path):
    (tmp_path / "off.yaml").write_text("dry_run: false\nquiet: true\n")
    run = load_verb("run").parse_options(["recipe.yaml", "--config", str(tmp_path / "off.yaml")])
    assert (run.recipe, run.dry_run, run.quiet) == (Path("recipe.yaml"), False, True)
    for argv in ("--trust_remote_code adapter out", "adapter --trust_remote_code out", "--out out adapter"):
        merge = load_verb("merge").parse_options(argv.split())
        assert (merge.adapter, merge.out) == (Path("adapter"), Path("out"))
        assert merge.trust_remote_code == ("--trust_remote_code" in argv)


def test_a_flag_overrides_a_bare_word_of_the_file(tmp_path):
    (tmp_path / "some.yaml").write_text("adapter: from-the-file\nout: from-the-file\n")
    config = f"--config={tmp_path / 'some.yaml'}"
    for argv in (["mine", config], ["--adapter=mine", config], [config, "--adapter", "mine"]):
        merge = load_verb("merge").parse_options(argv)
        assert (merge.adapter, merge.out) == (Path("mine"), Path("from-the-file"))


def test_the_default_directory_is_the_same_in_every_process():
    """Whatever the order of sets of text."""
    program = (
        "from forkpoint.cli import load_verb\n"
        "more = '--pairs=x --weight_decay=0.1 --adam_beta1=0.8 --adam_beta2=0.9 --max_steps=3'\n"
        "print(load_verb('train dpo').parse_options(more.split()).directory('train dpo'))"
    )
    places = {
        subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, check=True,
                       capture_output=True, text=True).stdout
        for seed in ("1", "3", "4")
    }  # fmt: skip
    assert len(places) == 1


@pytest.mark.parametrize(("argv", "message"), [
    (["--n_samples", "three"], "--n_samples must be a whole number, but is 'three'"),
    (["--n-samples", ""], "--n-samples must be a whole number"), (["--n_samples"], "expected one argument"),
    (["--n_samples", "0"], "--n_samples must be at least 1, but is 0"),
    (["--rate", "x"], "must be a number"), (["--kind", "c"], "--kind must be one of a, b, but is 'c'"),
    (["--variant", "3"], "one of 1, 2"), (["--quiet", "maybe"], "one of true, false"),
    (["--n_sample", "3"], "unknown option --n_sample, did you mean --n_samples?"),
    (["--samples", "3"], "did you mean --n_samples?"), (["--zzz"], "--help lists"), (["x"], "unexpected argument 'x'"),
    (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read"), (["--config", "FILE"], "did you mean n_samples?"),
    (["--config", "BAD"], "--n_samples must be a whole number"), (["--config", "LIST"], "should hold names and values"),
])  # fmt: skip
def test_what_no_option_takes(tmp_path, argv, message):
    files = {"FILE": "n_smples: 7", "BAD": "n_samples: [1, 2]", "LIST": "- 1"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        parse("eval", SomeOptions, [str(tmp_path / word) if word in files else word for word in argv])
    assert message in str(error.value)


def test_training_arguments_are_options_in_the_same_parse(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("weight_decay: 0.02\nlr_scheduler_kwargs: {num_cycles: 2}\nlora_target_modules: [q_proj]\n")
    options = parse(
        "train dpo", DpoOptions, ["--pairs=x", "--config", str(file), "--max-steps=3", "--tf32", "--bf16", "--beta=1"]
    )
    more = {"weight_decay": 0.02, "lr_scheduler_kwargs": '{"num_cycles": 2}', "max_steps": 3, "tf32": True}
    assert options == DpoOptions(pairs=Path("x"), bf16=True, beta=1.0, lora_target_modules=["q_proj"], further=more)
    for argv, message in (
        (["--lora_rank", "2"], "did you mean --lora_r?"), (["--lora_modules=x"], "did you mean --lora_target_modules?"),
        (["--weight_dcay=1"], "did you mean --weight_decay?"), (["--weight_decay", "much"], "--weight_decay"),
        (["--ref_model=x"], "the reference is --model"), (["--max_steps=1", "--lora_r=x"], "must be a whole number"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            parse("train dpo", DpoOptions, argv)
    with pytest.raises(UserError, match="--gamma"):
        load_verb("train critical-dpo").parse_options(["--pairs=x", "--beta=1"])
    with pytest.raises(UserError, match="output_dir is not offered"):
        load_verb("train dpo").parse_options(["--pairs=x", "--output_dir=x"])


@pytest.mark.parametrize(("argv", "message"), [
    (["evl"], "did you mean 'eval'"),
    (["eval", "--limt", "3"], "did you mean --limit"),
    (["eval", "--dtype", "float33"], "dtype must be auto"),
    (["eval", "--memory-gib", "0"], "memory_gib must be above 0"),
    (["eval", "--strategy", "cot-decoding:k=100000", "--limit", "1"], "names at most"),
    (["eval", "--task", "jsonl", "--data", "broken.jsonl"], "broken.jsonl line 1"),
    (["eval", "--prompt", "palin"], "did you mean 'plain'"),
    (["eval", "--model", "./pickled", "--limit", "1"], ".bin files are refused on purpose"),
    (["eval", "--limit", "1", "--out", "in_use"], "holds files but no run"),
    (["report", "/nowhere"], "/nowhere does not exist"),
    (["report", __file__], "test_cli.py is a file; name the directory of a run"),
    (["report", str(MODEL_DIR)], "no finished run"),
    (["show"], "show needs RUN: the run's directory"),
    (["merge", "adapter"], "merge needs OUT: directory"),
    (["train"], "train needs one of sft, dpo, rpo, tdpo, critical-dpo, fork-dpo, clm, slm\n"),
    (["train", "dppo"], "did you mean 'train dpo'?"),
    (["lab", "train", "--steps", "0"], "at least 1"),
    (["logits", "--sampler", "top_sigma=1"], "did you mean 'top_n_sigma'?"),
    (["logits", "--sampler", "top_k=5", "--sampler", "top_k=5"], "given twice"),
    (["logits", *(f"--sampler=top_k={k}" for k in range(1, 10))], "at most 8 samplers"),
    (["logits", "--temperatures", "1,warm"], "temperatures must be numbers"),
    (["logits", "--temperatures", "-1"], "temperature must be"),
    (["logits", "--positions", "-1"], "a position is one of first, uncertain, certain, or a whole number"),
    (["logits", "--positions", "0,500", "--quiet"], "the position 500 is beyond the response"),
    (["logits", "--prompt-text", "  "], "the prompt is empty"),
    (["logits", "--prompt-text", "x", "--max-tokens", "5000"], "reads at most 4096"),
])  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("broken.jsonl").write_text("{broken\n")
    Path("in_use").mkdir()
    Path("in_use/thesis.txt").write_text("precious")
    shutil.copytree(MODEL_DIR, "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    Path("pickled/pytorch_model.bin").write_bytes(b"not even a pickle")
    before = sorted(Path().rglob("[!.]*"))
    assert message in refused(capsys, *argv)
    assert [path for path in Path().rglob("[!.]*") if path not in before and path.is_file()] == []


def test_broken_weights_are_one_sentence(capsys, tmp_path, tokenizer):
    from tiny_models import build_model, tiny_config

    model = build_model(tiny_config(tokenizer))
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    argv = ("eval", "--model", str(tmp_path / "model"), "--limit", "2", "--out", str(tmp_path / "out"))
    assert "are NaN or infinite" in refused(capsys, *argv)


def test_the_same_command_finds_its_own_run_again(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["eval", "--limit", "2", "--strategy", "greedy", "--max-tokens", "40"]
    assert run(capsys, *argv)[0] == 0
    (out,) = (tmp_path / "runs").iterdir()
    kept = {name: (out / name).read_bytes() for name in ("command.json", "report.html", "results.json")}
    assert json.loads(kept["command.json"])["command"] == f"forkpoint {' '.join(argv)}"
    code, text, _ = run(capsys, *argv, "--quiet")
    assert (code, text.splitlines()[-1]) == (0, str(out.relative_to(tmp_path) / "report.html"))
    assert {name: (out / name).read_bytes() for name in kept} == kept
    assert run(capsys, *argv, "--limit", "3")[0] == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_page_that_cannot_be_drawn_hides_no_run(capsys, tmp_path, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("no such chart")

    monkeypatch.setattr("forkpoint.report.pages.eval.accuracy_svg", fails)
    out = tmp_path / "out"
    code, text, errors = run(capsys, "eval", "--limit", "2", "--out", str(out), "--quiet")
    assert (code, "greedy" in text, "no such chart" in errors) == (0, True, True)
    assert (out / "results.json").exists()
    assert not (out / "report.html").exists()
    assert main(["report", str(out)]) == 2
    monkeypatch.undo()
    assert main(["report", str(out)]) == 0


@pytest.mark.parametrize(("verb", "hint"), [
    ("serve", ""), ("lab corpus", "; the same command begins anew"),
    ("train dpo", "; the same command goes on from where it was"),
])  # fmt: skip
def test_ctrl_c_and_failures_say_how_to_go_on(capsys, monkeypatch, verb, hint):
    def raises(error: BaseException) -> None:
        def act(*_: object) -> None:
            raise error

        monkeypatch.setattr("forkpoint.cli.load_verb", lambda name: Verb(name, SomeOptions, act))

    raises(KeyboardInterrupt())
    assert run(capsys, *verb.split()) == (130, "", f"forkpoint: {verb} was stopped{hint}\n")
    raises(FailedError("the server is gone"))
    assert run(capsys, *verb.split()) == (1, "", f"forkpoint: the server is gone{hint}\n")
    raises(KeyboardInterrupt())
    monkeypatch.setenv("LOCAL_RANK", "1")  # one of several processes that a terminal interrupts together
    assert run(capsys, *verb.split()) == (130, "", "")


@pytest.mark.slow
def test_a_real_interrupt_leaves_a_run_that_goes_on(tmp_path):
    out = tmp_path / "out"
    argv = ["eval", "--limit", "900", "--strategy", "sample:n=4", "--strategy", "greedy", "--quiet", "--out", str(out)]
    command = [sys.executable, "-m", "forkpoint", *argv]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    _, err = process.communicate(timeout=60)
    message = f"forkpoint: eval was stopped; the same command goes on from where it was ({out})\n"
    assert (process.returncode, err) == (130, message)
    assert not (out / "results.json").exists()
    with pytest.raises(ProcessLookupError):  # nothing that it started is left
        os.killpg(process.pid, 0)
