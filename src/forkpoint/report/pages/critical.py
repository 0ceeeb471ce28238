"""The page of a `critical` run: what was found and what it cost, and its trajectories in the token viewer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.jsonl import text, tokens_of
from forkpoint.report.content import (
    Chart,
    Page,
    Row,
    Table,
    Tokens,
    cut_off_hint,
    cut_off_words,
    finished,
    percent,
    percents,
)
from forkpoint.report.figures.replacement_figure import replacement_svg
from forkpoint.tasks.data_sets import read_rows
from forkpoint.trajectories.rows import CRITICAL, SUMMARY
from forkpoint.types import Sampling

Summary = dict[str, Any]
LOST = {  # what is true after the critical token, by the protocol
    "forks": "at most 1 in 64 continuations end correct right after it, and the 95% intervals stay below 5% from there",
    "paper": "0 of 64 continuations end correct right after it, and fewer than 4 of 64 after every later token",
}
ALWAYS_SAID = ("temperature", "max_tokens", "seed")  # of the sampling, even where they are the defaults


def page(run: Path) -> Page:
    """What critical.jsonl and summary.json hold. UserError where one is missing or broken, with the line."""
    shown = page_of_summary(finished(run, SUMMARY, CRITICAL))
    tokens = Tokens(partial(_rows, run / CRITICAL), CRITICAL, "trajectory", "trajectories")
    return Page(shown.title, shown.lines, shown.sections, tokens)


def page_of_summary(summary: Summary) -> Page:
    """The sentences, tables and charts of what `find_critical` returns."""
    sections: list[Table | Chart] = []
    if table := (summary.get("replacement") or {}).get("table"):
        sections += [
            Chart("Pass@k with the critical token replaced", partial(replacement_svg, table)),
            _replacement(table, summary["replacement"]["n_trajectories"]),
        ]
    if kinds := summary["token_kinds"]:
        sections.append(_kinds(kinds, summary["protocol"]))
    return Page(f"Critical tokens: {summary['model']} on {summary['task']}", _lines(summary), sections)


def _lines(summary: Summary) -> list[str]:
    responses = summary["responses"]
    lines = [
        _settings(summary),
        f"{responses['n']:,} responses, {responses['correct']:,} correct, {responses['no_answer']:,} without an answer"
        f"{cut_off_words(responses.get('cut_off'))}",
        *cut_off_hint(("", responses.get("cut_off"), responses["n"])),
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
        lines.append(
            f"critical token in {percent(summary['share_critical'])} of {summary['n_wrong']:,} wrong responses "
            f"(95% interval {percents(summary['share_critical_ci95'])})"
        )
    if position := summary["critical_position"]:
        lines.append(
            f"at token {position['median']:.0f} in the median, {percent(position['relative_mean'])} of the way on "
            "average"
        )
    if at_cut := summary.get("critical_at_cut"):
        lines.append(
            f"{at_cut:,} of the critical tokens are the last token of a response that was cut off, which may only "
            "mean that no room was left; see --max-tokens"
        )
    if bias := summary.get("success_bias"):
        lines.append(
            f"tokens that the engine cannot name may move the success probability by {bias['mean']:.4f} on average, "
            f"{bias['largest']:.4f} at most"
        )
    if summary.get("replacement") and not summary["replacement"]["table"]:
        lines.append("replacement: no response has a critical token to replace")
    return [*lines, _cost(summary)]


def _settings(summary: Summary) -> str:
    """What the run was asked for, without what was left off."""
    off = asdict(Sampling())
    sampling = [(key, value) for key, value in summary["sampling"].items() if key != "stop"]
    said = [(key, value) for key, value in sampling if key in ALWAYS_SAID or value != off[key]]
    asked = [(key, summary[key]) for key in ("protocol", "prompt") if summary.get(key)]
    return ", ".join(f"{key} {value}" for key, value in asked + said)


def _cost(summary: Summary) -> str:
    spent, plain = summary["tokens_generated"], summary["brute_force_tokens"]
    times = f", {plain / spent:.1f} times as many" if spent else ""
    return (
        f"{summary['rollouts']:,} rollouts, {spent:,} tokens, {summary['seconds']:,.1f} seconds; "
        f"64 from every prefix: {plain:,} tokens{times}"
    )


def _kinds(kinds: list[Summary], protocol: str) -> Table:
    total = sum(kind["count"] for kind in kinds)
    rows = [(kind["kind"], f"{kind['count']:,}", percent(kind["count"] / total)) for kind in kinds]
    note = (
        f"Critical is the token after which the response is lost: {LOST['paper' if protocol == 'paper' else 'forks']}."
    )
    return Table("What the critical tokens are", ("kind", "tokens", "share"), rows, note=note)


def _replacement(table: list[Summary], responses: int) -> Table:
    shown = [row for row in table if row["k"].bit_count() == 1 or row is table[-1]]
    rows = [
        (
            str(row["k"]),
            *(cell for arm in ("without", "with") for cell in (percent(row[arm]), percents(row[f"{arm}_ci95"]))),
        )
        for row in shown
    ]
    columns = ("k", "not replaced", "95% interval", "replaced", "95% interval")
    note = (
        f"A response's {table[-1]['k']:,} rollouts make fewer tries of k the larger k is, of the largest k one alone. "
        "Intervals count them, responses to one problem as dependent; so with k they grow wider, and may begin lower "
        "though pass@k is higher."
    )
    return Table(f"Pass@k in {responses:,} responses", columns, rows, left=0, note=note)


def _rows(path: Path) -> Iterator[Row]:
    for place, row in read_rows(path):
        tokens_of(row, place)
        yield {**row, "id": text(row, "id", place)}
