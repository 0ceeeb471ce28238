"""The page of a `select` run: how many tokens a rule selected, and which ones, in the store's first rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from forkpoint.files import SUMMARY
from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Page, Tokens
from forkpoint.report.figures.charts import distribution_svg
from forkpoint.report.pages.store import finite
from forkpoint.report.viewer import token_rows
from forkpoint.scores.dynamics import DOCUMENTS
from forkpoint.scores.store import SCORES

FILES = (SUMMARY,)
GROUPS = {"selected": 1, "left out": 0}


def page(summary: Row, run: Path | None = None) -> Page:
    """What `export_labels` returns, and documents.jsonl where the store had one."""
    kept, of = summary["selected_tokens"], summary["counted_tokens"]
    second = "" if summary["entropy_ratio"] is None else f", entropy_ratio {summary['entropy_ratio']}"
    lines = [
        f"{summary['rows']:,} rows, {kept:,} of {of:,} tokens ({kept / max(1, of):.1%}) are selected",
        f"ratio {summary['ratio']}{second}, scope {summary['scope']}, seed {summary['seed']}",
    ]
    title = f"Tokens selected by {summary['rule'].replace('_', ' ')}"
    tokens = Tokens.of(run, DOCUMENTS, token_rows, "row", "first rows", "", "rows")
    return Page(title, lines, _charts(tokens) if tokens else [], tokens)


def _charts(tokens: Tokens) -> list[Chart]:
    """How the scores of selected tokens are spread, and of those left out; none where there are no scores."""
    rows = [row for row in tokens.rows() if row.get("selected")]
    marks = np.array([mark for row in rows for mark in row["selected"]], float)
    drawn = {}
    for name in SCORES:
        if all(row.get(name) for row in rows):
            values = np.array([value for row in rows for value in row[name]], np.float16)
            groups = {group: finite(values[marks == mark]) for group, mark in GROUPS.items()}
            drawn[name.replace("_", " ")] = {group: own for group, own in groups.items() if len(own)}
    if not drawn or not all(drawn.values()):
        return []
    note = f"Of the first {len(rows):,} rows, which stand below."
    return [Chart("Scores of what is selected and left out", partial(distribution_svg, drawn), note, wide=True)]
