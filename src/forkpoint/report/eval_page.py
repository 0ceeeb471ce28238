"""The page of an `eval` run: the table, the comparisons, and for each problem every path, shaded by confidence.

It needs no script.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from forkpoint.evaluation.evaluate import RESULTS, SAMPLES
from forkpoint.files import read_json
from forkpoint.report.figures import sweep_figure
from forkpoint.report.rendering import render

PROBLEMS_SHOWN = 100
TOKENS_SHOWN = 250_000  # keeps the page near 20 MB


def eval_page(run: Path) -> str:
    """The page for the results.json and samples.jsonl in a directory."""
    results = read_json(run / RESULTS)
    return render(
        "eval.html.j2",
        styles=("base.css", "eval.css"),
        results=results,
        figure=Markup(sweep_figure(results)) if "sweep" in results else None,
        problems=_problems(run / SAMPLES, results),
    )


def _problems(samples: Path, results: dict[str, Any]) -> list[dict[str, Any]]:
    """The first problems, as many as the page holds, each with its rows, one a strategy, in the order of the run."""
    problems: dict[str, dict[str, Any]] = {}
    with samples.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            if row["problem_id"] in problems or len(problems) < PROBLEMS_SHOWN:
                entry = {"id": row["problem_id"], "question": row["question"], "gold": row["gold"], "rows": []}
                problems.setdefault(row["problem_id"], entry)["rows"].append(row)
    shown: list[dict[str, Any]] = []
    tokens = 0
    for problem in problems.values():
        tokens += sum(len(path["tokens"]) for row in problem["rows"] for path in row["paths"])
        if shown and tokens > TOKENS_SHOWN:
            break
        shown.append(problem)
    return shown
