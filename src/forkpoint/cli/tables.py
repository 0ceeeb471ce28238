"""Results as tables in the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_evaluation(results: dict[str, Any]) -> None:
    """The strategies with their figures, then each compared with the first."""
    console = Console()
    n = results["n_problems"]
    console.print(_accuracies(results, f"{results['model']} on {results['task']}, {n} problems"))
    if results["comparisons"]:
        console.print(_comparisons(results))
    detectable = results["minimum_detectable_difference"]
    console.print(f"With {n} problems a difference under about {100 * detectable:.1f} points is likely to be missed.")


def _accuracies(results: dict[str, Any], title: str) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("strategy", overflow="fold", min_width=18)
    for column in ("accuracy", "95% interval", "no answer", "tokens", "seconds"):
        table.add_column(column, justify="right")
    for s in results["strategies"]:
        lo, hi = s["ci95"]
        table.add_row(
            Text(s["strategy"]), f"{100 * s['accuracy']:.1f}%", f"{100 * lo:.1f} to {100 * hi:.1f}",
            f"{s['extraction_failures']} of {s['responses']}", f"{s['tokens_generated']:,}", f"{s['seconds']:.1f}",
        )  # fmt: skip
    return table


def _comparisons(results: dict[str, Any]) -> Table:
    first = results["comparisons"][0]["a"]
    table = Table(title=Text(f"against {first}"), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("strategy", overflow="fold", min_width=18)
    for column in ("difference", "95% interval", "p", "p (Holm)", "test"):
        table.add_column(column, justify="right")
    for c in results["comparisons"]:
        lo, hi = c["ci95"]
        table.add_row(
            Text(c["b"]), f"{100 * c['difference']:+.1f}", f"{100 * lo:+.1f} to {100 * hi:+.1f}",
            f"{c['p_value']:.2g}", f"{c['p_holm']:.2g}", c["test"],
        )  # fmt: skip
    return table
