"""What the verbs `forkpoint train ...` print."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from forkpoint.cli.tables import wide_console

SHOWN = (
    "loss", "loss/all", "loss/unselected", "selection/share", "selection/documents_none", "rewards/chosen",
    "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected",
    "mean_token_accuracy",
)  # fmt: skip


def print_training(summary: dict[str, Any], data: str) -> None:
    """The run on so much data, and its metrics at the beginning and at the end."""
    console = wide_console()
    console.print(
        f"{summary['model']}, {summary['method']}: {data}, {summary['steps']:,} steps, "
        f"{summary['tokens_in_an_epoch']:,} tokens an epoch"
    )
    logged = [row for row in summary["history"] if "loss" in row]
    if not logged:
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True)
    for row in (logged[0], logged[-1]):
        table.add_column(f"up to step {row['step']:,}", justify="right", no_wrap=True)
    for name in SHOWN:
        if name in logged[0]:
            table.add_row(name, *(f"{row[name]:.4f}" for row in (logged[0], logged[-1])))
    if held_out := [row["eval_loss"] for row in summary["history"] if "eval_loss" in row]:
        first = f"{held_out[0]:.4f}" if len(held_out) > 1 else ""
        table.add_row("eval_loss, first and last", first, f"{held_out[-1]:.4f}")
    console.print(table)
