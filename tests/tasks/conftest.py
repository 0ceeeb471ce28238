"""Fixtures for the tests of problems and grading."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from forkpoint.tasks import load_problems
from forkpoint.types import Problem

DATA = Path(os.environ.get("FORKPOINT_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture
def benchmark_problems() -> Callable[[str], list[Problem]]:
    """Loads the whole test set of a real benchmark; skips the test where there is no copy of it."""

    def load(task: str) -> list[Problem]:
        file = DATA / f"{task}_test.jsonl"
        if not file.exists():
            pytest.skip(f"no copy of the {task} test set at {file} (set FORKPOINT_DATA to the folder that has it)")
        return load_problems(task, data=str(file))

    return load
