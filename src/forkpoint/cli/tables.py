"""Results as tables in the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_OF_FILES = 120


def wide_console() -> Console:
    """The terminal, or for a file or a pipe, which has no width of its own, one that is wide enough for our tables."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_FILES)


def print_evaluation(results: dict[str, Any]) -> None:
    """The strategies with their figures, then each compared with the first."""
    console = wide_console()
    n = results["n_problems"]
    console.print(_accuracies(results, f"{results['model']} on {results['task']}, {n:,} problems"))
    if results["comparisons"]:
        console.print(_comparisons(results))
    detectable = results["minimum_detectable_difference"]
    console.print(f"With {n:,} problems a difference under about {100 * detectable:.1f} points is likely to be missed.")


def _accuracies(results: dict[str, Any], title: str) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("strategy", overflow="fold", min_width=18)
    for column in ("accuracy", "95% interval", "no answer", "tokens", "seconds"):
        table.add_column(column, justify="right", no_wrap=True)
    for s in results["strategies"]:
        lo, hi = s["ci95"]
        table.add_row(
            Text(s["strategy"]), f"{100 * s['accuracy']:.1f}%", f"{100 * lo:.1f} to {100 * hi:.1f}",
            f"{s['extraction_failures']:,} of {s['responses']:,}", f"{s['tokens_generated']:,}", f"{s['seconds']:,.1f}",
        )  # fmt: skip
    return table


def _comparisons(results: dict[str, Any]) -> Table:
    first = results["comparisons"][0]["a"]
    tests = " and ".join(sorted({c["test"] for c in results["comparisons"]}))
    table = Table(
        title=Text(f"against {first}, problem by problem ({tests})"), box=box.SIMPLE_HEAD, title_justify="left"
    )
    table.add_column("strategy", overflow="fold", min_width=18)
    for column in ("difference", "95% interval", "p", "p (Holm)"):
        table.add_column(column, justify="right", no_wrap=True)
    for c in results["comparisons"]:
        lo, hi = c["ci95"]
        table.add_row(
            Text(c["b"]), f"{100 * c['difference']:+.1f}", f"{100 * lo:+.1f} to {100 * hi:+.1f}",
            f"{c['p_value']:.2g}", f"{c['p_holm']:.2g}",
        )  # fmt: skip
    return table
