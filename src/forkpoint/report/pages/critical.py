"""The page of a `critical` run: what it found and what it cost, and its trajectories in the token viewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from forkpoint.files import CRITICAL, SUMMARY
from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Column, Page, Table, Tokens, cut_off_hint, percents
from forkpoint.report.figures.charts import replacement_svg
from forkpoint.report.viewer import token_rows
from forkpoint.types import Sampling

FILES = (SUMMARY, CRITICAL)
LOST = {  # what is true after the critical token, by the protocol
    "forks": "at most 1 in 64 continuations end correct right after it, and the 95% intervals stay below 5% from there",
    "paper": "0 of 64 continuations end correct right after it, and fewer than 4 of 64 after every later token",
}
ALWAYS = ("temperature", "max_tokens", "seed")  # of the sampling, even where they are the defaults
SENTENCES = {  # of a summary, where it has the value and it is not 0
    "n_trajectories": "{n_trajectories:,} labelled: {statuses[critical]:,} with a critical token, {statuses[none]:,} "
    "without, {statuses[undecided]:,} undecided",
    "n_wrong": "critical token in {share_critical:.1%} of {n_wrong:,} wrong responses (95% interval {interval})",
    "critical_position": "at token {critical_position[median]:.0f} in the median, "
    "{critical_position[relative_mean]:.1%} of the way on average",
    "critical_at_cut": "{critical_at_cut:,} of the critical tokens are the last token of a response that was cut off, "
    "which may only mean that no room was left; see --max-tokens",
    "success_bias": "tokens that the engine cannot name may move the success probability by {success_bias[mean]:.4f} "
    "on average, {success_bias[largest]:.4f} at most",
    "is_not_replaced": "replacement: no response has a critical token to replace",
    "rollouts": "{rollouts:,} rollouts, {tokens_generated:,} tokens, {seconds:,.1f} seconds; 64 from every prefix: "
    "{brute_force_tokens:,} tokens{times}",
}


def page(summary: Row, run: Path | None = None) -> Page:
    """What `find_critical` returns, and critical.jsonl."""
    sections: list[Table | Chart] = []
    if table := (summary.get("replacement") or {}).get("table"):
        sections.append(Chart("Pass@k with the critical token replaced", partial(replacement_svg, table)))
        sections.append(_replacement(table, summary["replacement"]["n_trajectories"]))
    if kinds := summary["token_kinds"]:
        total = sum(kind["count"] for kind in kinds)
        columns: dict[str, Column] = {
            "kind": "{kind}", "tokens": "{count:,}", "share": lambda kind: f"{kind['count'] / total:.1%}",
        }  # fmt: skip
        note = f"Critical is the token after which the response is lost: {LOST[summary['protocol']]}."
        sections.append(Table.of("What the critical tokens are", kinds, columns, note=note))
    if causes := summary.get("causes"):
        columns = {"cause": "{cause}", "wrong responses": "{wrong:,}", "with a critical token": "{critical:,}"}
        sections.append(Table.of("Wrong responses by the cause of their first error", causes, columns))
    tokens = Tokens.of(run, CRITICAL, token_rows, "trajectory", "trajectories")
    return Page(f"Critical tokens: {summary['model']} on {summary['task']}", _lines(summary), sections, tokens)


def _lines(summary: Row) -> list[str]:
    responses = summary["responses"]
    lines = [
        _settings(summary),
        "{n:,} responses, {correct:,} correct, {no_answer:,} without an answer, {cut_off:,} cut off".format(
            **responses
        ),
        *cut_off_hint(("", responses["cut_off"], responses["n"])),
    ]
    if not summary["n_trajectories"]:
        wanted = "" if summary["which"] == "all" else summary["which"]
        return [*lines, f"no response is {wanted}, so there is nothing to label; see --which, --n and --temperature"]
    spent, replacement = summary["tokens_generated"], summary.get("replacement")
    values = {
        **summary,
        "interval": percents(summary["share_critical_ci95"]) if summary["n_wrong"] else "",
        "times": f", {summary['brute_force_tokens'] / spent:.1f} times as many" if spent else "",
        "is_not_replaced": replacement and not replacement["table"],
    }
    present = [key for key in SENTENCES if values.get(key) or key == "rollouts"]
    return lines + [SENTENCES[key].format(**values) for key in present]


def _settings(summary: Row) -> str:
    """The settings of the run, without those that are off."""
    off = asdict(Sampling())
    settings = {key: summary[key] for key in ("protocol", "prompt") if summary.get(key)}
    sampling = {key: value for key, value in summary["sampling"].items() if key != "stop"}
    settings |= {key: value for key, value in sampling.items() if key in ALWAYS or value != off[key]}
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _replacement(table: Sequence[Row], responses: int) -> Table:
    rows = [
        (
            str(row["k"]), f"{row['without']:.1%}", percents(row["without_ci95"]), f"{row['with']:.1%}",
            percents(row["with_ci95"]),
        )
        for row in table if row["k"].bit_count() == 1 or row is table[-1]
    ]  # fmt: skip
    note = (
        f"A response's {table[-1]['k']:,} rollouts make fewer tries of k the larger k is, of the largest k one alone. "
        "Intervals count them, responses to one problem as dependent; so with k they grow wider, and may begin lower "
        "though pass@k is higher."
    )
    columns = ("k", "not replaced", "95% interval", "replaced", "95% interval")
    return Table(f"Pass@k in {responses:,} responses", columns, rows, left=0, note=note)
