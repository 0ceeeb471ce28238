"""What a notebook shows of runs, results and scores: tables, charts and shaded texts, without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import islice
from typing import Any

from forkpoint.report.content import Page, Row
from forkpoint.report.rendering import render_fragment
from forkpoint.report.shades import Shade, heading_of, names_of, scores_of, shades_of, spelled_of, values_of
from forkpoint.report.shown_scores import COLUMNS, Category, ShownScore
from forkpoint.types import HTML, Results, TokenScores

RESPONSES = 3  # of a page
ABOVE, BELOW = "196, 84, 0", "24, 92, 190"  # the hues of shades
KINDS = ("138, 79, 158", "217, 140, 43", "27, 108, 168", "60, 141, 83", "200, 50, 50")  # and of names


def page_html(page: Page) -> str:
    """A page's sentences, tables and charts, and its first responses."""
    rows = islice(page.tokens.rows(), RESPONSES) if page.tokens else ()
    return render_fragment(page=page, responses=[_response(row) for row in rows])


def results_html(results: Mapping[str, Any]) -> str:
    """The sentences, tables and charts of what a run returned."""
    from forkpoint.report.page import PAGES

    name = PAGES[str(results["verb"]).split(" ")[0]]
    page: Page = import_module(f"forkpoint.report.pages.{name}").page_of_summary(results)
    return render_fragment(page=page, responses=[])


def scores_html(scores: TokenScores) -> str:
    """A trajectory's text, shaded by each of its columns that the token viewer knows; a pointer shows all columns.

    Without texts the tokens are their ids.
    """
    t = scores.trajectory
    tokens = scores.tokens or [f"⟨{token}⟩" for token in t.token_ids]
    row: dict[str, Any] = {
        "id": t.id, "question": t.problem.question, "gold": t.problem.answer, "answer": t.answer, "correct": t.correct,
        "token_ids": t.token_ids, "tokens": tokens, **{k: v.tolist() for k, v in scores.columns.items()},
    }  # fmt: skip
    return render_fragment(page=None, responses=[_response(row, list(scores.columns), every=True)])


def _response(row: Row, columns: Sequence[str] = COLUMNS, *, every: bool = False) -> dict[str, Any]:
    """A response with its first score, or every one, as the template takes it; the columns stand in the tooltips."""
    known = scores_of(row)
    texts = [_text(row, score, columns) for score in (known if every else known[:1])]
    texts = texts or [_text(row, None, columns)]
    return {"heading": heading_of(row), "question": row.get("question"), "texts": texts}


def _text(row: Row, score: ShownScore | Category | None, columns: Sequence[str]) -> dict[str, Any]:
    """The tokens of a text: what each spells, its shade or the colour of its name, and its numbers."""
    numbers = {name: found for name in ("success", *columns) if (found := values_of(row, name))}
    names = names_of(row, score) if isinstance(score, Category) else [None] * len(row["tokens"])
    shades = shades_of(row, score) if isinstance(score, ShownScore) else [Shade(0)] * len(row["tokens"])
    kinds = list(dict.fromkeys(name for name in names if name))
    tokens = []
    for i, (token, shade, name) in enumerate(zip(spelled_of(row), shades, names, strict=True)):
        said = [f"{key} {v[i]:.4g}" for key, v in numbers.items() if v[i] is not None]
        colour = BELOW if shade.below else KINDS[kinds.index(name) % len(KINDS)] if name else ABOVE
        tokens.append({
            "text": token or "◌", "colour": colour, "alpha": 0.3 if name else 0.06 * shade.strength,
            "critical": i == row.get("critical_index"), "title": ", ".join([*([name] if name else []), *said]),
        })  # fmt: skip
    return {"label": _label(score), "tokens": tokens}


def _label(score: ShownScore | Category | None) -> str:
    if isinstance(score, ShownScore):
        return f"{score.label}: no shade at {score.light:g}, the strongest at {score.strong:g}"
    return score.label if score else ""


HTML |= {Results: results_html, TokenScores: scores_html}
