"""What `forkpoint pairs` prints."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from forkpoint.cli.tables import wide_console

Summary = dict[str, Any]
WORDS = {
    "no_correct": "no right response",
    "no_wrong": "no wrong response",
    "no_wrong_answer": "no wrong response holds an answer",
    "no_scores": "the rejected response has no scores",
    "question_dropped": "their question makes no pair",
    "no_answer": "wrong, without an answer",
    "other_correct_answer": "right, but not the most frequent right answer",
    "same_correct_answer": "right, but another one with that answer was drawn",
    "other_wrong_answer": "wrong, but not the most frequent wrong answer",
    "same_wrong_answer": "wrong, but another one with that answer was drawn",
    "not_evaluated": "success after the response's own token is not known",
    "not_better": "no better than the response's own token",
    "within_error": "better, but within the interval",
    "less_likely": "better, but less likely by the model than the response's own",
    "same_response": "chosen and rejected are the same",
    "no_prompt": "no prompt: chosen and rejected begin differently",
    "empty_response": "a response without a token",
}


def print_pairs(summary: Summary) -> None:
    """How many pairs of what, their lengths and weights, and what was left out for which reason."""
    console = wide_console()
    for line in _lines(summary):
        console.print(Text(line))
    if any(count for reasons in summary["dropped"].values() for count in reasons.values()):
        console.print(_dropped(summary["dropped"]))


def _lines(summary: Summary) -> list[str]:
    counts = summary["counts"]
    origin = {
        "samples": "{samples:,} responses to {questions:,} questions, {correct:,} right",
        "forks": "{alternatives:,} other tokens at {positions:,} positions of {trajectories:,} responses",
        "trl": "{rows:,} rows",
    }[summary["source"]].format(**counts)
    tokens = ", ".join(f"{name} {n['mean']:.1f} (at most {n['most']:,})" for name, n in summary["tokens"].items())
    lines = [f"{counts['pairs']:,} pairs of {origin}, for {summary['model']}", f"tokens on average: {tokens}"]
    if weights := summary["rejected_weights"]:
        lines.append(
            f"weights of {weights['tokens']:,} rejected tokens: mean {weights['mean']:.3f}, "
            f"{100 * weights['share_above_half']:.1f}% above one half"
        )
    if summary["source"] == "forks":
        weight = summary["weight"]
        lines.append(
            f"gain in success: mean {weight['mean']:.3f}, from {weight['least']:.3f} to {weight['most']:.3f}; at "
            f"{counts['positions_with_pairs']:,} positions of {counts['trajectories_with_pairs']:,} responses"
        )
    if moved := counts.get("shortened_prompts"):
        lines.append(f"{moved:,} prompts end in tokens that change with the response, and are shortened by them")
    return lines


def _dropped(dropped: Summary) -> Table:
    table = Table(title=Text("not in a pair"), box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("of", "reason"):
        table.add_column(column, no_wrap=True)
    table.add_column("number", justify="right", no_wrap=True)
    for what, reasons in dropped.items():
        for reason, count in reasons.items():
            if count:
                table.add_row(what, WORDS[reason], f"{count:,}")
    return table
