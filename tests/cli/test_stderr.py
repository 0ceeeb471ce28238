"""What stderr says of a run: how to go on, what is done already, what will be sampled; and a reader who leaves."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forkpoint.cli import main
from forkpoint.cli.pairs import PairsOptions
from forkpoint.cli.progress import progress_bar
from forkpoint.cli.setup import announce_sampling, announce_time
from forkpoint.cli.verb import Verb
from forkpoint.engines.loading import source_of
from forkpoint.files import JOURNAL
from forkpoint.lab.problem_generator import load_problems as lab_problems
from forkpoint.types import Completion, FailedError, Sampling, UserError

SMALL = ["--strategy", "greedy", "--strategy", "sample:n=64", "--limit", "21", "--max-tokens", "9"]


@pytest.mark.parametrize("argv", [["--help"], ["eval", "--help"], ["train"], ["show", "RUN"]])
def test_a_reader_who_leaves_ends_a_command_without_a_word(argv, tmp_path):
    run = tmp_path / "run"
    if "RUN" in argv:
        assert main(["eval", "--limit", "2", "--strategy", "greedy", "--out", str(run), "--quiet"]) == 0
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "forkpoint", *(str(run) if word == "RUN" else word for word in argv)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    if argv == ["train"]:
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)  # its mistake is on stderr all the same
    else:
        assert done.stderr == ""
        assert done.returncode == 1 or argv == ["eval", "--help"]  # where argparse hides it


def test_another_broken_pipe_is_a_bug(monkeypatch):
    def breaks(*_):
        raise BrokenPipeError

    monkeypatch.setattr("forkpoint.cli.load_verb", lambda name: Verb(name, PairsOptions, breaks))
    with open(os.devnull, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(BrokenPipeError):
            main(["pairs"])


def test_a_stopped_run_says_where_it_goes_on_and_what_is_done(capsys, monkeypatch, tmp_path):
    """It stops at its third unit, by Ctrl-C or a failure."""
    from forkpoint.evaluation import evaluate

    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text(json.dumps({"verb": "critical"}))  # stopped before its first unit
    assert main(["report", str(out)]) == 2
    assert "is not finished; the same command" in capsys.readouterr().err
    (out / "config.json").unlink()

    solve, units = evaluate._solve_unit, []

    def stops(*unit):
        if len(units) == 2:
            raise errors[-1]
        units.append(unit)
        return solve(*unit)

    monkeypatch.setattr(evaluate, "_solve_unit", stops)
    errors: list[BaseException] = []
    for error, code in ((KeyboardInterrupt(), 130), (FailedError("the server is gone"), 1)):
        errors.append(error)
        assert main(["eval", *SMALL, "--out", str(out)]) == code
        assert capsys.readouterr().err.endswith(f" goes on from where it was ({out})\n")
    for verb in ("report", "show"):
        assert main([verb, str(out)]) == 2
        assert "is not finished: 2 units are done" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["eval", *SMALL, "--out", str(out)]) == 0
    assert capsys.readouterr().err == "forkpoint: 31 of 42 are done already (sample:n=64)\n"
    assert not (out / JOURNAL).exists()


@pytest.mark.parametrize(("n", "time"), [(64, "2 minutes at most"), (6400, "3.5 hours at most"), (13, "")])
def test_how_long_sampling_may_take_is_announced(capsys, monkeypatch, tokenizer, tmp_path, n, time):
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
    for quiet in (False, True):
        announce_time("pairs", PairsOptions(n=n, quiet=quiet), tmp_path, Slow(), problems, Sampling(max_tokens=100))
    if n > 13:
        with pytest.raises(UserError, match="tokens, but slow reads at most 1000"):
            announce_time("pairs", PairsOptions(n=n), tmp_path, Slow(), problems, Sampling(max_tokens=999))
    err = capsys.readouterr().err
    assert err.endswith(f"{time}\n") if time else not err


def test_numbers_stand_whole_in_eighty_columns(monkeypatch, tmp_path):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with progress_bar(False) as progress:
        assert progress
        progress("sample:temperature=3.0,top_n_sigma=1.0", 32000, 64000, 12)
    assert "32000/64000" in terminal.getvalue()


def test_sampling_that_is_little_limited_quiet_or_begun_is_not_announced(capsys, tmp_path):
    for options, problems in ((PairsOptions(limit=1000), 1000), (PairsOptions(quiet=True), 1000), (PairsOptions(), 10)):
        announce_sampling("pairs", options, tmp_path, problems, 64)
    (tmp_path / "config.json").touch()
    announce_sampling("pairs", PairsOptions(), tmp_path, 1000, 64)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("argv", "work", "message"), [
    (["pairs"], "pairs.pair_building.pair_responses", "64 responses to each of 1,000 problems"),
    (["critical"], "curves.critical_tokens.find_critical", "up to 1,024 rollouts from each wrong one"),
    (["contrast", "--limit", "5"], "training.contrast_run.estimate", "--train_limit N takes fewer problems"),
    (["rounds"], "training.rounds.tune_in_rounds", "24 responses to each of 1,000 problems"),
])  # fmt: skip
def test_the_verbs_that_sample_announce_it(capsys, monkeypatch, tmp_path, argv, work, message):
    def stops(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"forkpoint.{work}", stops)
    assert main(argv) == 130
    assert message in capsys.readouterr().err


def test_the_hub_is_asked_once(monkeypatch, tmp_path):
    from huggingface_hub import constants

    addresses = []

    class Session:
        def head(self, url: str) -> None:
            addresses.append(url)
            raise OSError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    with pytest.raises(UserError, match=r"no model nosuch: .* cannot be reached \(Name or service not known\)"):
        source_of("nosuch")
    Path(tmp_path, "models--some--model").mkdir()  # kept from before: transformers finds out what of it
    assert source_of("some/model") == "some/model"
    assert len(addresses) == 1
