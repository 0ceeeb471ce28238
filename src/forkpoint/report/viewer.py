"""What the token viewer is given: texts with a number a token, as compact JSON, and how to shade by each score.

The viewer itself is the SCRIPTS in templates/. A row is a response, or a plain document without question, answer or
success; it needs `id`, `token_ids` and `tokens`. It may have the keys of critical.jsonl, any of the COLUMNS and
CATEGORIES, and

- `group`: rows that follow each other with the same one (the responses to a problem) share an entry of the list;
- `label`: what this one is among them, `picked`: whether it is the one that counts, `note`: a remark on it;
- `tags`: names by which the list can be narrowed, where `status` does not say enough; `marks`: the verdicts, true or
  false, that head the group's entry. Both are read from a group's first row;
- `span`: [start, end) of the tokens that spell the answer.

Other keys are left out. Numbers keep four significant digits. Texts of tokens are kept once for all rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from forkpoint.report.content import Row
from forkpoint.report.rendering import script_json
from forkpoint.report.shown_scores import CATEGORIES, COLUMNS, SCORES

SCRIPTS = ("curve.js", "panel.js", "text.js", "list.js", "viewer.js")  # after dom.js
BYTES_SHOWN = 20_000_000  # of rows: keeps the page under 25 MB


@dataclass(frozen=True, slots=True)
class ViewerData:
    """JSON that is safe inside a <script> element, and how many rows it holds out of how many."""

    json: str
    shown: int
    total: int


def viewer_data(rows: Iterable[Row]) -> ViewerData:
    """The viewer's data for the first groups of rows, as many as a page holds; the first one whatever its size."""
    page = _Page()
    total = 0
    for _, group in groupby(enumerate(rows), key=lambda one: one[1].get("group", one[0])):
        members = [row for _, row in group]
        total += len(members)
        if not page.full:
            page.add(members)
    return ViewerData(page.text(), len(page.parts), total)


class _Page:
    """The rows so far, as JSON, and what they share: texts of tokens, names of categories, known columns."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.bytes = 0
        self.full = False
        self.texts: dict[int, str] = {}
        self.known: set[str] = set()
        self.numbers = {c.key: {name: i for i, name in enumerate(c.values)} for c in CATEGORIES}

    def add(self, group: Sequence[Row]) -> None:
        """Take a group in, whole, or find the page full."""
        numbers = {key: dict(names) for key, names in self.numbers.items()}
        compact = [_compact(row, numbers, first=i == 0) for i, row in enumerate(group)]
        texts: dict[int, str] = {}
        for row, short in zip(group, compact, strict=True):
            if self._spelled_otherwise(row, texts):
                short["tokens"] = row["tokens"]
        parts = [script_json(short) for short in compact]
        size = sum(len(part.encode()) for part in parts)
        if self.parts and self.bytes + size > BYTES_SHOWN:
            self.full = True
            return
        self.parts += parts
        self.bytes += size
        self.numbers = numbers
        self.texts |= texts
        for short in compact:
            columns = {"success": short.get("success", []), **short.get("columns", {})}
            self.known |= {key for key, values in columns.items() if any(value is not None for value in values)}

    def _spelled_otherwise(self, row: Row, texts: dict[int, str]) -> bool:
        """Whether a token's text is another one than its id has had so far; new ids are added to the texts."""
        found = False
        for token, text in zip(row["token_ids"], row["tokens"], strict=True):
            found |= (self.texts.get(token) or texts.setdefault(token, text)) != text
        return found

    def text(self) -> str:
        """The JSON of all."""
        scores = script_json([*_categories(self.known, self.numbers), *_scores(self.known)])
        texts = script_json({str(token): text for token, text in self.texts.items()})
        return f'{{"scores":{scores},"texts":{texts},"rows":[{",".join(self.parts)}]}}'


def _scores(known: Set[str]) -> list[dict[str, Any]]:
    """The scores of which the rows hold a value."""
    return [
        {"key": s.key, "label": s.label, "light": s.light, "strong": s.strong}
        | ({"two_sided": True} if s.two_sided else {})
        for s in SCORES
        if ("success" if s.key == "drop" else s.key) in known
    ]


def _categories(known: Set[str], numbers: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """The categories of which the rows hold a value, each with the names that its numbers stand for."""
    return [
        {"key": c.key, "label": c.label, "values": list(numbers[c.key]), "plain": c.plain}
        for c in CATEGORIES
        if c.key in known
    ]


def _compact(row: Row, numbers: Mapping[str, dict[str, int]], *, first: bool) -> dict[str, Any]:
    """One row as the viewer reads it; absent values and columns are left out, as is what the group's first row says.

    `numbers` holds the number of every name of each category; names that come first here are added to it.
    """
    kept = {key: row.get(key) for key in ("answer", "correct", "status", "rollouts", "label", "picked", "note", "span")}
    if first:
        kept |= {key: row.get(key) for key in ("question", "gold", "tags", "marks")}
    intervals = [pair or (None, None) for pair in row.get("success_ci") or ()]
    kept |= {
        "group": row.get("group"),
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
    known = {key: value for key, value in kept.items() if value not in (None, [], {})}
    return known | {"id": row["id"], "ids": row["token_ids"]}


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
