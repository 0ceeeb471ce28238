"""The names of what a run of lm-eval's tasks writes; needs no lm-eval."""

from __future__ import annotations

import re

RESULTS = "results.json"  # of all strategies, and in each one's directory lm-eval's own


def directory_of(spec: str) -> str:
    """A strategy's text as the name of a directory."""
    return re.sub(r"[:,]", "_", spec)


def samples_of(task: str) -> str:
    """The file with a task's samples, in a strategy's directory."""
    name = re.sub(r"[^\w.-]", "_", task)
    return f"samples_{name}.jsonl"
