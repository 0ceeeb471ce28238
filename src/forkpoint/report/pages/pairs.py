"""The page of a `pairs` run: how many of what, what was left out for which reason, and each token by token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from forkpoint.files import SUMMARY
from forkpoint.jsonl import Row, checked_text, column, shares, text, tokens_of
from forkpoint.pairs.pair_files import PAIRS
from forkpoint.report.content import Page, Table, Tokens, cut_off_hint, number
from forkpoint.tasks.data_sets import read_rows

FILES = (SUMMARY, PAIRS)
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
ORIGINS = {
    "samples": "{samples:,} responses to {questions:,} questions, {correct:,} right, {cut_off:,} cut off",
    "forks": "{alternatives:,} other tokens at {positions:,} positions of {trajectories:,} responses",
    "trl": "{rows:,} rows",
}


def page(summary: Row, run: Path | None = None) -> Page:
    """What the functions of `forkpoint.pairs.pair_building` return, and pairs.jsonl."""
    dropped = summary["dropped"].items()
    rows = [(of, WORDS[reason], f"{n:,}") for of, reasons in dropped for reason, n in reasons.items() if n]
    sections = [Table("Not in a pair", ("of", "reason", "number"), rows, left=2)] if rows else []
    pairs = partial(_rows, forks=summary["source"] == "forks")
    tokens = Tokens.of(run, PAIRS, pairs, "response", "responses", "pair", "pairs")
    return Page(f"Preference pairs for {summary['model']}", _lines(summary), sections, tokens)


def _lines(summary: Row) -> list[str]:
    counts = summary["counts"]
    origin = ORIGINS[summary["source"]].format(**counts)
    tokens = ", ".join(f"{name} {n['mean']:.1f} (at most {n['most']:,})" for name, n in summary["tokens"].items())
    lines = [f"{counts['pairs']:,} pairs of {origin}, for {summary['model']}", f"tokens on average: {tokens}"]
    if summary["source"] == "samples":
        lines += cut_off_hint(("", counts["cut_off"], counts["samples"]))
    if weights := summary["rejected_weights"]:
        lines.append(
            f"weights of {weights['tokens']:,} rejected tokens: mean {number(weights['mean'])}, "
            f"{weights['share_above_half']:.1%} above one half"
        )
    if summary["source"] == "forks":
        mean, least, most = (number(summary["weight"][name]) for name in ("mean", "least", "most"))
        lines.append(
            f"gain in success: mean {mean}, from {least} to {most}; at {counts['positions_with_pairs']:,} positions of "
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
        note = ""
        if forks:
            (_, [chosen]), (_, [rejected]) = sides.values()
            note = f"{chosen!r} in place of {rejected!r} raises the success by {number(row['weight'])}"
        for side, (ids, tokens) in sides.items():
            weights = row.get("rejected_weights") if side == "rejected" else None
            if weights is not None:
                weights = shares(weights, len(ids), "rejected_weights", where)
            yield {
                "id": f"{name}/{side}", "group": name, "label": side, "question": prompt,
                "token_ids": ids, "tokens": tokens, "weight": weights, "picked": weights is not None,
                "note": note if side == "chosen" else "",
            }  # fmt: skip
