"""The page of a `logits` run: its figures, the chosen positions and what samplers keep there, and its responses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

from forkpoint.evaluation.logit_study import DISTANCE, HISTOGRAM, KEPT, SORTED, SUMMARY, read_table
from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Page, Table, Tokens, number
from forkpoint.report.figures.logits_figure import logits_svg

FILES = (SUMMARY, HISTOGRAM, SORTED, KEPT, DISTANCE)


def page(summary: Row, run: Path | None = None) -> Page:
    """What `study_logits` returns, and the tables."""
    responses, chosen = summary["responses"], summary["chosen"]
    first, *later = responses
    far = first["distance"]
    lines = [
        f"{summary['model']}, {first['problem_id']}: {first['tokens']:,} tokens; the largest logit lies "
        f"{far['mean']:.1f} σ above the mean ({far['least']:.1f} to {far['most']:.1f})"
    ]
    if later:
        lines.append(f"and {len(later):,} more responses, which count in the means over positions")
    cut_off = sum(response["finish_reason"] == "length" for response in responses)
    lines.append(f"cut off at the length limit: {cut_off:,} of {len(responses):,} responses")
    tokens = Tokens.of(run, DISTANCE, partial(_rows, responses=responses))
    sections = [_statistics(summary), *(_charts(summary, run) if run else ()), *map(_kept, chosen)]
    return Page(f"Logits of {summary['model']} on {summary['task']}", lines, sections, tokens)


def _charts(summary: Row, run: Path) -> list[Chart]:
    positions = int(read_table(run / KEPT)[0]["positions"])
    first, *later = summary["responses"]
    pale = f"Dark: {first['problem_id']}; pale: the others." if later else ""
    charts = [
        Chart("Tokens kept, by temperature", partial(logits_svg, run, "kept"), f"Over all {positions:,} positions."),
        Chart("The largest logit along the response", partial(logits_svg, run, "distance"), pale),
    ]
    for one in summary["chosen"]:
        at = f"at position {one['position']}, {one['token']!r}"
        charts += [
            Chart(f"Logits {at}", partial(logits_svg, run, f"histogram-{one['position']}")),
            Chart(f"Candidates {at}", partial(logits_svg, run, f"sorted-{one['position']}")),
        ]
    return charts


def _statistics(summary: Row) -> Table:
    rows = [
        (
            f"{one['position']} ({', '.join(one['named'])})" if one["named"] else str(one["position"]),
            repr(one["token"]), number(one["probability"]),
            *(f"{one[name]:.2f}" for name in ("maximum", "mean", "sigma", "distance")), number(one["entropy"]),
        )
        for one in summary["chosen"]
    ]  # fmt: skip
    columns = ("position", "token", "probability", "maximum", "mean", "σ", "distance (σ)", "entropy (nats)")
    return Table("Chosen positions of the first response", columns, rows, left=2)


def _kept(one: Row) -> Table:
    temperatures = next(iter(one["kept"].values()))
    rows = [(spec, *(f"{count:,}" for count in sizes.values())) for spec, sizes in one["kept"].items()]
    columns = ("sampler", *(f"T = {temperature}" for temperature in temperatures))
    return Table(f"Tokens kept at position {one['position']}", columns, rows)


def _rows(path: Path, responses: list[Row]) -> Iterator[Row]:
    """A row a response, with the model's own probabilities, before temperature and truncation."""
    finish = {response["problem_id"]: response["finish_reason"] for response in responses}
    for name, group in groupby(read_table(path), key=lambda row: row["problem_id"]):
        rows = list(group)
        yield {
            "id": name, "token_ids": [int(row["token_id"]) for row in rows], "tokens": [row["token"] for row in rows],
            "entropy": [row["entropy"] for row in rows], "distance": [row["distance"] for row in rows],
            "logprob": [math.log(row["probability"]) if row["probability"] > 0 else None for row in rows],
            "finish_reason": finish.get(name),
        }  # fmt: skip
