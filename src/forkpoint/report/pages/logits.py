"""The page of a `logits` run: its figures, the chosen positions and what samplers keep there, and its responses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from forkpoint.evaluation.logit_study import DISTANCE, HISTOGRAM, KEPT, SORTED, SUMMARY, read_table
from forkpoint.report.content import Chart, Page, Row, Table, Tokens, finished, number
from forkpoint.report.figures.logits_figure import logits_svg

Summary = dict[str, Any]


def page(run: Path) -> Page:
    """What summary.json and the tables hold. UserError where one is missing or broken."""
    summary = finished(run, SUMMARY, HISTOGRAM, SORTED, KEPT, DISTANCE)
    shown = page_of_summary(summary)
    positions = int(read_table(run / KEPT)[0]["positions"])
    charts = [
        Chart("Tokens kept, by temperature", partial(logits_svg, run, "kept"), f"Over all {positions:,} positions."),
        Chart("The largest logit along the response", partial(logits_svg, run, "distance"), _first(summary)),
    ]
    for one in summary["chosen"]:
        at = f"at position {one['position']}, {one['token']!r}"
        charts += [
            Chart(f"Logits {at}", partial(logits_svg, run, f"histogram-{one['position']}")),
            Chart(f"Candidates {at}", partial(logits_svg, run, f"sorted-{one['position']}")),
        ]
    statistics, *kept = shown.sections
    return Page(
        shown.title, shown.lines, [statistics, *charts, *kept],
        Tokens(partial(_rows, run, summary), DISTANCE, "response", "responses"),
    )  # fmt: skip


def page_of_summary(summary: Summary) -> Page:
    """The sentences and tables of what `study_logits` returns."""
    first, *others = summary["responses"]
    far = first["distance"]
    lines = [
        f"{summary['model']}, {first['problem_id']}: {first['tokens']:,} tokens; the largest logit lies "
        f"{far['mean']:.1f} σ above the mean ({far['least']:.1f} to {far['most']:.1f})"
    ]
    if others:
        lines.append(f"and {len(others):,} more responses, which count in the means over positions")
    cut_off = sum(response["finish_reason"] == "length" for response in summary["responses"])
    lines.append(f"cut off at the length limit: {cut_off:,} of {len(summary['responses']):,} responses")
    sections = [_statistics(summary), *map(_kept, summary["chosen"])]
    return Page(f"Logits of {summary['model']} on {summary['task']}", lines, sections)


def _first(summary: Summary) -> str:
    others = len(summary["responses"]) - 1
    return f"Dark: {summary['responses'][0]['problem_id']}; pale: the others." if others else ""


def _statistics(summary: Summary) -> Table:
    rows = [
        (
            f"{one['position']}{_names(one)}", repr(one["token"]), number(one["probability"]),
            *(f"{one[name]:.2f}" for name in ("maximum", "mean", "sigma", "distance")), number(one["entropy"]),
        )
        for one in summary["chosen"]
    ]  # fmt: skip
    columns = ("position", "token", "probability", "maximum", "mean", "σ", "distance (σ)", "entropy (nats)")
    return Table("Chosen positions of the first response", columns, rows, left=2)


def _names(one: Summary) -> str:
    return f" ({', '.join(one['named'])})" if one["named"] else ""


def _kept(one: Summary) -> Table:
    temperatures = next(iter(one["kept"].values()))
    rows = [(spec, *(f"{count:,}" for count in sizes.values())) for spec, sizes in one["kept"].items()]
    columns = ("sampler", *(f"T = {temperature}" for temperature in temperatures))
    return Table(f"Tokens kept at position {one['position']}", columns, rows)


def _rows(run: Path, summary: Summary) -> Iterator[Row]:
    """A row a response, with the model's own probabilities, before temperature and truncation."""
    finish = {response["problem_id"]: response["finish_reason"] for response in summary["responses"]}
    for name, group in groupby(read_table(run / DISTANCE), key=lambda row: row["problem_id"]):
        rows = list(group)
        yield {
            "id": name, "token_ids": [int(row["token_id"]) for row in rows], "tokens": [row["token"] for row in rows],
            "entropy": [row["entropy"] for row in rows], "distance": [row["distance"] for row in rows],
            "logprob": [math.log(row["probability"]) if row["probability"] > 0 else None for row in rows],
            "finish_reason": finish.get(name),
        }  # fmt: skip
