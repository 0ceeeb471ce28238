"""The figures of a `critical` run, by hand: statuses, share with its interval, positions, kinds of token, costs."""

from __future__ import annotations

from typing import Any

import pytest

from forkpoint.curves.critical_tokens import describe, token_kind
from forkpoint.proportions import wilson

PIECES = [" ", "7", " +", " 12", "=", " eggs", ".", ""]


def row(problem: str = "p", index: int | None = None, **changes: Any) -> dict[str, Any]:
    """A wrong response of eight tokens, with its critical token or without."""
    return {
        "problem_id": problem, "correct": False, "status": "none" if index is None else "critical",
        "critical_index": index, "tokens": PIECES, "token_ids": [*range(8)],
        "cause": "slip", "rollouts": 64, "tokens_generated": 500, "brute_force_tokens": 9000,
    } | changes  # fmt: skip


@pytest.mark.parametrize(("kind", "pieces"), [
    ("number", ["7", " 12", "3.5", "²", "x2", "1st", "-4", "٣"]),
    ("operator", ["+", " -", "*", " =", "/", "×", "÷", "≤", "<<", "%", "+(", "**"]),
    ("word", ["The", " eggs", "n", "é", "数", "'s", "don't", "x="]),
    ("punctuation", [".", ", ", "?\n", "(", "\\", "$", '"', "…"]),
    ("space", [" ", "\n", "\n\n", "\t", "\u00a0"]),
    ("no text", [""]),
])  # fmt: skip
def test_kinds_of_tokens(kind, pieces):
    assert [token_kind(piece) for piece in pieces] == [kind] * len(pieces)


def test_the_figures_by_hand():
    found = describe([
        row("a", 1),
        row("b", 3, rollouts=128),
        row("c", 2),
        row("d", 7, tokens_generated=1, finish_reason="length"),
        row("e", status="undecided", cause="boxes", critical_index=7, brute_force_tokens=0, finish_reason="length"),
        row("a", correct=True, rollouts=0),
    ])  # fmt: skip
    assert found.pop("share_critical_ci95") == pytest.approx(list(wilson(4, 5)), abs=2e-6)
    assert found == {
        "n_trajectories": 6, "n_wrong": 5, "statuses": {"critical": 4, "none": 1, "undecided": 1},
        "share_critical": 0.8, "cut_off": 2, "critical_at_cut": 1, "success_bias": None,
        "critical_position": {"mean": 3.25, "median": 2.5, "relative_mean": round(13 / 28, 4)},
        "causes": [{"cause": "boxes", "wrong": 1, "critical": 0}, {"cause": "slip", "wrong": 4, "critical": 4}],
        "token_kinds": [  # the most frequent first, then by name
            {"kind": "number", "count": 2}, {"kind": "no text", "count": 1}, {"kind": "operator", "count": 1},
        ],
        "rollouts": 128 + 4 * 64, "tokens_generated": 5 * 500 + 1, "brute_force_tokens": 5 * 9000,
    }  # fmt: skip


def test_responses_to_one_problem_count_as_dependent():
    """Four alike responses to each of two problems say what two say; to eight problems, what eight do."""
    together = describe([row(p, 3 if p == "a" else None) for p in "ab" for _ in range(4)])
    assert together["share_critical"] == 0.5
    assert together["share_critical_ci95"] == pytest.approx(list(wilson(1, 2)), abs=1e-6)
    apart = describe([row(f"{p}{i}", 3 if p == "a" else None) for p in "ab" for i in range(4)])
    assert apart["share_critical_ci95"] == pytest.approx(list(wilson(4, 8)), abs=1e-6)


def test_where_there_is_little_to_describe():
    one = describe([row(index=0, tokens=["7"], token_ids=[5])])
    assert one["critical_position"] == {"mean": 0.0, "median": 0.0, "relative_mean": 0.0}
    for rows in ([], [row(correct=True)]):
        found = describe(rows)
        assert (found["n_wrong"], found["token_kinds"]) == (0, [])
        assert found["share_critical"] is found["share_critical_ci95"] is found["critical_position"] is None
    without = describe([row("a"), row("b"), row("c", status="undecided")])
    assert without["share_critical_ci95"] == pytest.approx([0, 0.561497], abs=2e-6)  # z² / (3 + z²)
    assert (without["share_critical"], without["critical_position"]) == (0, None)
