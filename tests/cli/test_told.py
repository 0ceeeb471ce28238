"""What a run tells on stderr: how to go on, what is done already, what will be sampled; and a reader who leaves."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from forkpoint.cli import main
from forkpoint.cli.pairs import PairsOptions
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import announce_sampling, announce_time
from forkpoint.engines.loading import source_of
from forkpoint.files import JOURNAL
from forkpoint.lab.problem_generator import load_problems as lab_problems
from forkpoint.types import Completion, FailedError, Sampling, UserError

SMALL = ["--strategy", "greedy", "--strategy", "sample:n=64", "--limit", "21", "--max-tokens", "9", "--quiet"]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("argv", [["--help"], ["eval", "--help"], ["train"], ["report", "RUN"], ["show", "RUN"]])
def test_a_reader_who_leaves_ends_a_command_without_a_word(argv, tmp_path):
    """Every verb prints by `print`, rich or jsonargparse; of each there is one here, and one that prints nothing."""
    run = tmp_path / "run"
    if "RUN" in argv:
        assert main(["eval", "--limit", "2", "--strategy", "greedy", "--out", str(run), "--quiet"]) == 0
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "forkpoint", *(str(run) if word == "RUN" else word for word in argv)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    if argv == ["train"]:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)  # its mistake is told all the same
    else:
        assert done.stderr == ""
        assert done.returncode == 1 or argv == ["eval", "--help"]  # where argparse hides it


def test_another_broken_pipe_is_a_bug(monkeypatch):
    def breaks(_):
        raise BrokenPipeError

    import_module("forkpoint.cli.select")  # a module of ours with the name of one of Python's
    monkeypatch.setattr("forkpoint.cli.eval.run", breaks)
    with open(os.devnull, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(BrokenPipeError):
            main(["eval"])


def test_a_failure_names_the_directory(capsys, monkeypatch, tmp_path):
    def fails(*_, **__):
        raise FailedError("the server is gone")

    monkeypatch.setattr("forkpoint.evaluation.evaluate.evaluate", fails)
    assert main(["eval", *SMALL, "--out", str(tmp_path)]) == 1
    end = f"the server is gone; the same command goes on from where it was ({tmp_path})\n"
    assert capsys.readouterr().err == f"forkpoint: {end}"


def test_a_stopped_run_says_what_is_kept(capsys, monkeypatch, tmp_path):
    """It stops at its third unit; `report` says that it is not finished, and the next start how much is done."""
    from forkpoint.evaluation import evaluate

    solve, units = evaluate._solve_unit, []

    def stops(*unit):
        if len(units) == 2:
            raise KeyboardInterrupt
        units.append(unit)
        return solve(*unit)

    monkeypatch.setattr(evaluate, "_solve_unit", stops)
    loud = SMALL[:-1]
    assert main(["eval", *loud, "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith(f" goes on from where it was ({tmp_path})\n")
    for verb in ("report", "show"):
        assert main([verb, str(tmp_path)]) == 2
        assert "is not finished: 2 units are done; the same command that began it goes on" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["eval", *loud, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "forkpoint: 31 of 42 are done already (sample:n=64)\n"
    assert not (tmp_path / JOURNAL).exists()


def test_a_run_stopped_at_once_is_not_finished(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"verb": "critical"}))
    assert main(["report", str(tmp_path)]) == 2
    assert "is not finished; the same command that began it goes on" in capsys.readouterr().err


@pytest.mark.parametrize(("n", "said"), [
    (64, "640 responses of at most 100 tokens: at the pace of the first 16 tokens of 128, 2 minutes at most"),
    (6400, "64,000 responses of at most 100 tokens: at the pace of the first 16 tokens of 128, 3.5 hours at most"),
    (12, ""), (13, ""),
])  # fmt: skip
def test_how_long_sampling_may_take_is_told_before(capsys, monkeypatch, tokenizer, tmp_path, n, said):
    """By an engine that takes 4 seconds for 128 responses of 16 tokens: 512 tokens a second."""
    clock = [0.0]

    class Slow:
        name, context = "slow", 1000

        def __init__(self) -> None:
            self.tokenizer = tokenizer

        def generate(self, requests, sampling):
            clock[0] += len(requests) * sampling.max_tokens / 512
            return [Completion(r.key, (5,) * sampling.max_tokens, (), (), "", "length") for r in requests]

    monkeypatch.setattr("forkpoint.cli.setup.time.monotonic", lambda: clock[0])
    problems = lab_problems("train", limit=10)
    for options, out in ((PairsOptions(), tmp_path), (PairsOptions(quiet=True), tmp_path)):
        announce_time("pairs", options, out, Slow(), problems, "cot", Sampling(max_tokens=100), n)
    if n > 13:
        with pytest.raises(UserError, match="tokens, but slow reads at most 1000"):
            announce_time("pairs", PairsOptions(), tmp_path, Slow(), problems, "cot", Sampling(max_tokens=999), n)
    err = capsys.readouterr().err
    assert err == (f"forkpoint: pairs is about to sample {said}\n" if said else "")


def test_nothing_is_told_of_a_run_that_starts(capsys, tmp_path):
    with progress_bar(False, tmp_path) as progress:
        assert progress
        progress("greedy", 10, 20, 300)
        progress("greedy", 20, 20, 600)
    assert capsys.readouterr().err == ""


def test_numbers_stand_whole_in_eighty_columns(monkeypatch, tmp_path):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with progress_bar(False, tmp_path) as progress:
        assert progress
        progress("sample:temperature=3.0,top_n_sigma=1.0", 32000, 64000, 12)
    written = terminal.getvalue()
    assert "sample:temperature=3.0,… " in written
    assert "32000/64000" in written
    assert "tokens/s" in written
    assert "left" in written


def test_much_sampling_is_announced(capsys, tmp_path):
    announce_sampling("pairs", PairsOptions(), tmp_path, 1000, 64)
    said = "sample 64 responses to each of 1,000 problems, 64,000 in all; --limit N takes fewer problems\n"
    assert capsys.readouterr().err == f"forkpoint: pairs is about to {said}"
    announce_sampling("critical", PairsOptions(), tmp_path, 1000, 1, rollouts=1024)
    assert "1 response to each of 1,000 problems, 1,000 in all, and up to 1,024 rollouts" in capsys.readouterr().err
    announce_sampling("pairs", PairsOptions(limit=1000), tmp_path, 1000, 64)
    announce_sampling("pairs", PairsOptions(quiet=True), tmp_path, 1000, 64)
    announce_sampling("pairs", PairsOptions(), tmp_path, 10, 64)
    (tmp_path / "config.json").touch()  # a run that goes on
    announce_sampling("pairs", PairsOptions(), tmp_path, 1000, 64)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("argv", "said"), [
    (["pairs"], "64 responses to each of 1,000 problems"),
    (["critical"], "1 response to each of 1,000 problems, 1,000 in all, and up to 1,024 rollouts from each wrong one"),
    (["contrast", "--limit", "5"], "--train-limit N takes fewer problems"),
    (["rounds"], "24 responses to each of 1,000 problems"),
])  # fmt: skip
def test_the_verbs_that_sample_announce_it(capsys, monkeypatch, tmp_path, argv, said):
    def stops(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    for name in (
        "pairs.pair_building.pair_responses",
        "training.rounds.tune_in_rounds",
        "curves.critical_tokens.find_critical",
        "training.contrast_run.estimate",
    ):
        monkeypatch.setattr(f"forkpoint.{name}", stops)
    assert main(argv) == 130
    assert said in capsys.readouterr().err


def test_the_hub_is_asked_once(monkeypatch, tmp_path):
    from huggingface_hub import constants

    asked = []

    class Session:
        def head(self, url: str) -> None:
            asked.append(url)
            raise OSError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    with pytest.raises(UserError, match=r"no model nosuch: .* cannot be reached \(Name or service not known\)"):
        source_of("nosuch")
    assert len(asked) == 1
    Path(tmp_path, "models--some--model").mkdir()  # kept from before: transformers finds out what of it
    assert source_of("some/model") == "some/model"
    assert len(asked) == 1
