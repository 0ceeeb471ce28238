"""What `forkpoint logits` prints: the chosen positions, their statistics, and how many tokens each sampler keeps."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from forkpoint.cli.tables import wide_console


def print_logits(summary: dict[str, Any]) -> None:
    """A row a chosen position, then how many tokens the samplers keep there by temperature."""
    console = wide_console()
    first, *others = summary["responses"]
    far = first["distance"]
    console.print(Text(
        f"{summary['model']}, {first['problem_id']}: {first['tokens']:,} tokens; the largest logit lies "
        f"{far['mean']:.1f} σ above the mean ({far['least']:.1f} to {far['most']:.1f})"
    ))  # fmt: skip
    if others:
        console.print(Text(f"and {len(others):,} more responses, which count in the means over positions"))
    console.print(_statistics(summary))
    for one in summary["chosen"]:
        console.print(_kept(one))


def _statistics(summary: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("position", "token", "probability", "maximum", "mean", "σ", "distance (σ)", "entropy (nats)"):
        table.add_column(column, justify="left" if column == "token" else "right", no_wrap=True)
    for one in summary["chosen"]:
        names = f" ({', '.join(one['named'])})" if one["named"] else ""
        numbers = (f"{one[name]:.2f}" for name in ("maximum", "mean", "sigma", "distance"))
        table.add_row(
            f"{one['position']}{names}", Text(repr(one["token"])), f"{one['probability']:.3f}", *numbers,
            f"{one['entropy']:.3f}",
        )  # fmt: skip
    return table


def _kept(one: dict[str, Any]) -> Table:
    title = Text(f"tokens kept at position {one['position']}")
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("sampler", overflow="fold", min_width=18)
    for temperature in next(iter(one["kept"].values())):
        table.add_column(f"T = {temperature}", justify="right", no_wrap=True)
    for spec, by_temperature in one["kept"].items():
        table.add_row(Text(spec), *(f"{count:,}" for count in by_temperature.values()))
    return table
