"""The page of a `logits` run: its figures, the chosen positions and what samplers keep there, and its responses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

from forkpoint.evaluation.logit_study import DISTANCE, HISTOGRAM, KEPT, SORTED, SUMMARY, read_table
from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Column, Page, Table, Tokens
from forkpoint.report.figures.logits_figure import logits_svg

FILES = (SUMMARY, HISTOGRAM, SORTED, KEPT, DISTANCE)
STATISTICS: dict[str, Column] = {  # of a chosen position
    "position": lambda one: f"{one['position']}" + (f" ({', '.join(one['named'])})" if one["named"] else ""),
    "token": "{token!r}", "probability": "{probability:z,.3f}", "maximum": "{maximum:.2f}", "mean": "{mean:.2f}",
    "σ": "{sigma:.2f}", "distance (σ)": "{distance:.2f}", "entropy (nats)": "{entropy:z,.3f}",
}  # fmt: skip


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
    statistics = Table.of("Chosen positions of the first response", chosen, STATISTICS, left=2)
    sections = [statistics, *(_charts(summary, run) if run else ()), *map(_kept, chosen)]
    return Page(f"Logits of {summary['model']} on {summary['task']}", lines, sections, tokens)


def _charts(summary: Row, run: Path) -> list[Chart]:
    positions = int(read_table(run / KEPT)[0]["positions"])
    first, *later = summary["responses"]
    pale = f"Dark: {first['problem_id']}; pale: the others." if later else ""
    charts = [
        ("kept", "Tokens kept, by temperature", f"Over all {positions:,} positions."),
        ("distance", "The largest logit along the response", pale),
    ]
    for one in summary["chosen"]:
        at = f"at position {one['position']}, {one['token']!r}"
        charts.append((f"histogram-{one['position']}", f"Logits {at}", ""))
        charts.append((f"sorted-{one['position']}", f"Candidates {at}", ""))
    return [Chart(title, partial(logits_svg, run, name), note) for name, title, note in charts]


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
