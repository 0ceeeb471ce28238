"""Runs of `critical` on the lab for the tests: the command, its files, and what each line must be."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from forkpoint.cli import main
from forkpoint.curves.critical_tokens import CriticalConfig
from forkpoint.curves.label_dataset import COLUMNS
from forkpoint.tasks import stop_strings
from forkpoint.types import Sampling

Row = dict[str, Any]
Run = tuple[Path, dict[str, Any]]  # its directory and its summary
COMMAND = ["critical", "--limit", "6", "--seed", "2", "--budget", "192", "--replace"]
SEARCH = CriticalConfig(sampling=Sampling(max_tokens=160, stop=stop_strings("cot"), seed=2), budget=192, replace=True)


def rows_of(path: Path) -> list[Row]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def labelled(out: Path, *argv: str) -> list[Row]:
    """The rows that a command writes."""
    assert main(["critical", *argv, "--out", str(out)]) == 0
    return rows_of(out / "critical.jsonl")


def result(out: Path) -> dict[str, bytes]:
    """What a run must say whatever happened to it: all its files' bytes, without the time that it took."""
    names = ("critical.jsonl", "replacement.jsonl", "samples.jsonl", "summary.json")
    found = {name: (out / name).read_bytes() for name in names}
    found["summary.json"] = re.sub(rb'"seconds": [\d.]+', b"", found["summary.json"])
    return found


def verdict(row: Row) -> tuple[str, int | None]:
    """The label that METHODS and DESIGN ask for, naively, from a row's own curve."""
    upper = [pair[1] for pair in row["success_ci"]]
    if row["correct"]:
        return "none", None
    for i, success in enumerate(row["success"]):
        if success <= 1 / 64 and all(u < 0.05 for u in upper[i:]):
            if i == 0:
                return "none", None
            return ("critical" if row["success_ci"][i - 1][0] > 1 / 64 else "undecided"), i - 1
    return ("none" if row["success_ci"][-1][0] > 1 / 64 else "undecided"), None


def check(row: Row) -> None:
    """That a line of the fork estimator has the promised columns, of the promised lengths and in accord."""
    n = len(row["token_ids"])
    assert row.keys() == COLUMNS.keys()
    assert len(row["success"]) == len(row["success_ci"]) == n + 1
    assert {len(row[name]) for name in ("tokens", "policy_prob", "entropy", "gap", "logprob")} == {n}
    for success, (lower, upper) in zip(row["success"], row["success_ci"], strict=True):
        assert 0 <= lower <= success <= upper <= 1
    assert (row["status"], row["critical_index"]) == verdict(row)
    assert sum(a["n"] for a in row["alternatives"]) == row["rollouts"]
    assert row["alternatives"] == sorted(row["alternatives"], key=lambda a: (a["position"], -a["policy_prob"]))
    taken = Counter((a["position"], a["token_id"]) for a in row["alternatives"])
    assert max(taken.values()) == 1
    assert not set(taken) & set(enumerate(row["token_ids"]))
    for a in row["alternatives"]:
        assert (a["success"] * a["n"]) == pytest.approx(round(a["success"] * a["n"]), abs=1e-3)
