"""The replacement experiment: true probabilities in both arms, right means and intervals in its table."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy import stats
from toy_engine import NEXT, ToyEngine, ToyTokenizer, success_after, trajectory

from forkpoint.curves.replacement import Row, replace_critical, replacement_table
from forkpoint.curves.rollouts import policies
from forkpoint.engines import Engine
from forkpoint.lab.problem_generator import load_problems
from forkpoint.trajectories.rows import sample_trajectories
from forkpoint.types import Sampling

FIVE = Sampling(max_tokens=5)


def rows_of(names: int, c: int = 2) -> list[Row]:
    engine = ToyEngine()
    many = [trajectory((2, 1, 3, 3, 0), f"t{i}") for i in range(names)]
    found = list(zip(many, policies(engine, many, FIVE), [c] * names, strict=True))
    rows = list(replace_critical(engine, found, FIVE))
    assert [row["id"] for row in rows] == [one.id for one in many]
    assert sum(row["tokens_generated"] for row in rows) == engine.written
    return rows


def test_both_arms_have_the_true_probabilities() -> None:
    rows = rows_of(12)
    before, other = (2, 1), np.where(np.arange(5) == 3, 0, NEXT[1]) / (1 - NEXT[1, 3])
    tokens = Counter(r["token_id"] for row in rows for r in row["replaced"])
    kept = np.flatnonzero(other)
    assert set(tokens) == set(kept.tolist())
    assert stats.chisquare([tokens[int(v)] for v in kept], 12 * 64 * other[kept]).pvalue > 0.01
    rescued = sum(p * success_after((*before, v), 5) for v, p in enumerate(other))
    for arm, p in (("without", success_after((*before, 3), 5)), ("with", rescued)):
        assert stats.binomtest(sum(row[arm] for row in rows), 12 * 64, p).pvalue > 0.01
    for row in rows:
        assert (row["problem_id"], row["critical_index"], row["n"], row["untruncated"]) == ("toy", 2, 64, False)
        assert row["with"] == sum(r["correct"] for r in row["replaced"])
        assert all(r["token"] == ToyTokenizer().decode([r["token_id"]]) for r in row["replaced"])
    assert all(r["correct"] for row in rows for r in row["replaced"] if r["token_id"] == 0)  # "2 1" ends right


def test_the_last_token_can_be_replaced() -> None:
    """Not replacing it then leaves the trajectory as it is: wrong, and without cost."""
    (row,) = rows_of(1, c=4)
    assert row["without"] == 0
    assert {r["token_id"] for r in row["replaced"]} == {1, 2, 3, 4}
    assert row["with"] == sum(r["token_id"] == 1 for r in row["replaced"]) > 0
    assert row["tokens_generated"] == 0


def test_without_alternative_the_untruncated_distribution_gives_one(lab: Engine) -> None:
    """Greedy decoding leaves one token everywhere."""
    greedy = Sampling(temperature=0, max_tokens=80)
    (one,) = sample_trajectories(lab, load_problems(limit=1), greedy, n=1, prompt="plain")
    (policy,) = policies(lab, [one], greedy)
    (row,) = replace_critical(lab, [(one, policy, 0)], greedy, n=16)
    assert row["untruncated"]
    assert row["n"] == len(row["replaced"]) == 16
    assert one.token_ids[0] not in {r["token_id"] for r in row["replaced"]}
    assert len({r["token_id"] for r in row["replaced"]}) > 1
    assert row["without"] == (16 if one.correct else 0)


def row(problem: str, without: int, replaced: int, n: int = 8) -> Row:
    return {"problem_id": problem, "n": n, "without": without, "with": replaced}


def test_the_table_is_the_mean_pass_at_k() -> None:
    rows = [row("a", 0, 3), row("a", 1, 8), row("b", 0, 0), row("b", 2, 1)]
    table = replacement_table(rows)
    assert [entry["k"] for entry in table] == list(range(1, 9))
    for entry in table:
        for arm in ("without", "with"):
            each = [1 - math.comb(8 - r[arm], entry["k"]) / math.comb(8, entry["k"]) for r in rows]
            assert entry[arm] == pytest.approx(np.mean(each), abs=1e-6)
            assert entry[f"{arm}_ci95"][0] <= entry[arm] <= entry[f"{arm}_ci95"][1]
    assert replacement_table(rows) == table
    assert replacement_table([]) == []
