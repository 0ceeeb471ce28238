"""What the token viewer is given: trajectories with a number a token, as compact JSON, and how to shade by each score.

The viewer itself is the SCRIPTS in templates/; any page may embed it with viewer.html.j2. A trajectory may as well be
a plain document, without question, answer or success. It knows these keys only, so rows may hold others. Numbers keep
four significant digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forkpoint.report.rendering import script_json
from forkpoint.selective.dynamics import CLASSES

STYLES = ("base.css", "viewer.css")
SCRIPTS = ("dom.js", "curve.js", "panel.js", "text.js", "viewer.js")
BYTES_SHOWN = 20_000_000  # of trajectories: keeps the page under 25 MB

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Score:
    """A score that tokens can be shaded by: `light` is the value without shade, `strong` that of the strongest shade.

    A `strong` of None stands for the largest value in the run. "success" and "drop" are read off the curve, every
    other key names a column of the rows. A `two_sided` score is shaded on both sides of `light`, in two hues, as
    strongly at as far a distance.
    """

    key: str
    label: str
    light: float
    strong: float | None
    two_sided: bool = False


@dataclass(frozen=True, slots=True)
class Category:
    """A column of names, or of whole numbers that stand for the `values`, a colour each but for the first `plain`.

    Names that are not among the values follow them, as they come in the rows.
    """

    key: str
    label: str
    values: tuple[str, ...] = ()
    plain: int = 0


LOSS, CHANGE = 5, 2  # nats of the strongest shade: the same of every loss and run, so that they can be compared
SCORES = (
    Score("success", "success after the token", 1, 0),
    Score("drop", "drop of success at the token", 0, 0.5),
    Score("policy_prob", "policy probability π", 1, 0),
    Score("entropy", "entropy in nats", 0, None),
    Score("s", "contrastive score s", 1, 0),
    Score("gap", "gap between the two likeliest", 1, 0),
    Score("loss", "loss in nats", 0, LOSS),
    Score("reference_loss", "reference loss in nats", 0, LOSS),
    Score("excess_loss", "excess loss in nats", 0, CHANGE, two_sided=True),
    Score("reference_entropy", "reference entropy in nats", 0, LOSS),
    Score("delta", "change of loss Δ in nats", 0, CHANGE, two_sided=True),
)
COLUMNS = (
    "policy_prob", "logprob", "entropy", "gap", "s",
    "loss", "reference_loss", "excess_loss", "reference_entropy", "delta",
)  # fmt: skip
CATEGORIES = (
    Category("class", "class of dynamics", CLASSES),
    Category("selected", "selected", ("left out", "selected"), plain=1),
    Category("noise", "noise"),
)


@dataclass(frozen=True, slots=True)
class ViewerData:
    """JSON that is safe inside a <script> element, and how many trajectories it holds out of how many."""

    json: str
    shown: int
    total: int


def viewer_data(rows: Iterable[Row]) -> ViewerData:
    """The viewer's data for the first rows, as many as a page holds."""
    parts: list[str] = []
    largest: dict[str, float] = {}
    numbers = {category.key: {name: i for i, name in enumerate(category.values)} for category in CATEGORIES}
    size = total = 0
    for total, row in enumerate(rows, 1):
        if total > len(parts) + 1:
            continue  # the page is full: only count
        trajectory = _compact(row, numbers)
        part = script_json(trajectory)
        size += len(part.encode())
        if parts and size > BYTES_SHOWN:
            continue
        parts.append(part)
        for key, values in (("success", trajectory.get("success", [])), *trajectory["columns"].items()):
            largest[key] = max([largest.get(key, -math.inf), *(value for value in values if value is not None)])
    scores = [*_categories(largest, numbers), *_scores(largest)]
    text = f'{{"scores":{script_json(scores)},"trajectories":[{",".join(parts)}]}}'
    return ViewerData(text, len(parts), total)


def _scores(largest: Mapping[str, float]) -> list[dict[str, Any]]:
    """The scores of which the trajectories hold a value, given the largest value of each column."""
    scores = []
    for score in SCORES:
        top = largest.get("success" if score.key == "drop" else score.key, -math.inf)
        if top > -math.inf:
            strong = score.strong if score.strong is not None else top if top > score.light else score.light + 1
            two_sided = {"two_sided": True} if score.two_sided else {}
            scores.append({"key": score.key, "label": score.label, "light": score.light, "strong": strong, **two_sided})
    return scores


def _categories(largest: Mapping[str, float], numbers: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """The categories of which the trajectories hold a value, each with the names that its numbers stand for."""
    return [
        {"key": c.key, "label": c.label, "values": list(numbers[c.key]), "plain": c.plain}
        for c in CATEGORIES
        if largest.get(c.key, -math.inf) > -math.inf
    ]


def _compact(row: Row, numbers: Mapping[str, dict[str, int]]) -> dict[str, Any]:
    """One trajectory as the viewer reads it; absent values and columns are left out.

    `numbers` holds the number of every name of each category; names that come first here are added to it.
    """
    kept = {key: row.get(key) for key in ("question", "gold", "answer", "correct", "status", "rollouts")}
    intervals = [pair or (None, None) for pair in row.get("success_ci") or ()]
    kept |= {
        "finish": row.get("finish_reason"),
        "generated": row.get("tokens_generated"),
        "critical": row.get("critical_index"),
        "success": _shorts(row.get("success")),
        "low": _shorts(low for low, _ in intervals),
        "high": _shorts(high for _, high in intervals),
        "columns": {key: _shorts(row[key]) for key in COLUMNS if row.get(key)}
        | {key: [_number(cell, known) for cell in row[key]] for key, known in numbers.items() if row.get(key)},
        "alternatives": [_alternative(a) for a in row.get("alternatives") or ()],
    }
    known = {key: value for key, value in kept.items() if value not in (None, [])}
    name = row["id"].encode(errors="replace").decode()  # half a surrogate pair cannot be part of a link
    return known | {"id": name, "ids": row["token_ids"], "tokens": row["tokens"]}


def _alternative(row: Row) -> list[Any]:
    """[position, token id, token, policy probability, share of rollouts that ended correct, rollouts]."""
    prob, success = _short(row.get("policy_prob")), _short(row.get("success"))
    return [row["position"], row["token_id"], row["token"], prob, success, row.get("n") or 0]


def _number(cell: str | int | None, known: dict[str, int]) -> int | None:
    """The number that stands for a name; a number stands for itself."""
    return known.setdefault(cell, len(known)) if isinstance(cell, str) else None if cell is None else int(cell)


def _shorts(values: Iterable[Any] | None) -> list[float | int | None]:
    return [_short(value) for value in values or ()]


def _short(value: Any) -> float | int | None:
    """A number in few characters; None where there is none."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() else short
