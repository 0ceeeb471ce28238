"""What a notebook shows of runs, results and scores: tables, charts and shaded texts, without a script."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from itertools import islice
from typing import Any

from forkpoint.report.content import Page, Row
from forkpoint.report.rendering import render_fragment
from forkpoint.report.scores import Score
from forkpoint.report.shades import heading_of, scores_of, shades_of, strongest_of, values_of
from forkpoint.types import TokenScores

RESPONSES = 3  # of a page


def page_html(page: Page) -> str:
    """A page's sentences, tables and charts, and its first responses."""
    rows = islice(page.tokens.rows(), RESPONSES) if page.tokens else ()
    return render_fragment(page=page, responses=[_response(row) for row in rows])


def results_html(results: Mapping[str, Any]) -> str:
    """The sentences, tables and charts of what a run returned."""
    from forkpoint.report.page import PAGES

    name = PAGES[str(results.get("verb", "eval")).split(" ")[0]]
    page: Page = import_module(f"forkpoint.report.pages.{name}").page_of_summary(results)
    return render_fragment(page=page, responses=[])


def scores_html(scores: TokenScores) -> str:
    """A trajectory's text, shaded by each of its columns that the token viewer knows; a pointer shows all values.

    Without texts the tokens are their ids.
    """
    t = scores.trajectory
    tokens = scores.tokens or [f"⟨{token}⟩" for token in t.token_ids]
    row: dict[str, Any] = {
        "id": t.id, "question": t.problem.question, "gold": t.problem.answer, "answer": t.answer, "correct": t.correct,
        "token_ids": t.token_ids, "tokens": tokens, **{k: v.tolist() for k, v in scores.columns.items()},
    }  # fmt: skip
    return render_fragment(page=None, responses=[_response(row, every=True)])


def _response(row: Row, *, every: bool = False) -> dict[str, Any]:
    """A response with its first score, or every one, as the template takes it."""
    known = [score for score in scores_of(row) if isinstance(score, Score)]
    numbers = {score.label: values_of(row, score.key) for score in known}
    texts = []
    for score in known if every else known[:1]:
        shades = shades_of(row, score)
        tokens = [
            {
                "text": token or "◌", "strength": shade.strength, "below": shade.below,
                "critical": i == row.get("critical_index"),
                "title": ", ".join(f"{label} {v[i]:.4g}" for label, v in numbers.items() if v[i] is not None),
            }
            for i, (token, shade) in enumerate(zip(row["tokens"], shades, strict=True))
        ]  # fmt: skip
        ends = f"no shade at {score.light:g}, the strongest at {strongest_of(row, score):.3g}"
        texts.append({"label": f"{score.label}: {ends}", "tokens": tokens})
    return {"heading": heading_of(row), "question": row.get("question"), "texts": texts}
