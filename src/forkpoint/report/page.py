"""The page of an `eval` run: the table, the comparisons, and for each problem every path, shaded by confidence.

Everything is in the one file: no script, no network. Jinja2 escapes whatever models and data wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from forkpoint import __version__
from forkpoint.evaluation.evaluate import RESULTS, SAMPLES
from forkpoint.files import read_json, write_whole
from forkpoint.report.figures import sweep_figure
from forkpoint.types import UserError

PROBLEMS_SHOWN = 100
TOKENS_SHOWN = 250_000  # keeps the page near 20 MB
SHADES = 10  # steps from sure (0, no shade) to unsure (9)


def write_report(run: Path) -> Path:
    """Write report.html into a finished run's directory; returns its path.

    Raises UserError where the directory holds no finished run.
    """
    for name in (RESULTS, SAMPLES):
        if not (run / name).is_file():
            raise UserError(f"{run} holds no finished run: there is no {name}")
    results = read_json(run / RESULTS)
    page = (
        _environment()
        .get_template("eval.html.j2")
        .render(
            results=results,
            version=__version__,
            figure=Markup(sweep_figure(results)) if "sweep" in results else None,
            problems=_problems(run / SAMPLES, results),
        )
    )
    target = run / "report.html"
    write_whole(target, page)
    return target


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("forkpoint.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = lambda x: f"{100 * x:.1f}%"
    environment.filters["points"] = lambda x: f"{100 * x:+.1f}"
    environment.filters["shade"] = lambda gap: min(SHADES - 1, int((1 - gap) * SHADES))
    environment.filters["thousands"] = lambda x: f"{x:,}"
    return environment


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
