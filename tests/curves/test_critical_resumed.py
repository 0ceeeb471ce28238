"""The same bytes from `critical` whatever happens: killed, interrupted, in small batches, from Python."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab_runs import COMMAND, SEARCH, result

from forkpoint.cli import main
from forkpoint.curves import critical_tokens as module
from forkpoint.curves.critical_tokens import find_critical
from forkpoint.engines.local.transformers_engine import TransformersEngine
from forkpoint.lab.problem_generator import load_problems

KILLER = """
import json, os, signal, sys
from pathlib import Path
import forkpoint.cli.critical, forkpoint.engines.loading, forkpoint.evaluation, forkpoint.report
from forkpoint.cli import main
from forkpoint.curves import critical_tokens as run
from forkpoint import files
from forkpoint.files import Journal
from forkpoint.trajectories import rows
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

run.UNIT, rows.SAMPLED_UNIT = 2, 3
write_whole = files.write_whole
signal.signal(signal.SIGINT, signal.default_int_handler)

def stop(number):
    os.kill(os.getpid(), number)

def in_unit(n, module, name, number=signal.SIGKILL):
    whole, calls = getattr(module, name), []
    def cut(found):
        for one in found:
            yield one
            stop(number)
    def called(*args, **options):
        calls.append(name)
        return cut(whole(*args, **options)) if len(calls) == n else whole(*args, **options)
    setattr(module, name, called)

def torn(journal, entry):
    with journal.path.open("a") as file:
        file.write(json.dumps(entry)[:50])
    stop(signal.SIGKILL)

def before_the_summary(path, chunks):
    stop(signal.SIGKILL) if path.name == "summary.json" else write_whole(path, chunks)

seen = []
for prepare in (
    lambda: in_unit(2, rows, "sample_trajectories"),
    lambda: in_unit(1, run, "label_trajectories", signal.SIGINT),
    lambda: in_unit(2, run, "label_trajectories"),
    lambda: setattr(Journal, "append", torn),
    lambda: in_unit(2, run, "replace_critical"),
    lambda: setattr(files, "write_whole", before_the_summary),
):
    child = os.fork()
    if not child:
        prepare()
        os._exit(main(sys.argv[1:]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen.append([code, (Path(sys.argv[-1]) / "journal.jsonl").read_text()])
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Path, tuple[int, ...], tuple[str, ...], str]:
    """A directory in which six processes worked, each stopped a little later than the one before.

    With their exit codes, the journal that each left, and what they said on stderr.
    """
    out = tmp_path_factory.mktemp("stopped") / "out"
    command = [sys.executable, "-c", KILLER, *COMMAND, "--out", str(out)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}  # a fork does not copy the other threads, and would wait for them
    process = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert process.returncode == 0, process.stderr
    codes, journals = zip(*json.loads(process.stdout), strict=True)
    return out, codes, journals, process.stderr


def test_ctrl_c_says_how_to_go_on(stopped):
    out, codes, _, said = stopped
    assert codes[1] == 130
    told = said.splitlines()
    told.remove(f"forkpoint: critical was stopped; the same command goes on from where it was ({out})")
    assert all(re.fullmatch(r"forkpoint: \d of \d are done already \([a-z ]+\)", line) for line in told)
    assert len(told) == len(codes) - 1  # each process but the first found some


@pytest.mark.slow
def test_kill_9_loses_nothing(stopped, critical_run, monkeypatch):
    """The last process has nothing left to generate."""
    out, codes, journals, _ = stopped
    assert [code for i, code in enumerate(codes) if i != 1] == [-signal.SIGKILL] * 5
    labels, replaced = (-(-n // 2) for n in (critical_run[1]["n_wrong"], critical_run[1]["statuses"]["critical"]))
    units = [1, 2, 3, 3, 3 + labels, 2 + labels + replaced]
    assert [journal.count("\n") for journal in journals] == units
    assert [journal.endswith("\n") for journal in journals] == [True, True, True, False, True, True]
    for before, after in itertools.pairwise(journals):
        assert after.startswith(before[: before.rindex("\n") + 1])  # done again, it would have taken another time
    monkeypatch.setattr(module, "UNIT", 2)
    monkeypatch.setattr("forkpoint.trajectories.rows.SAMPLED_UNIT", 3)
    monkeypatch.setattr(TransformersEngine, "generate", None)
    assert main([*COMMAND, "--out", str(out)]) == 0
    assert result(out) == result(critical_run[0])
    assert not (out / "journal.jsonl").exists()


def test_from_python_in_other_units(lab, critical_run, tmp_path, monkeypatch):
    """Trajectories are labelled one at a time here, and all together there."""
    monkeypatch.setattr(module, "UNIT", 1)
    told: list[tuple[str, int, int, int]] = []
    problems = load_problems(limit=6)
    summary = find_critical(lab, problems, SEARCH, tmp_path, task="lab", progress=lambda *args: told.append(args))
    assert summary | {"seconds": 0} == critical_run[1] | {"seconds": 0}
    assert result(tmp_path) == result(critical_run[0])
    last = {label.partition(",")[0]: (done, total) for label, done, total, _ in told}
    wrong, found = summary["n_wrong"], summary["statuses"]["critical"]
    assert last.pop("sampled problems") == (6, 6)
    assert last == {"labelled trajectories": (wrong, wrong), "replaced critical tokens": (found, found)}
    assert max(tokens for label, *_, tokens in told if label.startswith("labelled")) == summary["tokens_generated"]
