"""The page of a `select` run: how many tokens a rule selected, and which ones, in the store's first rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.report.content import Chart, Page, Tokens, finished, percent
from forkpoint.report.figures.distribution import Counts, counts_of, distribution_svg
from forkpoint.report.pages.documents import document_rows
from forkpoint.scores.dynamics import DOCUMENTS
from forkpoint.scores.store import SCORES
from forkpoint.trajectories.rows import SUMMARY

Summary = dict[str, Any]
GROUPS = {"selected": 1, "left out": 0}


def page(run: Path) -> Page:
    """What summary.json says, and documents.jsonl where the store had one. UserError where one is broken."""
    shown = page_of_summary(finished(run, SUMMARY))
    if not (run / DOCUMENTS).is_file():
        return shown
    tokens = Tokens(partial(document_rows, run / DOCUMENTS), DOCUMENTS, "row", "first rows", entries="rows")
    return Page(shown.title, shown.lines, _charts(run / DOCUMENTS), tokens)


def page_of_summary(summary: Summary) -> Page:
    """The sentences of what `export_labels` returns."""
    kept, of = summary["selected_tokens"], summary["counted_tokens"]
    second = "" if summary["entropy_ratio"] is None else f", entropy_ratio {summary['entropy_ratio']}"
    lines = [
        f"{summary['rows']:,} rows, {kept:,} of {of:,} tokens ({percent(kept / max(1, of))}) are selected",
        f"ratio {summary['ratio']}{second}, scope {summary['scope']}, seed {summary['seed']}",
    ]
    return Page(f"Tokens selected by {summary['rule'].replace('_', ' ')}", lines)


def _charts(documents: Path) -> list[Chart]:
    """How the scores of selected tokens are spread, and of those left out; none where there are no scores."""
    rows = [row for row in document_rows(documents) if row.get("selected")]
    marks = np.array([mark for row in rows for mark in row["selected"]], float)
    drawn: dict[str, dict[str, Counts]] = {}
    for name in SCORES:
        if all(row.get(name) for row in rows):
            values = np.array([value for row in rows for value in row[name]], np.float16)
            groups = {group: counts_of(values[marks == mark]) for group, mark in GROUPS.items()}
            drawn[name.replace("_", " ")] = {group: found for group, found in groups.items() if found.any()}
    if not drawn or not all(drawn.values()):
        return []
    note = f"Of the first {len(rows):,} rows, which stand below."
    return [Chart("Scores of what is selected and left out", partial(distribution_svg, drawn), note, wide=True)]
