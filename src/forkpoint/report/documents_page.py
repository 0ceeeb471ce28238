"""The page of a run that looked at plain documents: their tokens coloured by score or class, and token dynamics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from forkpoint.files import read_json
from forkpoint.report.dynamics_figure import dynamics_svg
from forkpoint.report.rendering import render
from forkpoint.report.viewer import CATEGORIES, COLUMNS, SCRIPTS, STYLES, viewer_data
from forkpoint.selective.dynamics import DOCUMENTS, FALL, RISE
from forkpoint.tasks.jsonlines import Row, is_number, list_of, read_rows, shortened, text
from forkpoint.trajectories.rows import SUMMARY
from forkpoint.types import UserError


def documents_page(run: Path) -> str:
    """The page for the documents.jsonl and summary.json in a directory. UserError with file and line for a broken row.

    A row holds `id`, `token_ids`, `tokens`, and any of the viewer's COLUMNS and CATEGORIES: a list each, with null or
    one value a token. Of the summary, `title` heads the page, `dynamics` (a `dynamics_summary`) is drawn, and other
    texts and numbers are listed; none is needed.
    """
    summary = {key: value for key, value in read_json(run / SUMMARY).items() if value is not None}
    dynamics = summary.get("dynamics")
    tokens = sum(row["tokens"] for row in dynamics["classes"].values()) if dynamics else 0
    data = viewer_data(_rows(run / DOCUMENTS))
    return render(
        "documents.html.j2",
        styles=STYLES,
        scripts=SCRIPTS if data.shown else (),
        title=str(summary.get("title", "Documents, token by token")),
        summary=summary,
        settings=_settings(summary),
        figure=Markup(dynamics_svg(dynamics)) if dynamics and tokens else None,
        tokens=tokens,
        fall=FALL,
        rise=RISE,
        shown=data.shown,
        total=data.total,
        data=Markup(data.json),
    )


def _settings(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    """What the summary says in a word or a number, under its name."""
    said = {key: value for key, value in summary.items() if isinstance(value, str | int | float)}
    return [(key.replace("_", " "), value) for key, value in said.items() if key not in ("title", "version")]


def _rows(path: Path) -> Iterator[Row]:
    for where, row in read_rows(path):
        ids, tokens = list_of(row, "token_ids", int, where), list_of(row, "tokens", str, where)
        if len(ids) != len(tokens):
            raise UserError(f"{where}: token_ids and tokens differ in length")
        for key in (*COLUMNS, *(category.key for category in CATEGORIES)):
            _check_column(row, key, len(ids), where)
        yield {**row, "id": text(row, "id", where)}


def _check_column(row: Row, key: str, count: int, where: str) -> None:
    """Refuse a column that does not hold null or a value of its kind for each of `count` tokens."""
    values = row.get(key)
    if values is None:
        return
    if not isinstance(values, list) or len(values) != count:
        raise UserError(f"{where}: {key} must be a list with one value for each of the {count} tokens")
    category = next((c for c in CATEGORIES if c.key == key), None)
    for value in values:
        fits = is_number(value) if category is None else isinstance(value, str) or value in range(len(category.values))
        if value is not None and not fits:
            raise UserError(f"{where}: {key} holds {shortened(value)}")
