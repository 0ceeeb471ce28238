"""What a `critical` run found, in figures: statuses, share, position, kinds of token, costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forkpoint.proportions import clustered_interval

Row = Mapping[str, Any]
STATUSES = ("critical", "none", "undecided")
COSTS = ("rollouts", "tokens_generated", "brute_force_tokens")
OPERATORS = frozenset("+-*/=^%<>×÷·−≤≥≠≈±√")


def describe(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of rows of critical.jsonl.

    `share_critical` is that of the wrong trajectories that have a critical token, each problem counting the same, with
    a 95% interval that takes trajectories of one problem as dependent; null without wrong ones. `critical_position`
    counts tokens from 0, and `relative_mean` is the mean of index / (length - 1). `token_kinds` are those of the
    critical tokens, most frequent first. `success_bias` bounds, over all prefixes, how far success may lie from the
    truth for the tokens that the engine cannot name; null where it names all. `cut_off` counts trajectories that the
    length limit cut off, `critical_at_cut` those of them whose critical token is their last, where it may only mean
    that no room was left.
    """
    wrong = [row for row in rows if not row["correct"]]
    critical = [row for row in wrong if row["status"] == "critical"]
    statuses = Counter(row["status"] for row in rows)
    kinds = Counter(token_kind(row["tokens"][row["critical_index"]]) for row in critical)
    return {
        "n_trajectories": len(rows),
        "n_wrong": len(wrong),
        "statuses": {status: statuses[status] for status in STATUSES},
        **_share(wrong),
        "critical_position": _position(critical),
        "cut_off": sum(map(_is_cut, rows)),
        "critical_at_cut": sum(_is_cut(row) and row["critical_index"] == len(row["token_ids"]) - 1 for row in critical),
        "success_bias": _bias(rows),
        "token_kinds": [{"kind": kind, "count": count} for kind, count in sorted(kinds.items(), key=_often)],
        **{cost: sum(row[cost] for row in rows) for cost in COSTS},
    }


def token_kind(piece: str) -> str:
    """number, operator, word, punctuation, space, or no text (an end, a part of a character), by its characters."""
    text = piece.strip()
    if not text:
        return "space" if piece else "no text"
    if any(c.isdigit() for c in text):
        return "number"
    if any(c.isalpha() for c in text):
        return "word"
    return "operator" if any(c in OPERATORS for c in text) else "punctuation"


def _share(wrong: Sequence[Row]) -> dict[str, Any]:
    by_problem = defaultdict(list)
    for row in wrong:
        by_problem[row["problem_id"]].append(float(row["status"] == "critical"))
    found = list(by_problem.values())
    share = round(float(np.mean([np.mean(some) for some in found])), 6) if found else None
    interval = [round(end, 6) for end in clustered_interval(found)] if found else None
    return {"share_critical": share, "share_critical_ci95": interval}


def _position(critical: Sequence[Row]) -> dict[str, float] | None:
    if not critical:
        return None
    at = np.array([row["critical_index"] for row in critical], dtype=np.float64)
    last = np.array([max(1, len(row["token_ids"]) - 1) for row in critical])
    return {
        "mean": round(float(at.mean()), 2),
        "median": float(np.median(at)),
        "relative_mean": round(float((at / last).mean()), 4),
    }


def _is_cut(row: Row) -> bool:
    return bool(row.get("finish_reason") == "length")


def _bias(rows: Sequence[Row]) -> dict[str, float] | None:
    bounds = [bound for row in rows for bound in row.get("success_bias") or ()]
    return {"mean": round(float(np.mean(bounds)), 6), "largest": max(bounds)} if bounds else None


def _often(kind: tuple[str, int]) -> tuple[int, str]:
    return -kind[1], kind[0]
