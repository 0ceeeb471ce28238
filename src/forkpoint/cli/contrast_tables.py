"""What `forkpoint contrast` prints."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from forkpoint.cli.tables import wide_console

HEADINGS = {"hit_rate": "top-1 hits", "mean_reciprocal_rank": "mean 1/rank", "auc": "AUC"}
SCORERS = {
    "contrast": "lowest s",
    "policy_prob": "lowest probability",
    "entropy": "highest entropy",
    "random": "random",
}


def print_contrast(summary: dict[str, Any]) -> None:
    """The sets and their training, and the agreement with rollouts where there is one."""
    console = wide_console()
    sets, scored = summary["sets"], summary["scored"]
    console.print(
        f"{summary['model']} on {summary['task']}: {sets['samples']:,} samples of {sets['questions']:,} questions, "
        f"{100 * sets['correct'] / sets['samples']:.1f}% correct"
    )
    for name, training in summary["training"].items():
        loss = sum(training["losses"]) / len(training["losses"])
        console.print(
            f"{name} model: {training['responses']:,} responses, {training['steps']:,} steps, mean loss {loss:.4f}"
        )
    console.print(f"scored: {scored['tokens']:,} tokens of {scored['trajectories']:,} trajectories")
    if summary["agreement"]:
        console.print(_agreement(summary["agreement"]))


def _agreement(figures: dict[str, Any]) -> Table:
    title = f"finding the critical token: {figures['trajectories']:,} trajectories of {figures['problems']:,} problems"
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("scorer", no_wrap=True)
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("95% interval", justify="right", no_wrap=True)
    for entry in figures["scorers"]:
        cells = []
        for metric in HEADINGS:
            low, high = entry[f"{metric}_ci95"]
            cells += [f"{entry[metric]:.3f}", f"{low:.3f} to {high:.3f}"]
        table.add_row(SCORERS[entry["scorer"]], *cells)
    return table
