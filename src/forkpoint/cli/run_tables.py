"""What `forkpoint run` prints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from forkpoint.cli.tables import wide_console
from forkpoint.recipe import Recipe, Step

DONE = {"skip": "done before", "run": "done", "resume": "done, resumed", "redo": "done again"}


def print_plan(recipe: Recipe, steps: Sequence[Step]) -> None:
    """What would happen with each stage, and the command of each that would run."""
    console = wide_console()
    table = _table(f"{recipe.name} in {recipe.out}", "stage", "verb", "what would happen")
    for step in steps:
        why = f", because {step.why}" if step.action == "redo" else ""
        table.add_row(Text(step.stage.name), step.stage.verb, Text(f"{step.action}{why}"))
    console.print(table)
    for step in steps:
        if step.action != "skip":
            print(f"forkpoint {shlex.join(step.stage.arguments(recipe.out))}")


def print_summary(recipe: Recipe, steps: Sequence[Step], seconds: Mapping[str, float]) -> None:
    """The stages with their time, and where the results lie."""
    table = _table(f"{recipe.name}: all {len(steps)} stages are done", "stage", "verb", "what happened")
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("results", overflow="fold")
    for step in steps:
        name = step.stage.name
        table.add_row(
            Text(name), step.stage.verb, DONE[step.action], f"{seconds[name]:,.1f}", Text(str(recipe.out / name))
        )
    wide_console().print(table)
    print(f"\n{recipe.out / steps[-1].stage.name}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
