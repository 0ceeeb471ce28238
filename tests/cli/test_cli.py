"""The command line as a user meets it: help, mistakes, exit codes, YAML."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from forkpoint.cli import VERBS, main
from forkpoint.lab import MODEL_DIR
from forkpoint.report.command import keep_command
from forkpoint.types import FailedError


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *argv: str) -> str:
    """The one sentence with which a command is refused."""
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert err.startswith("forkpoint: ")
    assert len(err.strip().splitlines()) == 1
    return err


def test_the_command_line_imports_no_torch():
    code = (
        "import sys, forkpoint, forkpoint.cli, forkpoint.cli.eval, forkpoint.cli.critical\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_eval_help_describes_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["eval", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in ("--strategy", "--sweep", "cot-decoding:k=10", "template", "--memory_gib", "(default:"):
        assert word in text


def test_critical_help_describes_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["critical", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "--trajectories", "an eval run or its samples.jsonl", "--protocol {forks,paper}", "--which", "--until",
        "pass@k with another token", "--export", "--private", "--top_n_sigma", "default: cot",
    ):  # fmt: skip
        assert words in text


@pytest.mark.parametrize(("argv", "message"), [
    (["evl"], "did you mean 'eval'"),
    (["eval", "--limt", "3"], "did you mean --limit"),
    (["eval", "--limit", "three"], "--limit must be a whole number, but is 'three'"),
    (["eval", "--limit", "0"], "limit"),
    (["eval", "--limit", ""], "--limit must be a whole number, but is ''"),
    (["eval", "--limit"], "expected one argument"),
    (["eval", "--max-tokens", "0"], "max_tokens must be a positive whole number"),
    (["eval", "--kind", "word"], "--kind must be one of 'number'"),
    (["eval", "--dtype", "float33"], "dtype must be auto"),
    (["eval", "--memory-gib", "0"], "memory_gib must be above 0"),
    (["eval", "--config", "/nowhere.yaml"], "--config: File does not exist"),
    (["eval", "greedy"], "unexpected argument 'greedy'"),
    (["eval", "--strategy", "cot-decoding:k=100000", "--limit", "1"], "vocabulary"),
    (["eval", "--strategy", "gredy"], "unknown strategy 'gredy' (did you mean 'greedy'?); there are greedy, sample"),
    (["eval", "--strategy", "cot-decoding,k=10"], "follow a colon: cot-decoding:k=10, not"),
    (["eval", "--strategy", "cot-decoding:kk=2"], "no option 'kk' (did you mean 'k'?); it takes k, "),
    (["eval", "--task", "gsm9k"], "did you mean 'gsm8k'"),
    (["eval", "--task", "gsm8k", "--data", "/nowhere.jsonl"], "/nowhere.jsonl"),
    (["eval", "--prompt", "palin"], "did you mean 'plain'"),
    (["eval", "--model", "./nowhere"], "not a model directory"),
    (["eval", "--prompt", "chat", "--limit", "1"], "no chat template"),
    (["report"], "report takes one directory"),
    (["report", "/nowhere"], "/nowhere does not exist"),
    (["report", __file__], "test_cli.py is a file; name the directory of a run"),
    (["report", str(MODEL_DIR)], "no finished run"),
    (["show"], "show needs the run's directory: forkpoint show RUN"),
    (["train"], "train needs one of sft, dpo, rpo, tdpo, critical-dpo, fork-dpo, clm, slm\n"),
    (["train", "dppo"], "did you mean 'train dpo'?"),
    (["eval", "--maxtokens", "9"], "did you mean --max-tokens?"),
    (["lab", "train", "--steps", "0"], "at least 1"),
])  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *argv)
    assert not any(tmp_path.rglob("results.json"))


def test_a_malformed_line_is_named(capsys, tmp_path):
    data = tmp_path / "seven.jsonl"
    good = json.dumps({"question": "1 + 1?", "answer": "2"})
    data.write_text("\n".join([good] * 6 + ["{broken"]) + "\n")
    assert "seven.jsonl line 7" in refused(capsys, "eval", "--task", "jsonl", "--data", str(data))


def test_an_empty_task_is_refused(capsys, tmp_path):
    data = tmp_path / "empty.jsonl"
    data.write_text("")
    assert "holds no problems" in refused(capsys, "eval", "--task", "jsonl", "--data", str(data))


def test_a_model_without_tokenizer_is_refused(capsys, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL_DIR, model, ignore=shutil.ignore_patterns("tokenizer*"))
    assert "no tokenizer could be loaded" in refused(capsys, "eval", "--model", str(model), "--limit", "1")


def test_pickled_weights_are_not_read(capsys, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL_DIR, model, ignore=shutil.ignore_patterns("*.safetensors"))
    (model / "pytorch_model.bin").write_bytes(b"not even a pickle")
    said = refused(capsys, "eval", "--model", str(model), "--limit", "1")
    assert "no model could be loaded" in said
    assert ".bin files are refused on purpose, since a pickle may run any code: where you trust them, convert" in said


def test_a_directory_in_use_is_refused(capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    assert "holds files but no run" in refused(capsys, "eval", "--limit", "1", "--out", str(tmp_path))


def test_a_finished_run_shown_again_keeps_its_command_and_page(capsys, tmp_path):
    out, asked = tmp_path / "out", ["--limit", "2", "--strategy", "greedy"]
    assert run(capsys, "eval", *asked, "--out", str(out), "--quiet")[0] == 0
    kept = {name: (out / name).read_bytes() for name in ("command.json", "report.html", "results.json")}
    assert json.loads(kept["command.json"])["command"] == f"forkpoint eval {' '.join(asked)} --out {out} --quiet"
    code, text, _ = run(capsys, "eval", *asked, "--out", str(out))
    assert code == 0
    assert text.endswith(f"{out / 'report.html'}\n")
    assert {name: (out / name).read_bytes() for name in kept} == kept


def test_a_page_that_cannot_be_drawn_hides_no_run(capsys, tmp_path, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError("no such chart")

    monkeypatch.setattr("forkpoint.report.pages.eval.accuracy_svg", fails)
    out = tmp_path / "out"
    code, text, errors = run(capsys, "eval", "--limit", "2", "--out", str(out), "--quiet")
    assert code == 0
    assert "greedy" in text
    assert (out / "results.json").exists()
    assert not (out / "report.html").exists()
    assert f"the run in {out} is done, but its page could not be drawn" in errors
    assert "no such chart" in errors
    assert main(["report", str(out)]) == 2
    monkeypatch.undo()
    assert main(["report", str(out)]) == 0


def test_a_command_is_kept_without_passwords(tmp_path):
    keep_command(tmp_path, ["eval", "--base-url", "http://me:secret@host/v1"])
    kept = json.loads((tmp_path / "command.json").read_text())
    assert kept["command"] == "forkpoint eval --base-url http://***@host/v1"


def test_yaml_and_flags(capsys, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("task: lab\nlimit: 3\nstrategy: [greedy, 'cot-decoding:k=2']\nquiet: true\n")
    out = tmp_path / "out"
    code, text, _ = run(capsys, "eval", "--config", str(config), "--limit", "4", "--out", str(out))
    assert code == 0
    assert text.startswith("Decoding strategies: lab on lab\n4 problems, ")
    results = json.loads((out / "results.json").read_text())
    assert [s["strategy"] for s in results["strategies"]] == ["greedy", "cot-decoding:k=2"]
    other = tmp_path / "other"
    assert run(capsys, "eval", "--strategy", "beam:beams=2", "--config", str(config), "--out", str(other))[0] == 0
    results = json.loads((other / "results.json").read_text())
    assert [s["strategy"] for s in results["strategies"]] == ["beam:beams=2"]
    assert (out / "report.html").exists()
    config.write_text("stratgy: [greedy]\n")
    assert "did you mean strategy" in refused(capsys, "eval", "--config", str(config))
    code, again, _ = run(capsys, "report", str(out))
    assert code == 0
    assert again.strip() == str(out / "report.html")


def test_the_same_command_finds_its_own_directory_again(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(capsys, "eval", "--limit", "2", "--strategy", "greedy", "--max-tokens", "40")[0] == 0
    assert run(capsys, "eval", "--limit", "3", "--strategy", "greedy", "--max-tokens", "40")[0] == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    import forkpoint.cli.eval as verb

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "run", interrupted)
    code, _, err = run(capsys, "eval")
    assert code == 130
    assert err == "forkpoint: eval was stopped; the same command goes on from where it was\n"


@pytest.mark.parametrize(("verb", "hint"), [
    ("serve", ""), ("lab corpus", "; the same command begins anew"),
    ("train dpo", "; the same command goes on from where it was"),
])  # fmt: skip
def test_ctrl_c_is_said_once_and_only_what_is_true(capsys, monkeypatch, verb, hint):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{VERBS[verb][0]}.run", interrupted)
    assert run(capsys, *verb.split()) == (130, "", f"forkpoint: {verb} was stopped{hint}\n")
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
    assert (process.returncode, err) == (
        130,
        f"forkpoint: eval was stopped; the same command goes on from where it was ({out})\n",
    )
    assert not (out / "results.json").exists()
    with pytest.raises(ProcessLookupError):  # nothing that it started is left
        os.killpg(process.pid, 0)


def test_a_failure_that_is_not_the_users_says_how_to_go_on(capsys, monkeypatch):
    import forkpoint.cli.eval as verb

    def failed(_):
        raise FailedError("the server is gone")

    monkeypatch.setattr(verb, "run", failed)
    code, _, err = run(capsys, "eval")
    assert (code, err) == (1, "forkpoint: the server is gone; the same command goes on from where it was\n")


def test_broken_weights_are_one_sentence(capsys, tmp_path, tokenizer):
    from tiny_models import build_model, tiny_config

    model = build_model(tiny_config(tokenizer))
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    out = str(tmp_path / "out")
    assert "are NaN or infinite" in refused(
        capsys, "eval", "--model", str(tmp_path / "model"), "--limit", "2", "--out", out
    )
