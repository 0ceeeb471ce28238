"""What `forkpoint dynamics` prints: the classes of tokens."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from forkpoint.cli.tables import wide_console


def print_dynamics(dynamics: dict[str, Any]) -> None:
    """How many tokens each class has, and its mean loss at the first and the last checkpoint, in nats."""
    console = wide_console()
    names = dynamics["checkpoints"]
    console.print(f"{dynamics['tokens']:,} tokens, {len(names)} checkpoints", markup=False)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", no_wrap=True)
    for heading in ("tokens", "share", f"loss at {names[0]}", f"loss at {names[-1]}"):
        table.add_column(heading, justify="right", overflow="fold")
    for name, row in dynamics["classes"].items():
        losses = (row["mean_loss"][0], row["mean_loss"][-1])
        shown = ("" if value is None else f"{value:.3f}" for value in losses)
        share = "" if row["share"] is None else f"{100 * row['share']:.1f}%"
        table.add_row(name, f"{row['tokens']:,}", share, *shown)
    console.print(table)
