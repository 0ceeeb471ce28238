"""What a notebook shows of runs, results and scores: tables, charts and shaded texts, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from forkpoint.jsonl import Row
from forkpoint.report.content import Page
from forkpoint.report.page import TEMPLATES, page_of_results
from forkpoint.report.shades import COLUMNS, Score, ShownScore, scores_of, shades_of, values_of
from forkpoint.report.viewer import heading_of, spelled_of
from forkpoint.types import HTML, Results, TokenScores

RESPONSES = 3  # of a page
ABOVE, BELOW = "196, 84, 0", "24, 92, 190"  # the hues of shades
KINDS = ("138, 79, 158", "217, 140, 43", "27, 108, 168", "60, 141, 83", "200, 50, 50")  # and of names


def page_html(page: Page) -> str:
    """A page's sentences, tables and charts, and its first responses."""
    rows = islice(page.tokens.rows(), RESPONSES) if page.tokens else ()
    return _fragment(page, [_response(row, scores_of(row)[:1]) for row in rows])


def scores_html(scores: TokenScores) -> str:
    """A trajectory's text, shaded by each of its columns that the token viewer knows; a pointer shows all columns.

    Without texts the tokens are their ids.
    """
    t = scores.trajectory
    row: dict[str, Any] = {
        "id": t.id, "question": t.problem.question, "gold": t.problem.answer, "answer": t.answer, "correct": t.correct,
        "tokens": scores.tokens or [f"⟨{token}⟩" for token in t.token_ids],
        **{name: values.tolist() for name, values in scores.columns.items()},
    }  # fmt: skip
    return _fragment(None, [_response(row, scores_of(row), list(scores.columns))])


def _fragment(page: Page | None, responses: Sequence[Row] = ()) -> str:
    return TEMPLATES.get_template("fragment.html.j2").render(page=page, responses=responses)


def _response(row: Row, scores: Sequence[Score], columns: Sequence[str] = COLUMNS) -> dict[str, Any]:
    """A response shaded by each of the scores, as the template takes it; the columns stand in the tooltips."""
    texts = [_text(row, score, columns) for score in scores] or [_text(row, None, columns)]
    return {"heading": heading_of(row), "question": row.get("question"), "texts": texts}


def _text(row: Row, score: Score | None, columns: Sequence[str]) -> dict[str, Any]:
    """The tokens of a text: what each spells, its shade or the colour of its name, and its numbers."""
    numbers = {name: values for name in ("success", *columns) if (values := values_of(row, name))}
    shades = shades_of(row, score)
    names = list(dict.fromkeys(shade.name for shade in shades if shade.name))
    tokens = []
    for i, (token, shade) in enumerate(zip(spelled_of(row), shades, strict=True)):
        title = [f"{key} {values[i]:.4g}" for key, values in numbers.items() if values[i] is not None]
        colour, alpha = BELOW if shade.below else ABOVE, 0.06 * shade.strength
        if shade.name:
            colour, alpha, title = KINDS[names.index(shade.name) % len(KINDS)], 0.3, [shade.name, *title]
        tokens.append({
            "text": token or "◌", "colour": colour, "alpha": alpha, "critical": i == row.get("critical_index"),
            "title": ", ".join(title),
        })  # fmt: skip
    label = score.label if score else ""
    if isinstance(score, ShownScore):
        label = f"{label}: no shade at {score.light:g}, the strongest at {score.strong:g}"
    return {"label": label, "tokens": tokens}


HTML |= {Results: lambda results: _fragment(page_of_results(results)), TokenScores: scores_html}
