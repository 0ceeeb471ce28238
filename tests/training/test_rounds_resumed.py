"""`rounds` ends in the same bytes whatever happens: killed at any stage, one after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forkpoint.cli import main

pytestmark = pytest.mark.slow

COMMAND = ["rounds", "--limit", "9", "--n", "4", "--eval-limit", "4", "--eval-n", "3", "--rounds", "2", "--quiet",
           "--max-tokens", "100", "--per-device-train-batch-size", "2", "--learning-rate", "1e-3", "--filter", "token",
           "--max-token-probability", "0.95"]  # fmt: skip
UNIT = 12  # responses: three problems to tune on, three held-out ones

KILLER = """
import json, os, signal, sys
from pathlib import Path
import forkpoint.report.figures.charts, peft, trl
from forkpoint import files
from forkpoint.cli import main
from forkpoint.files import Journal
from forkpoint.training import rounds

rounds.SAMPLED_UNIT = int(sys.argv[1])
out = Path(sys.argv[2])

def stop(*args):
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(n, name):
    whole, calls = getattr(rounds, name), []
    def called(*args, **options):
        calls.append(name)
        return stop() if len(calls) == n else whole(*args, **options)
    setattr(rounds, name, called)

def in_training():
    fit = rounds.fit
    rounds.fit = lambda trainer, tokens, step: fit(trainer, tokens, lambda done, *_: done == 4 and stop())

def before(name):
    whole_file = files.whole_file
    files.whole_file = lambda path: stop() if str(path).endswith(name) else whole_file(path)

def torn(journal, entry):
    with journal.path.open("a") as file:
        file.write(json.dumps(entry)[:50])
    stop()

seen = []
for prepare in (
    lambda: None,
    lambda: at_call(2, "sample_completions"),
    lambda: setattr(Journal, "append", torn),
    in_training,
    lambda: at_call(1, "save_trained"),
    lambda: at_call(2, "respond"),
    lambda: before("round-1/round.json"),
    lambda: at_call(2, "sample_completions"),
    lambda: before("evaluation.jsonl"),
    lambda: before("summary.json"),
):
    child = os.fork()
    if not child:
        prepare()
        os._exit(main([*sys.argv[3:], "--out", str(out / ("killed" if seen else "whole"))]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen.append([code, sorted([str(p.relative_to(out)), p.stat().st_mtime_ns] for p in out.rglob("*") if p.is_file())])
print(json.dumps(seen))
"""


def contents(out: Path) -> dict[str, bytes]:
    """The files; where they name their own directory, in the command, it is left out."""
    files = [p for p in sorted(out.rglob("*")) if p.is_file()]
    return {str(p.relative_to(out)): p.read_bytes().replace(str(out).encode(), b"OUT") for p in files}


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Path, list[int], list[dict[str, int]]]:
    """A directory with a whole run, and one in which nine processes were killed, each a little later than the last.

    With their exit codes, and the files that stood there after each, with the times they were written.
    """
    out = tmp_path_factory.mktemp("killed")
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # a fork does not copy the other threads, and would wait for them
    process = subprocess.run(
        [sys.executable, "-c", KILLER, str(UNIT), str(out), *COMMAND],
        capture_output=True, text=True, env=env, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    codes, files = zip(*json.loads(process.stdout.splitlines()[-1]), strict=True)
    return out, list(codes), [dict(some) for some in files]


def test_kill_9_loses_nothing(killed, monkeypatch):
    """The last process has but the summary to write."""
    out, codes, files = killed
    assert codes == [0, *[-signal.SIGKILL] * 9]
    checkpoints, trained, model = ("killed/round-1/checkpoints", "killed/round-1/training.json", "killed/round-1/model")
    assert any(name.startswith(checkpoints) for name in files[3])
    assert trained in files[4]
    assert not any(name.startswith(model) for name in files[4])
    assert any(name.startswith(model) for name in files[5])
    assert "killed/round-2/samples.jsonl" not in files[7]
    assert "killed/round-2/model/model.safetensors" in files[8]
    assert "killed/summary.json" not in files[9]
    monkeypatch.setattr("forkpoint.engines.local.transformers_engine.TransformersEngine.generate", None)
    assert main([*COMMAND, "--out", str(out / "killed")]) == 0
    assert contents(out / "killed") == contents(out / "whole")
    assert not list((out / "killed").rglob("journal.jsonl"))


def test_a_finished_round_is_not_done_again(killed):
    """Nor is a finished model."""
    _, _, files = killed
    for number, first in ((0, 2), (1, 7)):
        done = {name: time for name, time in files[first].items()
                if name.startswith(f"killed/round-{number}/") and not name.endswith("journal.jsonl")}  # fmt: skip
        assert f"killed/round-{number}/round.json" in done
        assert done.items() <= files[9].items()
    weights = "killed/round-1/model/model.safetensors"
    assert files[5][weights] == files[9][weights]
