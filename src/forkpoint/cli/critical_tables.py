"""What `forkpoint critical` prints."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from forkpoint.cli.tables import wide_console

Summary = dict[str, Any]


def print_critical(summary: Summary) -> None:
    """What was sampled and found, what it cost, and the replacement experiment."""
    console = wide_console()
    for line in _lines(summary):
        console.print(Text(line))
    if replacement := summary.get("replacement"):
        console.print(_replacement(replacement))


def _lines(summary: Summary) -> list[str]:
    responses = summary["responses"]
    lines = [
        f"{summary['model']} on {summary['task']}: {responses['n']:,} responses, {responses['correct']:,} correct, "
        f"{responses['no_answer']:,} without an answer"
    ]
    if not summary["n_trajectories"]:
        wanted = {"wrong": "wrong", "correct": "correct"}.get(summary["which"], "")
        return [*lines, f"no response is {wanted}, so there is nothing to label; see --which, --n and --temperature"]
    statuses = summary["statuses"]
    lines.append(
        f"{summary['n_trajectories']:,} labelled: {statuses['critical']:,} with a critical token, "
        f"{statuses['none']:,} without, {statuses['undecided']:,} undecided"
    )
    if summary["n_wrong"]:
        low, high = summary["share_critical_ci95"]
        lines.append(
            f"critical token in {100 * summary['share_critical']:.1f}% of {summary['n_wrong']:,} wrong responses "
            f"(95% interval {100 * low:.1f} to {100 * high:.1f})"
        )
    if position := summary["critical_position"]:
        kinds = ", ".join(f"{kind['kind']} {kind['count']:,}" for kind in summary["token_kinds"])
        lines.append(f"at token {position['median']:.0f} in the median, {100 * position['relative_mean']:.1f}% of "
                     f"the way on average; {kinds}")  # fmt: skip
    if bias := summary.get("success_bias"):
        lines.append(
            f"tokens that the engine cannot name may move the success probability by {bias['mean']:.4f} on average, "
            f"{bias['largest']:.4f} at most"
        )
    return [*lines, _cost(summary)]


def _cost(summary: Summary) -> str:
    spent, plain = summary["tokens_generated"], summary["brute_force_tokens"]
    times = f", {plain / spent:.1f} times as many" if spent else ""
    return (
        f"{summary['rollouts']:,} rollouts, {spent:,} tokens, {summary['seconds']:,.1f} seconds; "
        f"64 from every prefix: {plain:,} tokens{times}"
    )


def _replacement(replacement: Summary) -> Table | Text:
    rows = replacement["table"]
    if not rows:
        return Text("replacement: no response has a critical token to replace")
    title = f"pass@k with the critical token replaced, {replacement['n_trajectories']:,} responses"
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("k", "not replaced", "95% interval", "replaced", "95% interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if row["k"].bit_count() == 1 or row is rows[-1]:
            table.add_row(str(row["k"]), *_share(row, "without"), *_share(row, "with"))
    return table


def _share(row: Summary, arm: str) -> tuple[str, str]:
    low, high = row[f"{arm}_ci95"]
    return f"{100 * row[arm]:.1f}%", f"{100 * low:.1f} to {100 * high:.1f}"
