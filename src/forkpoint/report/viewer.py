"""The data of the token viewer: texts with a number a token, as compact JSON, and how to shade by each score.

The viewer itself is the SCRIPTS in templates/. A row is a response, or a plain document without question, answer or
success; it needs `id`, `token_ids` and `tokens`. It may have the keys of critical.jsonl, any of the COLUMNS and
CATEGORIES, and

- `group`: rows that follow each other with the same one (the responses to a problem) share an entry of the list;
- `label`: what this one is among them, `picked`: whether it is the one that counts, `note`: a remark on it, else the
  `cause` of its error;
- `tags`: names by which the list can be narrowed, where `status` does not say enough; `marks`: the verdicts, true or
  false, that head the group's entry. Both are read from a group's first row;
- `span`: [start, end) of the tokens that spell the answer.

Other keys are left out. Numbers keep four significant digits. Texts of tokens are kept once for all rows.
"""

from __future__ import annotations

import json
import math
import re
from collections import ChainMap
from collections.abc import Iterable, Iterator, MutableMapping
from copy import deepcopy
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from forkpoint.jsonl import Row, is_number, shortened, text, tokens_of
from forkpoint.report.shades import CATEGORIES, COLUMNS, SCORES
from forkpoint.tasks.data_sets import read_rows
from forkpoint.types import UserError

SCRIPTS = ("curve.js", "panel.js", "text.js", "list.js", "viewer.js")  # after dom.js
BYTES_SHOWN = 20_000_000  # of rows: keeps the page under 25 MB
_UNSAFE_IN_SCRIPT = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
Names = dict[str, dict[str, int]]  # of each category, with the number of each


def token_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSON Lines file for the token viewer; UserError at the first that is broken."""
    for where, row in read_rows(path):
        yield checked_row(row, where)


def checked_row(row: Row, where: str) -> Row:
    """The row, if its tokens, columns and categories are lists of equal length; a UserError otherwise."""
    n = len(tokens_of(row, where)[0])
    names = {category.key: range(len(category.values)) for category in CATEGORIES}
    for key in (*COLUMNS, *names):
        values = row.get(key)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != n:
            raise UserError(f"{where}: {key} must be a list with one value for each of the {n} tokens")
        for value in values:
            fits = isinstance(value, str) or value in names[key] if key in names else is_number(value)
            if value is not None and not fits:
                raise UserError(f"{where}: {key} holds {shortened(value)}")
    critical = row.get("critical_index")
    if critical is not None and not (isinstance(critical, int) and 0 <= critical < n):
        raise UserError(f"{where}: critical_index must be one of the {n} tokens, but is {critical!r}")
    note = row.get("note") or (f"first error: {row['cause']}" if row.get("cause") else "")
    return {**row, "id": text(row, "id", where), "note": note}


def heading_of(row: Row) -> str:
    """What is known of a response in a line: its id, verdict, critical token, remark."""
    words = [str(row["id"])]
    correct, answer, gold = (row.get(name) for name in ("correct", "answer", "gold"))
    if (correct, answer, gold) != (None, None, None):  # a plain document has none
        verdict = answer or "no answer"
        if correct is not None:
            verdict = f"{'✓' if correct else '✗'} {verdict}"
        elif answer:
            verdict = f"answer {answer}, not graded"
        words.append(f"{verdict}, gold {'not known' if gold is None else gold}")
    if row.get("finish_reason") == "length":
        words.append("cut off at the length limit")
    if row.get("critical_index") is not None:
        label = "undecided, candidate" if row.get("status") == "undecided" else "critical token"
        words.append(f"{label} at {row['critical_index']}")
    return ", ".join([*words, *([row["note"]] if row.get("note") else [])])


def spelled_of(row: Row) -> list[str]:
    """The texts of a row's tokens; the end of a response is named."""
    texts = list(row["tokens"])
    if texts and not texts[-1] and row.get("finish_reason") == "stop":
        texts[-1] = "⟨end⟩"
    return texts


class ViewerData(NamedTuple):
    """JSON that is safe inside a <script> element, and how many rows it holds out of how many."""

    json: str
    shown: int
    total: int


