"""What `forkpoint rounds` prints."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from forkpoint.cli.tables import wide_console
from forkpoint.preference.held_out import ks


def print_rounds(summary: dict[str, Any]) -> None:
    """A row a round: what it was tuned on, and the figures on the held-out problems."""
    rows = summary["results"]
    k = ks(summary["eval_n"])[-1]
    table = Table(title=Text(_title(summary)), box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("round", "right", "tuned on", "tokens"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("greedy", "sampled", f"pass@{k}", "answers", "responses"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(str(row["round"]), *_tuned_on(row.get("samples")), *_figures(row.get("held_out"), k))
    console = wide_console()
    console.print(table)
    console.print(
        f"right: of the samples; tokens: with loss. greedy, sampled, pass@{k}: on held-out problems, 95% interval. "
        f"answers, responses: how many of {summary['eval_n']} differ."
    )


def _title(summary: dict[str, Any]) -> str:
    rule = summary["filter"]
    how = {
        "none": "no filter",
        "example": f"the {100 * rule['keep_quantile']:g}% least likely right responses",
        "token": f"tokens of a probability up to {rule['max_token_probability']:g}",
    }
    return f"{summary['model']} on {summary['task']}, tuned on its own right responses: {how[rule['kind']]}"


def _tuned_on(samples: dict[str, Any] | None) -> list[str]:
    if samples is None:
        return ["", "", ""]
    right = samples["samples"] - samples["wrong"]
    return [
        f"{100 * right / samples['samples']:.1f}%",
        f"{samples['trained']:,}",
        f"{samples['tokens'] - samples['masked_tokens']:,}",
    ]


def _figures(held_out: dict[str, Any] | None, k: int) -> list[str]:
    if held_out is None:
        return [""] * 5
    cells = []
    for name in ("greedy_accuracy", "sampled_accuracy", f"pass@{k}"):
        low, high = held_out[f"{name}_ci95"]
        cells.append(f"{100 * held_out[name]:.1f}% ({100 * low:.0f} to {100 * high:.0f})")
    return [*cells, *(f"{held_out[name]:.2f}" for name in ("distinct_answers", "distinct_responses"))]
