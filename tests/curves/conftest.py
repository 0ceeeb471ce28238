"""The run of `critical` that several files of tests look at."""

from __future__ import annotations

import json

import pytest
from lab_runs import COMMAND, Run

from forkpoint.cli import main


@pytest.fixture(scope="session")
def critical_run(tmp_path_factory) -> Run:
    """One run of the command line, with enough critical tokens for several units."""
    out = tmp_path_factory.mktemp("critical") / "out"
    assert main([*COMMAND, "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert 3 <= summary["statuses"]["critical"] <= summary["n_trajectories"] < 6
    return out, summary
