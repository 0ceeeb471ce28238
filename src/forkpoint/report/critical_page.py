"""The page of a `critical` run: its summary, and the token viewer over its trajectories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from forkpoint.files import read_json
from forkpoint.report.rendering import render
from forkpoint.report.replacement_figure import replacement_svg
from forkpoint.report.viewer import SCRIPTS, STYLES, viewer_data
from forkpoint.trajectories.rows import CRITICAL, SUMMARY
from forkpoint.types import Sampling, UserError

NEEDED = {"id": str, "token_ids": list, "tokens": list}  # of every row
ALWAYS_SAID = ("temperature", "max_tokens", "seed")  # of the sampling, even where they are the defaults


def critical_page(run: Path) -> str:
    """The page for the critical.jsonl and summary.json in a directory. UserError with file and line for a broken row.

    Whatever the summary lacks, or holds as null, is left out of the page.
    """
    summary = {key: value for key, value in read_json(run / SUMMARY).items() if value is not None}
    data = viewer_data(_rows(run / CRITICAL))
    table = summary.get("replacement", {}).get("table") or []
    return render(
        "critical.html.j2",
        styles=STYLES,
        scripts=SCRIPTS if data.shown else (),
        summary=summary,
        figure=Markup(replacement_svg(table)) if table else None,
        replacement=[row for row in table if row["k"].bit_count() == 1 or row is table[-1]],
        settings=_settings(summary),
        shown=data.shown,
        total=data.total,
        data=Markup(data.json),
    )


def _settings(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the run was asked for, name and value, without what was left off."""
    off = asdict(Sampling())
    sampling = [(key, value) for key, value in (summary.get("sampling") or {}).items() if key != "stop"]
    said = [(key, value) for key, value in sampling if key in ALWAYS_SAID or value not in (None, [], off.get(key))]
    return [(key, summary[key]) for key in ("protocol", "prompt") if key in summary] + said


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: expected a JSON object: {error}") from error
            if not isinstance(row, dict) or any(not isinstance(row.get(key), kind) for key, kind in NEEDED.items()):
                raise UserError(f"{path}, line {number}: expected an object with id, token_ids and tokens")
            if len(row["token_ids"]) != len(row["tokens"]):
                raise UserError(f"{path}, line {number}: token_ids and tokens differ in length")
            yield row
