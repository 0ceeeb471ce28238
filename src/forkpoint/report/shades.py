"""How a response is headed and its tokens shaded where no browser does it: in a terminal and in a notebook.

Shades follow the rule in templates/text.js.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from forkpoint.report.content import Row
from forkpoint.report.shown_scores import CATEGORIES, SCORES, Category, ShownScore

SHADES = 10  # from no shade (0) to the strongest (9)


@dataclass(frozen=True, slots=True)
class Shade:
    """0 (none) to 9 (strongest), on the far side of a two-sided score `below`; of a category the number of its name."""

    strength: int
    below: bool = False


def heading_of(row: Row) -> str:
    """What is known of a response in a line: its id, verdict, critical token, remark."""
    words = [str(row["id"])]
    correct, answer, gold = (row.get(name) for name in ("correct", "answer", "gold"))
    if (correct, answer, gold) != (None, None, None):  # a plain document has none
        said = answer or "no answer"
        ungraded = f"answer {said}, not graded" if answer else said
        verdict = ungraded if correct is None else f"{'✓' if correct else '✗'} {said}"
        words.append(f"{verdict}, gold {'not known' if gold is None else gold}")
    if row.get("finish_reason") == "length":
        words.append("cut off at the length limit")
    if row.get("critical_index") is not None:
        found = "undecided, candidate" if row.get("status") == "undecided" else "critical token"
        words.append(f"{found} at {row['critical_index']}")
    return ", ".join([*words, *([row["note"]] if row.get("note") else [])])


def spelled_of(row: Row) -> list[str]:
    """The texts of a row's tokens; the end of a response is named."""
    texts = list(row["tokens"])
    if texts and not texts[-1] and row.get("finish_reason") == "stop":
        texts[-1] = "⟨end⟩"
    return texts


def scores_of(row: Row) -> list[ShownScore | Category]:
    """The scores and categories of which a row holds a value, in the order in which the viewer offers them."""
    return [one for one in (*CATEGORIES, *SCORES) if any(value is not None for value in values_of(row, one.key))]


def is_finite(value: float | None) -> bool:
    """Whether it is a number at all, and no infinity."""
    return value is not None and math.isfinite(value)


def values_of(row: Row, key: str) -> list[Any]:
    """A number (or a category's name) a token, None where there is none; empty where the row has no such score."""
    if key == "success":
        return [value if is_finite(value) else None for value in (row.get("success") or [])[1:]]
    if key == "drop":
        curve = row.get("success") or []
        return [a - b if is_finite(a) and is_finite(b) else None for a, b in pairwise(curve)]
    return [value if isinstance(value, str) or is_finite(value) else None for value in row.get(key) or ()]


def shade(value: float | None, light: float, strong: float, *, two_sided: bool = False) -> Shade:
    """The shade of a value between that without shade and that of the strongest."""
    if value is None:
        return Shade(0)
    below = two_sided and value < light
    far = int((value - light) / (strong - light) * SHADES * (-1 if below else 1) // 1)
    return Shade(max(0, min(SHADES - 1, far)), below)


def shades_of(row: Row, score: ShownScore) -> list[Shade]:
    """A shade a token."""
    return [shade(v, score.light, score.strong, two_sided=score.two_sided) for v in values_of(row, score.key)]


def names_of(row: Row, category: Category) -> list[str | None]:
    """A category's name a token, None where it has none or the plain one."""
    plain: Sequence[str] = category.values[: category.plain]
    names = [category.values[v] if isinstance(v, int) else v for v in values_of(row, category.key)]
    return [None if name in plain else name for name in names]
