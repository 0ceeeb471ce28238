"""The page of a run that looked at plain documents: token dynamics, and texts coloured by score or class."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from forkpoint.jsonl import Row, is_number, shortened, text, tokens_of
from forkpoint.report.content import Chart, Page, Table, Tokens, finished, number, percent
from forkpoint.report.figures.dynamics_figure import dynamics_svg
from forkpoint.report.shown_scores import CATEGORIES, COLUMNS
from forkpoint.scores.dynamics import DOCUMENTS, FALL, RISE
from forkpoint.tasks.data_sets import read_rows
from forkpoint.trajectories.rows import SUMMARY
from forkpoint.types import UserError


def page(run: Path) -> Page:
    """What documents.jsonl and summary.json hold. UserError with file and line for a broken row.

    A row holds `id`, `token_ids`, `tokens`, and any of the viewer's COLUMNS and CATEGORIES: a list each, with null or
    one value a token. Of the summary, `title` heads the page, `dynamics` (a `dynamics_summary`) is drawn, and other
    texts and numbers are listed; none is needed.
    """
    shown = page_of_summary(finished(run, SUMMARY, DOCUMENTS))
    tokens = Tokens(partial(document_rows, run / DOCUMENTS), DOCUMENTS, "document", "documents")
    return Page(shown.title, shown.lines, shown.sections, tokens)


def page_of_summary(summary: dict[str, Any]) -> Page:
    """The sentences, table and chart of such a summary, `study`'s for one."""
    summary = {key: value for key, value in summary.items() if value is not None}
    dynamics = summary.get("dynamics")
    sections: list[Table | Chart] = []
    if dynamics and dynamics["tokens"]:
        sections.append(Chart("Token dynamics", partial(dynamics_svg, dynamics), wide=True))
    if dynamics:
        sections.append(dynamics_table(dynamics))
    return Page(str(summary.get("title", "Documents, token by token")), _lines(summary), sections)


def _lines(summary: dict[str, Any]) -> list[str]:
    """What the summary says in a word or a number, under its name."""
    said = {key: value for key, value in summary.items() if isinstance(value, str | int | float)}
    words = [
        f"{key.replace('_', ' ')} {value}" for key, value in said.items() if key not in ("title", "version", "verb")
    ]
    lines = [", ".join(words)] if words else []
    if dynamics := summary.get("dynamics"):
        lines.append(f"{dynamics['tokens']:,} tokens, {len(dynamics['checkpoints'])} checkpoints")
    return lines


def dynamics_table(dynamics: dict[str, Any]) -> Table:
    """How many tokens each class has, and its mean loss at every checkpoint, in nats."""
    rows = [
        (
            name,
            f"{row['tokens']:,}",
            "" if row["share"] is None else percent(row["share"]),
            *map(number, row["mean_loss"]),
        )
        for name, row in dynamics["classes"].items()
    ]
    fall = str(FALL).replace("-", "−")
    note = (
        "Mean loss in nats at each checkpoint. Δ is the change of a token's least-squares line from the first "
        f"checkpoint to the last. H→L: Δ below {fall}; L→H: above {RISE}; between them L→L where the last loss is "
        "not above the mean of all, H→H where it is."
    )
    return Table("Classes of tokens", ("class", "tokens", "share", *dynamics["checkpoints"]), rows, note=note)


def document_rows(path: Path) -> Iterator[Row]:
    """The rows of a documents.jsonl, as the token viewer takes them; UserError at the first that is broken."""
    for where, row in read_rows(path):
        ids, _ = tokens_of(row, where)
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
