"""What `forkpoint run` prints beside its page."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

from forkpoint.recipe import Recipe, StageStep
from forkpoint.redaction import without_secrets
from forkpoint.report.content import Table
from forkpoint.report.terminal import print_table

DONE = {"skip": "done before", "run": "done", "resume": "done, resumed", "redo": "done again"}


def print_plan(recipe: Recipe, steps: Sequence[StageStep]) -> None:
    """What would happen with each stage, and the command of each that would run."""
    rows = [
        (step.stage.name, step.stage.verb, step.action + (f", because {step.why}" if step.action == "redo" else ""))
        for step in steps
    ]
    print_table(Table(f"{recipe.name} in {recipe.out}", ("stage", "verb", "what would happen"), rows, left=3))
    for step in steps:
        if step.action != "skip":
            print(without_secrets(f"forkpoint {shlex.join(step.stage.arguments(recipe.out))}"))


def said_of(steps: Sequence[StageStep]) -> str:
    """What happened with the stages: "3 done, 1 done before"."""
    counts = Counter(DONE[step.action] for step in steps)
    return ", ".join(f"{count} {what}" for what, count in counts.items())
