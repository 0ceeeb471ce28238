"""The page of a run that looked at plain documents: token dynamics, and texts coloured by score or class."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from forkpoint.files import SUMMARY
from forkpoint.jsonl import Row
from forkpoint.report.content import Chart, Page, Table, Tokens, number
from forkpoint.report.figures.charts import dynamics_svg
from forkpoint.report.viewer import token_rows
from forkpoint.scores.dynamics import DOCUMENTS, FALL, RISE

FILES = (SUMMARY, DOCUMENTS)
UNNAMED = ("title", "version", "verb")  # of a summary: no settings


def page(summary: Row, run: Path | None = None) -> Page:
    """What `study` returns, or any summary, and documents.jsonl.

    Of the summary, `title` heads the page, `dynamics` (a `dynamics_summary`) is drawn, and other texts and numbers are
    listed; none is needed.
    """
    values = {key: value for key, value in summary.items() if isinstance(value, str | int | float)}
    settings = [f"{key.replace('_', ' ')} {value}" for key, value in values.items() if key not in UNNAMED]
    lines = [", ".join(settings)] if settings else []
    sections: list[Table | Chart] = []
    if dynamics := summary.get("dynamics"):
        lines.append(f"{dynamics['tokens']:,} tokens, {len(dynamics['checkpoints'])} checkpoints")
        if dynamics["tokens"]:
            sections.append(Chart("Token dynamics", partial(dynamics_svg, dynamics), wide=True))
        sections.append(_classes(dynamics))
    tokens = Tokens.of(run, DOCUMENTS, token_rows, "document", "documents")
    title = summary.get("title")
    return Page("Documents, token by token" if title is None else str(title), lines, sections, tokens)


def _classes(dynamics: Row) -> Table:
    rows = []
    for name, row in dynamics["classes"].items():
        share = "" if row["share"] is None else f"{row['share']:.1%}"
        rows.append((name, f"{row['tokens']:,}", share, *map(number, row["mean_loss"])))
    fall = str(FALL).replace("-", "−")
    note = (
        "Mean loss in nats at each checkpoint. Δ is the change of a token's least-squares line from the first "
        f"checkpoint to the last. H→L: Δ below {fall}; L→H: above {RISE}; between them L→L where the last loss is "
        "not above the mean of all, H→H where it is."
    )
    return Table("Classes of tokens", ("class", "tokens", "share", *dynamics["checkpoints"]), rows, note=note)
