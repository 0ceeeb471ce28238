"""The page of a `pairs` run: how many of what, what was left out for which reason, and each token by token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.jsonl import checked_text, column, shares, text, tokens_of
from forkpoint.pairs.pair_files import PAIRS
from forkpoint.report.content import Page, Row, Table, Tokens, cut_off_hint, cut_off_words, finished, number, percent
from forkpoint.tasks.data_sets import read_rows
from forkpoint.trajectories.rows import SUMMARY

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
    "empty_response": "a response that says nothing",
    "bad_row": "in no form that can be read (--skip-bad)",
}


def page(run: Path) -> Page:
    """What pairs.jsonl and summary.json hold. UserError where one is missing or broken, with the line."""
    summary = finished(run, SUMMARY, PAIRS)
    shown = page_of_summary(summary)
    rows = partial(_rows, run / PAIRS, forks=summary["source"] == "forks")
    return Page(shown.title, shown.lines, shown.sections, Tokens(rows, PAIRS, entry="pair", entries="pairs"))


def page_of_summary(summary: Summary) -> Page:
    """The sentences and the table of what the functions of `forkpoint.pairs.pair_building` return."""
    counts = summary["dropped"]
    dropped = [(what, WORDS[reason], n) for what, reasons in counts.items() for reason, n in reasons.items() if n]
    rows = [(*words, f"{n:,}") for *words, n in dropped]
    sections = [Table("Not in a pair", ("of", "reason", "number"), rows, left=2)] if rows else []
    return Page(f"Preference pairs for {summary['model']}", _lines(summary), sections)


def _lines(summary: Summary) -> list[str]:
    counts = summary["counts"]
    origin = {
        "samples": "{samples:,} responses to {questions:,} questions, {correct:,} right{cut_off}",
        "forks": "{alternatives:,} other tokens at {positions:,} positions of {trajectories:,} responses",
        "trl": "{rows:,} rows",
    }[summary["source"]].format(**counts | {"cut_off": cut_off_words(counts.get("cut_off"))})
    tokens = ", ".join(f"{name} {n['mean']:.1f} (at most {n['most']:,})" for name, n in summary["tokens"].items())
    lines = [f"{counts['pairs']:,} pairs of {origin}, for {summary['model']}", f"tokens on average: {tokens}"]
    lines += cut_off_hint(("", counts.get("cut_off"), counts.get("samples", 0)))
    if weights := summary["rejected_weights"]:
        lines.append(
            f"weights of {weights['tokens']:,} rejected tokens: mean {number(weights['mean'])}, "
            f"{percent(weights['share_above_half'])} above one half"
        )
    if summary["source"] == "forks":
        weight = summary["weight"]
        lines.append(
            f"gain in success: mean {number(weight['mean'])}, from {number(weight['least'])} to "
            f"{number(weight['most'])}; at {counts['positions_with_pairs']:,} positions of "
            f"{counts['trajectories_with_pairs']:,} responses"
        )
    if moved := counts.get("shortened_prompts"):
        lines.append(f"{moved:,} prompts end in tokens that change with the response, and are shortened by them")
    return lines


def _rows(path: Path, *, forks: bool) -> Iterator[Row]:
    """Two rows a pair, the chosen response and the rejected one; a pair with weights opens with what has them."""
    for where, row in read_rows(path):
        name = text(row, "id", where)
        prompt = checked_text(column(row, "prompt", where), f"{where}: column 'prompt'", blank=True)
        sides = {side: tokens_of(row, where, f"{side}_ids", f"{side}_tokens") for side in ("chosen", "rejected")}
        for side, (ids, tokens) in sides.items():
            weights = row.get("rejected_weights") if side == "rejected" else None
            if weights is not None:
                weights = shares(weights, len(ids), "rejected_weights", where)
            yield {
                "id": f"{name}/{side}", "group": name, "label": side, "question": prompt,
                "token_ids": ids, "tokens": tokens, "weight": weights, "picked": weights is not None,
                "note": _gain(row, sides) if forks and side == "chosen" else "",
            }  # fmt: skip


def _gain(row: Row, sides: dict[str, tuple[list[int], list[str]]]) -> str:
    """What a token at a fork is better by than the response's own."""
    (_, [chosen]), (_, [rejected]) = sides["chosen"], sides["rejected"]
    return f"{chosen!r} in place of {rejected!r} raises the success by {number(row['weight'])}"
