"""The page of an `eval` run: the table, the comparisons, and for each problem every path, shaded by confidence.

Everything is in the one file: no script, no network. Jinja2 escapes whatever models and data wrote.
"""

from __future__ import annotations

import json
from itertools import islice
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
SHADES = 10  # steps from sure (0, no shade) to unsure (9)


def write_report(run: Path) -> Path:
    """Write report.html into a finished run's directory; returns its path.

    Raises UserError where the directory holds no finished run.
    """
    if not (run / RESULTS).is_file():
        raise UserError(f"{run} holds no finished run: there is no {RESULTS}")
    results = read_json(run / RESULTS)
    shown = min(PROBLEMS_SHOWN, results["n_problems"])
    page = _environment().get_template("eval.html.j2").render(
        results=results,
        version=__version__,
        figure=Markup(sweep_figure(results)) if "sweep" in results else None,
        problems=_problems(run / SAMPLES, [s["strategy"] for s in results["strategies"]], shown),
        shown=shown,
    )  # fmt: skip
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


def _problems(samples: Path, strategies: list[str], shown: int) -> list[dict[str, Any]]:
    """The first problems with their rows, one a strategy, in the order of the run."""
    problems: dict[str, dict[str, Any]] = {}
    per_strategy = dict.fromkeys(strategies, 0)
    with samples.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            per_strategy[row["strategy"]] += 1
            if per_strategy[row["strategy"]] <= shown:
                entry = problems.setdefault(
                    row["problem_id"], {"question": row["question"], "gold": row["gold"], "rows": []}
                )
                entry["rows"].append(row)
    return [{"id": name, **entry} for name, entry in islice(problems.items(), shown)]