def viewer_data(rows: Iterable[Row]) -> ViewerData:
    """The viewer's data for the first groups of rows, as many as a page holds; the first one whatever its size."""
    parts: list[str] = []
    texts: dict[int, str] = {}
    names: Names = {c.key: {name: i for i, name in enumerate(c.values)} for c in CATEGORIES}
    known: set[str] = set()  # columns that hold a value
    total, size, is_full = 0, 0, False
    for _, group in groupby(enumerate(rows), key=lambda pair: pair[1].get("group", pair[0])):
        members = [row for _, row in group]
        total += len(members)
        if is_full:
            continue
        texts_then: ChainMap[int, str] = ChainMap({}, texts)
        names_then = deepcopy(names)
        compact = [_compact(row, texts_then, names_then, first=i == 0) for i, row in enumerate(members)]
        written = [_script_json(row) for row in compact]
        size += sum(len(part.encode()) for part in written)
        if is_full := bool(parts) and size > BYTES_SHOWN:
            continue
        parts += written
        texts |= texts_then.maps[0]
        names = names_then
        for row in compact:
            columns = {"success": row.get("success", []), **row.get("columns", {})}
            known |= {key for key, values in columns.items() if any(value is not None for value in values)}
    scores = [asdict(c) | {"values": list(names[c.key])} for c in CATEGORIES if c.key in known]
    scores += [
        {name: value for name, value in asdict(s).items() if value is not False}
        for s in SCORES if ("success" if s.key == "drop" else s.key) in known
    ]  # fmt: skip
    head = f'"scores":{_script_json(scores)},"texts":{_script_json(texts)}'
    return ViewerData(f'{{{head},"rows":[{",".join(parts)}]}}', len(parts), total)


def _compact(row: Row, texts: MutableMapping[int, str], names: Names, *, first: bool) -> dict[str, Any]:
    """One row as the viewer reads it, without absent values and, but for the first, what a group's first row says.

    New ids are added to the texts, new names to those of their category. A row with another text of an id than before
    keeps its own tokens.
    """
    kept = {key: row.get(key) for key in ("answer", "correct", "status", "rollouts", "label", "picked", "note", "span")}
    if first:
        kept |= {key: row.get(key) for key in ("question", "gold", "tags", "marks")}
    intervals = [pair or (None, None) for pair in row.get("success_ci") or ()]
    same = [texts.setdefault(token, own) == own for token, own in zip(row["token_ids"], row["tokens"], strict=True)]
    kept |= {
        "group": row.get("group"),
        "finish": row.get("finish_reason"),
        "generated": row.get("tokens_generated"),
        "critical": row.get("critical_index"),
        "success": _shorts(row.get("success")),
        "low": _shorts(low for low, _ in intervals),
        "high": _shorts(high for _, high in intervals),
        "columns": {key: _shorts(row[key]) for key in COLUMNS if row.get(key)}
        | {key: [_number(cell, numbers) for cell in row[key]] for key, numbers in names.items() if row.get(key)},
        "alternatives": [
            [
                a["position"],
                a["token_id"],
                a["token"],
                *_shorts([a.get("policy_prob"), a.get("success")]),
                a.get("n") or 0,
            ]
            for a in row.get("alternatives") or ()
        ],
        "tokens": None if all(same) else row["tokens"],
    }
    known = {key: value for key, value in kept.items() if value not in (None, [], {})}
    return known | {"id": row["id"], "ids": row["token_ids"]}


def _number(cell: str | int | None, numbers: dict[str, int]) -> int | None:
    """The number that stands for a name; a number stands for itself."""
    return numbers.setdefault(cell, len(numbers)) if isinstance(cell, str) else None if cell is None else int(cell)


def _shorts(values: Iterable[Any] | None) -> list[float | int | None]:
    """Numbers in few characters; None where there is none."""
    shorts: list[float | int | None] = []
    for value in values or ():
        short = float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
        shorts.append(int(short) if short is not None and short.is_integer() else short)
    return shorts


def _script_json(value: Any) -> str:
    """Compact JSON text that is safe inside a <script> element, whatever its strings hold. NaN is refused."""
    encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE_IN_SCRIPT.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded)
